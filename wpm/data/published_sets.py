"""CUB-200-2011, Cars-196 and Stanford Online Products as their authors publish them.

The labels are the sets' own numbering from 0, so that the class-disjoint halves are the published
ones. docs/datasets.md shows the layouts and how to place the files by hand.
"""

import os
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from wpm.data.archives import Archive, fetch_archive, unpack_folder
from wpm.data.index import DataSource, ImageIndex
from wpm.errors import UserError

_SHOWN = 3  # of the missing files


@dataclass(frozen=True)
class Download:
    """A file to download and, unless it is used as it is, the folder it unpacks to."""

    archive: Archive
    folder: str | None = None


@dataclass(frozen=True)
class PublishedSet:
    """What is known of a set before it is opened.

    Attributes:
        dataset: its name in `DATASETS`.
        home: its folder below the work root.
        images: number of images.
        classes: number of classes; they are numbered from 1.
        tops: where below a given place its tree may begin, the usual first.
        layouts: files and folders at the top of the tree; all those of one layout are needed.
        parts: what `--fetch` downloads to the place.
    """

    dataset: str
    home: str
    images: int
    classes: int
    tops: tuple[str, ...]
    layouts: tuple[tuple[str, ...], ...]
    parts: tuple[Download, ...]


CUB200 = PublishedSet(
    dataset="cub200",
    home="cub2011",
    images=11_788,
    classes=200,
    tops=("CUB_200_2011", ".", "cub2011/CUB_200_2011"),
    layouts=(("images.txt", "image_class_labels.txt", "classes.txt", "images"),),
    parts=(
        Download(
            Archive(
                url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
                checksum="md5:97eceeb196236b17998738112f37df78",
                elsewhere="its page: https://www.vision.caltech.edu/datasets/cub_200_2011/",
            ),
            folder="CUB_200_2011",
        ),
    ),
)

_CARS_MAT = ("cars_annos.mat", "car_ims")
_CARS_KAGGLE = ("names.csv", "anno_train.csv", "anno_test.csv", "car_data")  # as pml 2.9 fetches it
_CARS_ELSEWHERE = (
    "or unpack https://www.kaggle.com/datasets/jutrera/stanford-car-dataset-by-classes-folder "
    "into that folder instead"
)

CARS196 = PublishedSet(
    dataset="cars196",
    home="cars196",
    images=16_185,
    classes=196,
    tops=(".", "cars196"),
    layouts=(_CARS_MAT, _CARS_KAGGLE),
    # Not the address of pml 2.9: Kaggle's zip is arranged anew and has no published checksum.
    parts=(
        Download(
            Archive(
                url="http://imagenet.stanford.edu/internal/car196/cars_annos.mat",
                checksum="md5:b407c6086d669747186bd1d764ff9dbc",
                elsewhere=_CARS_ELSEWHERE,
            )
        ),
        Download(
            Archive(
                url="http://imagenet.stanford.edu/internal/car196/car_ims.tgz",
                checksum="md5:d5c8f0aa497503f355e17dc7886c3f14",
                elsewhere=_CARS_ELSEWHERE,
            ),
            folder="car_ims",
        ),
    ),
)

SOP = PublishedSet(
    dataset="sop",
    home="sop",
    images=120_053,
    classes=22_634,
    tops=("Stanford_Online_Products", ".", "sop/Stanford_Online_Products"),
    layouts=(("Ebay_train.txt", "Ebay_test.txt"),),
    parts=(
        Download(
            Archive(
                url="https://drive.usercontent.google.com/download?"
                "id=1TclrpQOF_ullUP99wk_gjGN8pKvtErG8&export=download&authuser=0&confirm=t",
                checksum="md5:7f73d41a2f44250d4779881525aea32e",
                file_name="Stanford_Online_Products.zip",
                elsewhere="its page: https://cvgl.stanford.edu/projects/lifted_struct/",
            ),
            folder="Stanford_Online_Products",
        ),
    ),
)


@dataclass(frozen=True)
class _Listing:
    """Images with the number of their class, and the classes' names, as a set's own files say."""

    numbers: dict[str, int]
    names: dict[int, str]


def load_cub200(source: DataSource, fetch: bool, published: PublishedSet = CUB200) -> ImageIndex:
    """List CUB-200-2011; the arguments and errors are those of `load_index`."""
    top, _ = _open_tree(source, fetch, published)
    class_file = top / "image_class_labels.txt"
    classes = {image: _number(text, class_file) for image, text in _numbered(class_file).items()}
    numbers = {}
    for image, path in _numbered(top / "images.txt").items():
        if image not in classes:
            raise UserError(f"{class_file}: has no class of image {image}; get it again")
        numbers[f"images/{path}"] = classes[image]
    names = _numbered(top / "classes.txt")
    return _build_index(published, top, _Listing(numbers, names), source.skip_unreadable)


