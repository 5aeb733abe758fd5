"""Image sets on disk: which files there are and what class each is of; fetching and unpacking."""

from collections.abc import Callable
from pathlib import Path

from wpm.data.archives import Archive, fetch_archive, unpack_zip
from wpm.data.glyphs import render_glyphs
from wpm.data.index import DataSource, ImageIndex, index_class_folders
from wpm.errors import UserError

OMNIGLOT_SMALL1 = Archive(
    url="https://github.com/brendenlake/omniglot/raw/master/python/images_background_small1.zip",
    checksum="sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
)


def load_index(source: DataSource, *, fetch: bool = False) -> ImageIndex:
    """List the images of a data set.

    Args:
        source: the data set and its place.
        fetch: download what is missing, where the data set can be downloaded.

    Returns:
        The index of all images, trainval and test; opening images is left to others.

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
    if fetch:
        raise UserError("--fetch has no meaning for --dataset folder; leave it out")
    return index_class_folders(
        "folder", _open_place(source.data_root, source.work_root), channels=3
    )


def _load_published(source: DataSource, fetch: bool) -> ImageIndex:
    # A layer up: it makes indexes and fetches with what is here.
    from wpm.data.published_sets import PUBLISHED_SETS

    return PUBLISHED_SETS[source.dataset](source, fetch)


# A data set is one function and one line here.
DATASETS: dict[str, Callable[[DataSource, bool], ImageIndex]] = {
    "glyphs": _load_glyphs,
    "omniglot": _load_omniglot,
    "folder": _load_folder,
    "cub200": _load_published,
    "cars196": _load_published,
    "sop": _load_published,
}


def _open_place(place: Path, work_root: Path) -> Path:
    """Return the folder of images that a folder, a zip, or a folder holding one zip stands for."""
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
