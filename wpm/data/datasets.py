"""The data sets by name.

To add one: a function that lists its images, and an entry in `DATASETS`.
"""

from collections.abc import Callable
from pathlib import Path

from wpm.data.archives import Archive, fetch_archive
from wpm.data.glyphs import render_glyphs
from wpm.data.index import DataSource, ImageIndex, index_class_folders
from wpm.data.published_listings import load_cars196, load_cub200, load_sop
from wpm.data.unpacking import unpack_zip
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
    return DATASETS[source.dataset](source, fetch)


def _load_glyphs(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is not None:
        raise UserError(
            f"--data-root {source.data_root} has no meaning for glyphs, which are rendered; "
            "leave it out"
        )
    root = source.work_root / "glyphs"
    render_glyphs(root)
    return index_class_folders("glyphs", root, channels=1)


def _load_omniglot(source: DataSource, fetch: bool) -> ImageIndex:
    place = source.data_root or source.work_root / "omniglot"
    if source.data_root is None and fetch:
        fetch_archive(OMNIGLOT_SMALL1, place)
    if not place.exists():
        raise UserError(
            f"omniglot is not at {place}; add --fetch to download it, or give --data-root the "
            f"folder or zip ({OMNIGLOT_SMALL1.url})"
        )
    return index_class_folders("omniglot", _open_place(place, source.work_root), channels=1)


def _load_folder(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is None:
        raise UserError("--dataset folder needs --data-root DIR, a tree with one folder a class")
    return index_class_folders(
        "folder", _open_place(source.data_root, source.work_root), channels=3
    )


DATASETS: dict[str, Callable[[DataSource, bool], ImageIndex]] = {
    "glyphs": _load_glyphs,
    "omniglot": _load_omniglot,
    "folder": _load_folder,
    "cub200": load_cub200,
    "cars196": load_cars196,
    "sop": load_sop,
}


def _open_place(place: Path, work_root: Path) -> Path:
    """Return the folder of images; `place` is it, or a zip of it, or holds one zip of it."""
    if not place.exists():
        raise UserError(f"{place} does not exist; check --data-root")
    if place.is_dir():
        try:
            entries = [entry for entry in sorted(place.iterdir()) if entry.name[0] != "."]
        except OSError as error:
            raise UserError(f"{place}: cannot be listed ({error.strerror})") from error
        zips = [entry for entry in entries if entry.suffix.lower() == ".zip"]
        if len(zips) != 1 or any(entry.is_dir() for entry in entries):
            return place
        place = zips[0]
    return unpack_zip(place, work_root / "unpacked")
