"""Read CUB-200-2011, Cars-196 and Stanford Online Products as their authors publish them.

The labels are the sets' own class numbers, counted from 0, so that the class-disjoint halves are
the published ones.
"""

import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from wpm.data.index import DataSource, ImageIndex
from wpm.data.published_sets import CARS196, CARS_MAT, CUB200, SOP, PublishedSet
from wpm.data.published_trees import check_files, open_tree
from wpm.errors import UserError


@dataclass(frozen=True)
class _Listing:
    """What a set's own files say.

    Attributes:
        numbers: the class number of every image, by path.
        names: the name of every class, by number.
    """

    numbers: dict[str, int]
    names: dict[int, str]


def load_cub200(source: DataSource, fetch: bool, published: PublishedSet = CUB200) -> ImageIndex:
    """List CUB-200-2011; the arguments and errors are those of `load_index`."""
    top, _ = open_tree(source, fetch, published)
    class_file = top / "image_class_labels.txt"
    classes = {image: _number(text, class_file) for image, text in _numbered(class_file).items()}
    numbers = {}
    for image, path in _numbered(top / "images.txt").items():
        if image not in classes:
            raise UserError(f"{class_file}: has no class for image {image}; get it again")
        numbers[f"images/{path}"] = classes[image]
    names = _numbered(top / "classes.txt")
    return _build_index(published, top, _Listing(numbers, names), source.skip_unreadable)


def load_cars196(source: DataSource, fetch: bool, published: PublishedSet = CARS196) -> ImageIndex:
    """List Cars-196; the arguments and errors are those of `load_index`."""
    top, layout = open_tree(source, fetch, published)
    listing = _read_cars_mat(top) if layout == CARS_MAT else _read_cars_kaggle(top)
    names = {number: f"{number:03}.{name}" for number, name in listing.names.items()}
    return _build_index(published, top, _Listing(listing.numbers, names), source.skip_unreadable)


def load_sop(source: DataSource, fetch: bool, published: PublishedSet = SOP) -> ImageIndex:
    """List Stanford Online Products; the arguments and errors are those of `load_index`."""
    top, _ = open_tree(source, fetch, published)
    numbers, names = {}, {}
    for half in published.layouts[0]:
        for _, text, _, path in _rows(top / half, columns=4)[1:]:  # after the heading
            number = _number(text, top / half)
            numbers[path] = number
            kind = PurePosixPath(path).parent.name.removesuffix("_final")
            names[number] = f"{number:05}.{kind}"
    return _build_index(published, top, _Listing(numbers, names), source.skip_unreadable)


def _build_index(
    published: PublishedSet, top: Path, listing: _Listing, skip_unreadable: bool
) -> ImageIndex:
    """Check a listing against what is known of the set and what is on disk, and index it."""
    _check_counts(published, top, listing)
    if not skip_unreadable:  # else missing files are left out later, with damaged ones
        check_files(published, top, listing.numbers)
    paths = sorted(listing.numbers, key=lambda path: (listing.numbers[path], path))
    labels = np.array([listing.numbers[path] - 1 for path in paths], dtype=np.int64)
    names = tuple(listing.names[number] for number in range(1, published.classes + 1))
    return ImageIndex(published.dataset, top, tuple(paths), labels, names, channels=3)


def _check_counts(published: PublishedSet, top: Path, listing: _Listing) -> None:
    images, classes = len(listing.numbers), len(set(listing.numbers.values()))
    if (images, classes) != (published.images, published.classes):
        raise UserError(
            f"{top}: lists {images:,} images of {classes:,} classes, but {published.dataset} has "
            f"{published.images:,} of {published.classes:,}; get its files again"
        )
    expected = range(1, published.classes + 1)
    strange = set(listing.numbers.values()).symmetric_difference(expected)
    strange |= set(expected).difference(listing.names)
    if strange:
        raise UserError(
            f"{top}: classes are not numbered from 1 to {published.classes:,} with a name each "
            f"(see {min(strange)}); get its files again"
        )


def _read_cars_mat(top: Path) -> _Listing:
    from scipy.io import loadmat  # slow to import, and needed for this set only
    from scipy.io.matlab import MatReadError

    file = top / "cars_annos.mat"
    try:
        content = loadmat(file)
        annotations = content["annotations"][0]
        paths = [str(path.item()) for path in annotations["relative_im_path"]]
        classes = [int(number.item()) for number in annotations["class"]]
        names = [str(name.item()) for name in content["class_names"][0]]
    except (
        MatReadError, OSError, KeyError, IndexError, ValueError, TypeError, AttributeError,
        NotImplementedError, zlib.error,
    ) as error:  # fmt: skip
        raise UserError(
            f"{file}: not the annotations of Cars-196 ({type(error).__name__}: {error}); get it "
            "again"
        ) from error
    return _Listing(dict(zip(paths, classes, strict=True)), dict(enumerate(names, 1)))


def _read_cars_kaggle(top: Path) -> _Listing:
    """Read the layout that pytorch-metric-learning downloads: class folders and two CSV files."""
    names = dict(enumerate((line.strip() for line in _lines(top / "names.csv")), 1))
    numbers = {}
    for half in ("train", "test"):
        file = top / f"anno_{half}.csv"
        for line in _lines(file):
            image, _, rest = line.partition(",")
            text = rest.rpartition(",")[2]
            number = _number(text, file)
            if number not in names:
                raise UserError(f"{file}: class {number} is not in names.csv; get both again")
            folder = names[number].replace("/", "-")
            numbers[f"car_data/car_data/{half}/{folder}/{image}"] = number
    return _Listing(numbers, names)


def _numbered(file: Path) -> dict[int, str]:
    return {_number(number, file): text for number, text in _rows(file, columns=2)}


def _rows(file: Path, columns: int) -> list[list[str]]:
    rows = [line.split(maxsplit=columns - 1) for line in _lines(file)]
    for row in rows:
        if len(row) != columns:
            raise UserError(f"{file}: {' '.join(row)!r} has not {columns} columns; get it again")
    return rows


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error}); get it again") from error
    return [line.strip() for line in text.splitlines() if line.strip()]


def _number(text: str, file: Path) -> int:
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{file}: {text!r} is not a number; get it again") from None
