"""The data sets by name.

To add one: a function that lists its images, and an entry in `DATASETS`.
"""

from collections.abc import Callable
from pathlib import Path

from wpm.data.archives import Archive, fetch_archive
from wpm.data.class_folders import index_class_folders
from wpm.data.glyphs import render_glyphs
from wpm.data.image_tree import holds_images
from wpm.data.index import DataSource, ImageIndex
from wpm.data.parts import CLASSES_BY_PATH, SPLIT_FOLDERS
from wpm.data.published_listings import load_cars196, load_cub200, load_sop
from wpm.data.unpacking import is_archive, unpack_archive
from wpm.errors import UserError

OMNIGLOT_SMALL1 = Archive(
    url="https://github.com/brendenlake/omniglot/raw/master/python/images_background_small1.zip",
    checksum="sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
)


def load_index(source: DataSource, *, fetch: bool = False) -> ImageIndex:
    """List the images of a data set.

    Args:
        source: which data set, and where it is.
        fetch: whether to download what is missing, if the data set can be downloaded.

    Returns:
        The index of all images, trainval and test. No image is opened.

    Raises:
        UserError: unknown data set, no such place, or no usable images in it.
    """
    if source.dataset not in DATASETS:
        raise UserError(f"unknown data set {source.dataset!r}; choose from {', '.join(DATASETS)}")
    if source.dataset not in _TREES:
        if source.classes_by is not None:
            raise UserError(f"--classes-by has no meaning for {source.dataset}; leave it out")
        if source.split == SPLIT_FOLDERS:
            raise UserError(
                f"--split {SPLIT_FOLDERS} has no meaning for {source.dataset}; give a file"
            )
    return DATASETS[source.dataset](source, fetch)


def _load_glyphs(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is not None:
        raise UserError(
            f"--data-root {source.data_root} has no meaning for glyphs, which are rendered; "
            "leave it out"
        )
    root = source.work_root / "glyphs"
    render_glyphs(root)
    return index_class_folders("glyphs", root, channels=1, classes_by=CLASSES_BY_PATH)


def _load_omniglot(source: DataSource, fetch: bool) -> ImageIndex:
    place = source.data_root or source.work_root / "omniglot"
    if source.data_root is None and fetch:
        fetch_archive(OMNIGLOT_SMALL1, place)
    if not place.exists():
        raise UserError(
            f"omniglot is not at {place}; add --fetch to download it, or give --data-root the "
            f"folder or zip ({OMNIGLOT_SMALL1.url})"
        )
    # All alphabets number their characters, so folders of the same name are different classes.
    return _list_tree(source, place, channels=1, classes_by=source.classes_by or CLASSES_BY_PATH)


def _load_folder(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is None:
        raise UserError("--dataset folder needs --data-root DIR, a tree with one folder a class")
    return _list_tree(source, source.data_root, channels=3, classes_by=source.classes_by)


def _list_tree(
    source: DataSource, place: Path, *, channels: int, classes_by: str | None
) -> ImageIndex:
    return index_class_folders(
        source.dataset,
        _open_place(place, source.work_root),
        channels,
        work_root=source.work_root,
        classes_by=classes_by,
        parts=source.split == SPLIT_FOLDERS,
    )


DATASETS: dict[str, Callable[[DataSource, bool], ImageIndex]] = {
    "glyphs": _load_glyphs,
    "omniglot": _load_omniglot,
    "folder": _load_folder,
    "cub200": load_cub200,
    "cars196": load_cars196,
    "sop": load_sop,
}
# The data sets whose classes are the folders of a tree that the user places.
_TREES = ("folder", "omniglot")


def _open_place(place: Path, work_root: Path) -> Path:
    """Return the folder of images; `place` is it, or an archive of it, or holds one such archive.

    An archive counts only where the folder holds no images, in whichever folders: what a launch
    unpacks or records there must not change what the next one reads.
    """
    try:
        if place.is_dir():
            entries = [entry for entry in sorted(place.iterdir()) if entry.name[0] != "."]
            archives = [entry for entry in entries if is_archive(entry)]
            if len(archives) != 1 or holds_images(place, work_root):
                return place
            place = archives[0]
        elif not place.exists():
            raise UserError(f"{place} does not exist; check --data-root")
    except OSError as error:
        raise UserError(
            f"{place}: cannot be listed ({error.strerror}); check --data-root"
        ) from error
    return unpack_archive(place, work_root / "unpacked")
