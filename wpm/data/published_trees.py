"""Find the files of a published set, or fetch them, and check that all images are there."""

import os
from collections.abc import Iterable
from pathlib import Path

from wpm.data.archives import fetch_archive
from wpm.data.index import DataSource
from wpm.data.published_sets import Download, PublishedSet
from wpm.data.unpacking import unpack_folder
from wpm.errors import UserError
from wpm.formatting import name_first


def open_tree(
    source: DataSource, fetch: bool, published: PublishedSet
) -> tuple[Path, tuple[str, ...]]:
    """Return the top of a set's tree and its layout; download it if it is missing and `fetch`.

    Raises:
        UserError: the set is not there, or cannot be downloaded; says what is missing.
    """
    place = source.data_root or source.work_root / published.home
    try:
        if place.is_file():
            raise UserError(
                f"{place} is a file; give --data-root the folder that it unpacks to, or a folder "
                "that holds it, and add --fetch"
            )
        top, layout, missing = _find_tree(place, published)
        if missing and fetch:
            for download in published.downloads:
                _fetch(download, place)
            top, layout, missing = _find_tree(place, published)
    except OSError as error:
        raise UserError(
            f"{error.filename or place}: cannot be used ({error.strerror or error})"
        ) from error
    if missing:
        addresses = " and ".join(download.archive.url for download in published.downloads)
        fix = f"move {top} away and try again" if fetch else "add --fetch to download it"
        raise UserError(
            f"{published.dataset} is not at {place}: no {', '.join(missing)} in {top}; {fix}, or "
            f"give --data-root its folder (docs/datasets.md; {addresses})"
        )
    return top, layout


def _find_tree(
    place: Path, published: PublishedSet
) -> tuple[Path, tuple[str, ...], tuple[str, ...]]:
    """Return the likeliest top below a place, its layout, and what is missing of that layout."""
    found = [
        (top, layout, tuple(name for name in layout if not (top / name).exists()))
        for top in (place / below for below in published.tops)
        for layout in published.layouts
    ]
    # A complete layout is best; otherwise the one of which most is there.
    return min(found, key=lambda tree: (len(tree[2]) > 0, len(tree[2]) - len(tree[1])))


def _fetch(download: Download, place: Path) -> None:
    if download.folder is None:
        fetch_archive(download.archive, place)
    elif not (place / download.folder).is_dir():
        unpack_folder(fetch_archive(download.archive, place), download.folder, place)


def check_files(published: PublishedSet, top: Path, paths: Iterable[str]) -> None:
    """Refuse a tree that lacks some of the set's images.

    Each folder is listed once: to ask a network disk about 120,000 single files takes minutes.

    Args:
        published: the set.
        top: top of its tree.
        paths: all images that the set should have, relative to `top`.

    Raises:
        UserError: some are missing.
    """
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
        raise UserError(
            f"{top}: {len(missing):,} of the {published.images:,} images of {published.dataset} "
            f"are missing: {name_first(sorted(missing))}; unpack it again "
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