def load_cars196(source: DataSource, fetch: bool, published: PublishedSet = CARS196) -> ImageIndex:
    """List Cars-196; the arguments and errors are those of `load_index`."""
    top, layout = _open_tree(source, fetch, published)
    listing = _read_cars_mat(top) if layout == _CARS_MAT else _read_cars_kaggle(top)
    names = {number: f"{number:03}.{name}" for number, name in listing.names.items()}
    return _build_index(published, top, _Listing(listing.numbers, names), source.skip_unreadable)


def load_sop(source: DataSource, fetch: bool, published: PublishedSet = SOP) -> ImageIndex:
    """List Stanford Online Products; the arguments and errors are those of `load_index`."""
    top, _ = _open_tree(source, fetch, published)
    numbers, names = {}, {}
    for half in published.layouts[0]:
        for _, text, _, path in _rows(top / half, columns=4)[1:]:  # the first has their titles
            number = _number(text, top / half)
            numbers[path] = number
            kind = PurePosixPath(path).parent.name.removesuffix("_final")
            names[number] = f"{number:05}.{kind}"
    return _build_index(published, top, _Listing(numbers, names), source.skip_unreadable)


PUBLISHED_SETS: dict[str, Callable[[DataSource, bool], ImageIndex]] = {
    "cub200": load_cub200,
    "cars196": load_cars196,
    "sop": load_sop,
}


def _open_tree(
    source: DataSource, fetch: bool, published: PublishedSet
) -> tuple[Path, tuple[str, ...]]:
    """Return the top of a set's tree and its layout; fetch it where it is not there."""
    place = source.data_root or source.work_root / published.home
    try:
        if place.is_file():
            raise UserError(
                f"{place} is a file; give --data-root the folder that it unpacks to, or a folder "
                "that holds it, and add --fetch"
            )
        top, layout, lacking = _find_tree(place, published)
        if lacking and fetch:
            for part in published.parts:
                _fetch_part(part, place)
            top, layout, lacking = _find_tree(place, published)
    except OSError as error:
        raise UserError(
            f"{error.filename or place}: cannot be used ({error.strerror or error})"
        ) from error
    if lacking:
        addresses = " and ".join(part.archive.url for part in published.parts)
        mend = f"move {top} away and try again" if fetch else "add --fetch to download it"
        raise UserError(
            f"{published.dataset} is not at {place}: no {', '.join(lacking)} in {top}; {mend}, or "
            f"give --data-root its folder (docs/datasets.md; {addresses})"
        )
    return top, layout


def _find_tree(
    place: Path, published: PublishedSet
) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Return the likeliest top below a place, its layout, and what it lacks of that."""
    found = [
        (top, layout, tuple(name for name in layout if not (top / name).exists()))
        for top in (place / below for below in published.tops)
        for layout in published.layouts
    ]
    # The most of a layout; the whole of one beats the most.
    return min(found, key=lambda tree: (len(tree[2]) > 0, len(tree[2]) - len(tree[1])))


def _fetch_part(part: Download, place: Path) -> None:
    if part.folder is None:
        fetch_archive(part.archive, place)
    elif not (place / part.folder).is_dir():
        unpack_folder(fetch_archive(part.archive, place), part.folder, place)


def _read_cars_mat(top: Path) -> _Listing:
    from scipy.io import loadmat  # slow to import, and for this set only
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
    """Read the layout that pytorch-metric-learning downloads: a folder a class, two CSV files."""
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


def _build_index(
    published: PublishedSet, top: Path, listing: _Listing, skip_unreadable: bool
) -> ImageIndex:
    """Check a listing against what is known of the set and against the disk."""
    _check_counts(published, top, listing)
    if not skip_unreadable:  # else files that are gone are left out with those that are damaged
        _check_files(published, top, listing.numbers)
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


def _check_files(published: PublishedSet, top: Path, paths: Iterable[str]) -> None:
    """List each folder once: 120,000 questions to a network disk would take minutes."""
    by_folder: dict[str, set[str]] = {}
    for path in paths:
        folder, _, name = path.rpartition("/")
        by_folder.setdefault(folder, set()).add(name)
    missing = [
        f"{folder}/{name}".lstrip("/")
        for folder, names in by_folder.items()
        for name in names - _files_in(top / folder)
    ]
    if missing:
        shown = ", ".join(sorted(missing)[:_SHOWN])
        raise UserError(
            f"{top}: {len(missing):,} of the {published.images:,} images of {published.dataset} "
            f"are missing: {shown}{', ...' if len(missing) > _SHOWN else ''}; unpack it again "
            "(move what is there away and add --fetch, or by hand: docs/datasets.md), or add "
            "--skip-unreadable"
        )


def _files_in(folder: Path) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_file()}
    except (FileNotFoundError, NotADirectoryError):
        return set()
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror})") from error
