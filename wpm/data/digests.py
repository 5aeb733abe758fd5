"""Settle which images of an index can be read, and digest them.

Reading every file of a large set takes minutes, and finding out by decoding that some are broken
takes hours. So both answers are remembered on disk, under the work root.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wpm.cpus import count_cpus
from wpm.data.index import ImageIndex
from wpm.errors import UserError
from wpm.files import read_json, write_json
from wpm.formatting import name_first

MIN_CLASS_IMAGES = 2  # an image with no other of its class has nothing to retrieve


class UnreadableImagesError(UserError):
    """Some images of an index cannot be read.

    Attributes:
        images: path and reason of each.
    """

    def __init__(self, index: ImageIndex, images: Sequence[Sequence[str]]) -> None:
        self.images = sorted((path, reason) for path, reason in images)
        super().__init__(
            f"{len(images)} of {len(index.paths)} images in {index.root} cannot be read: "
            f"{name_unreadable(self.images)}; fix or delete them, or add --skip-unreadable"
        )


@dataclass(frozen=True)
class ReadableImages:
    """The images of an index that can be read, as far as is known before they are decoded.

    Attributes:
        index: these images.
        digests: SHA-256 of each file, by path.
        left_out: path and reason of the images that cannot be read, sorted.
    """

    index: ImageIndex
    digests: dict[str, str]
    left_out: list[tuple[str, str]]


def settle_readable(
    index: ImageIndex,
    work_root: Path,
    *,
    skip_unreadable: bool,
    left_out: Sequence[tuple[str, str]] = (),
) -> ReadableImages:
    """Digest all images, without those that are missing or are known to be undecodable.

    Args:
        index: all images.
        work_root: folder of what earlier calls remembered.
        skip_unreadable: whether unreadable images are left out; otherwise one is an error, and
            what is remembered of undecodable ones is ignored.
        left_out: path and reason of images that are known to be unreadable already.

    Raises:
        UnreadableImagesError: some files cannot be read, and `skip_unreadable` is False.
        UserError: too few images of a class are left.
    """
    left_out = sorted(left_out)
    while True:
        rest = _leave_out(index, left_out)
        try:
            digests = _digest_files(rest, work_root)
        except UnreadableImagesError as error:
            if not skip_unreadable:
                raise
            found = error.images
        else:
            found = _recall_undecodable(rest, work_root, digests) if skip_unreadable else []
            if not found:
                return ReadableImages(rest, digests, left_out)
        left_out = sorted([*left_out, *found])


def remember_undecodable(
    readable: ReadableImages, work_root: Path, images: Sequence[Sequence[str]]
) -> None:
    """Remember which images could not be decoded, as long as their files stay the same.

    Args:
        readable: the images that were decoded.
        work_root: folder of the memory.
        images: path and reason of those that failed.
    """
    memory = memory_path(readable.index, work_root, "unreadable")
    found = {path: [readable.digests[path], reason] for path, reason in images}
    write_json(memory, recall(memory) | found)


def name_unreadable(images: Sequence[Sequence[str]]) -> str:
    """Name the first unreadable images with their reasons."""
    return name_first([f"{path} ({reason})" for path, reason in images], separator="; ")


def _leave_out(index: ImageIndex, images: Sequence[Sequence[str]]) -> ImageIndex:
    """Return an index without some images.

    Raises:
        UserError: a class that loses images would keep fewer than `MIN_CLASS_IMAGES`.
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
            f"{MIN_CLASS_IMAGES} left: {name_first(small)}; fix {name_unreadable(images)}, or "
            "delete these classes"
        )
    return rest


def digest_images(index: ImageIndex, work_root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that can be read, by path; no image is decoded.

    Args:
        index: the images; only files whose size or times changed are read.
        work_root: folder of what earlier calls remembered.
    """
    return _try_digests(index, work_root)[0]


def _digest_files(index: ImageIndex, work_root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, by path; read only files whose size or times changed.

    Raises:
        UnreadableImagesError: some files cannot be read, or are missing.
    """
    digests, unreadable = _try_digests(index, work_root)
    if unreadable:
        raise UnreadableImagesError(index, unreadable)
    return digests


def _try_digests(
    index: ImageIndex, work_root: Path
) -> tuple[dict[str, str], list[tuple[str, str]]]:
    """Return the SHA-256 of every readable file, and path and reason of all others."""
    memory = memory_path(index, work_root, "digests")
    known = recall(memory)
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
    with ThreadPoolExecutor(count_cpus()) as pool:  # reading and hashing release Python's lock
        answers = pool.map(lambda path: _digest(index.root / path), stale)
        for path, answer in zip(list(stale), answers, strict=True):
            if isinstance(answer, OSError):
                unreadable.append((path, _reason(answer)))
            else:
                known[path] = [stale[path], answer]
    if stale:
        write_json(memory, known)
    failed = {path for path, _ in unreadable}
    digests = {path: str(known[path][1]) for path in index.paths if path not in failed}
    return digests, unreadable


def _recall_undecodable(
    index: ImageIndex, work_root: Path, digests: dict[str, str]
) -> list[tuple[str, str]]:
    """Return path and reason of images that could not be decoded before and have not changed."""
    known = recall(memory_path(index, work_root, "unreadable"))
    return [(p, known[p][1]) for p in index.paths if known.get(p, [None])[0] == digests[p]]


def memory_path(index: ImageIndex, work_root: Path, what: str) -> Path:
    """Return the file that remembers something about the images of a folder."""
    root_key = hashlib.sha256(str(index.root.resolve()).encode()).hexdigest()[:16]
    return work_root / "pixels" / f"{what}-{root_key}.json"


def recall(path: Path) -> dict[str, list[Any]]:
    """Return what a file of `memory_path` remembers, by image; nothing if it is not usable."""
    try:
        known: dict[str, list[Any]] = read_json(path)
    except UserError:  # missing or damaged; it only remembers what can be found out again
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
