"""What image files hold, by digest; which of them cannot be read; both remembered on disk."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from wpm.data.index import ImageIndex
from wpm.errors import UserError
from wpm.files import read_json, write_json

_SHOWN = 3  # of the unreadable images, in a message
MIN_CLASS_IMAGES = 2  # with fewer there is nothing to retrieve


class UnreadableImagesError(UserError):
    """Some images of an index cannot be read.

    Attributes:
        images: path and reason of each.
    """

    def __init__(self, index: ImageIndex, images: Sequence[Sequence[str]]) -> None:
        """Name them.

        Args:
            index: that they are in.
            images: path and reason of each.
        """
        self.images = sorted((path, reason) for path, reason in images)
        super().__init__(
            f"{len(images)} of {len(index.paths)} images in {index.root} cannot be read: "
            f"{name_first(self.images)}; mend or delete them, or add --skip-unreadable"
        )


def name_first(images: Sequence[Sequence[str]]) -> str:
    """Name the first unreadable images with their reasons."""
    first = "; ".join(f"{path} ({reason})" for path, reason in images[:_SHOWN])
    return f"{first}{'; ...' if len(images) > _SHOWN else ''}"


def leave_out(index: ImageIndex, images: Sequence[Sequence[str]]) -> ImageIndex:
    """Return an index without some images.

    Raises:
        UserError: of a class that has lost some there are too few left.
    """
    rest = index.without({path for path, _ in images})
    classes = len(index.class_names)
    before = np.bincount(index.labels, minlength=classes)
    after = np.bincount(rest.labels, minlength=classes)
    small = [
        f"{index.class_names[label]} ({after[label]} left)"
        for label in np.flatnonzero((after < before) & (after < MIN_CLASS_IMAGES))
    ]
    if small:
        raise UserError(
            f"without the images that cannot be read, {len(small)} classes have fewer than "
            f"{MIN_CLASS_IMAGES} left: {', '.join(small[:_SHOWN])}{', ...' * (len(small) > _SHOWN)}"
            f"; mend {name_first(images)}, or delete these classes"
        )
    return rest


def digest_contents(index: ImageIndex, work_root: Path) -> dict[str, str]:
    """Digest every file; files whose size and times are as remembered are not read again.

    Returns:
        The SHA-256 of every file, by path.

    Raises:
        UnreadableImagesError: some cannot be read, or are gone.
    """
    memory_path = _memory(index, work_root, "digests")
    known = _recall(memory_path)
    stale: dict[str, list[int]] = {}
    unreadable: list[tuple[str, str]] = []
    for path in index.paths:
        try:
            stat = (index.root / path).stat()
        except OSError as error:
            unreadable.append((path, _reason(error)))
            continue
        stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
        if path not in known or known[path][0] != stamp:
            stale[path] = stamp
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reads and hashes outside Python's lock
        answers = pool.map(lambda path: _digest(index.root / path), stale)
        for path, answer in zip(list(stale), answers, strict=True):
            if isinstance(answer, OSError):
                unreadable.append((path, _reason(answer)))
            else:
                known[path] = [stale[path], answer]
    if stale:
        write_json(memory_path, known)
    if unreadable:
        raise UnreadableImagesError(index, unreadable)
    return {path: str(known[path][1]) for path in index.paths}


def recall_unreadable(
    index: ImageIndex, work_root: Path, contents: Mapping[str, str]
) -> list[tuple[str, str]]:
    """Return path and reason of images that could not be decoded before, and are as they were."""
    known = _recall(_memory(index, work_root, "unreadable"))
    return [(p, known[p][1]) for p in index.paths if known.get(p, [None])[0] == contents[p]]


def remember_unreadable(
    index: ImageIndex,
    work_root: Path,
    contents: Mapping[str, str],
    images: Sequence[Sequence[str]],
) -> None:
    """Remember which images could not be decoded: finding out takes as long as decoding all.

    Args:
        index: the images.
        work_root: folder of the memory.
        contents: of `digest_contents`; what has none is gone, and not remembered.
        images: path and reason of the unreadable ones.
    """
    memory_path = _memory(index, work_root, "unreadable")
    found = {path: [contents[path], reason] for path, reason in images if path in contents}
    if found:
        write_json(memory_path, _recall(memory_path) | found)


def _memory(index: ImageIndex, work_root: Path, what: str) -> Path:
    root_key = hashlib.sha256(str(index.root.resolve()).encode()).hexdigest()[:16]
    return work_root / "pixels" / f"{what}-{root_key}.json"


def _recall(path: Path) -> dict[str, list[Any]]:
    try:
        known: dict[str, list[Any]] = read_json(path)
    except UserError:  # not there, or damaged: only a memory of what can be found out again
        known = {}
    return known


def _digest(path: Path) -> str | OSError:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        return error


def _reason(error: OSError) -> str:
    return error.strerror or str(error)
