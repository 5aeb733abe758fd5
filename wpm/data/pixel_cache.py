"""Build the pixel cache: every image of an index, decoded and resized once."""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wpm.data.decoding import DecodingTask, cached_size, decode_parts
from wpm.data.digests import (
    UnreadableImagesError,
    digest_contents,
    leave_out,
    recall_unreadable,
    remember_unreadable,
)
from wpm.data.index import ImageIndex
from wpm.data.pixels import FORMAT, PART_IMAGES, Pixels, read_checksums, starts_of
from wpm.errors import StorageError, UserError
from wpm.files import hold_lock, write_json

_log = logging.getLogger(__name__)
_BUILD_WAIT_S = 24 * 3600.0  # another process decodes; the largest set takes hours
# Called with the number of images decoded so far and that of all.
Progress = Callable[[int, int], None]


def build_pixels(
    index: ImageIndex,
    resize: int,
    work_root: Path,
    progress: Progress | None = None,
    *,
    skip_unreadable: bool = False,
) -> Path:
    """Decode the images of an index into a cache, unless that was done before.

    The cache's name is a digest of the images' content, classes and decoding settings, and of
    what was left out. Several processes may call this at once: one decodes, the others wait for
    it. What a killed one had decoded is kept: the next goes on from there.

    Args:
        index: images to decode; a search passes trainval images only.
        resize: length of the shorter side in pixels.
        work_root: caches go to `work_root/pixels`.
        progress: told after every part; not called where nothing is left to decode.
        skip_unreadable: whether to go on without images that cannot be read.

    Returns:
        The cache's folder, complete and verified.

    Raises:
        UnreadableImagesError: some images cannot be read.
        UserError: a damaged cache; with `skip_unreadable`, too few images left of a class.
        StorageError: the cache cannot be written.
    """
    if not index.paths:
        raise UserError(f"no images to decode in {index.root}")
    left_out: list[tuple[str, str]] = []
    while True:
        rest = leave_out(index, left_out)
        contents: dict[str, str] = {}
        try:
            contents = digest_contents(rest, work_root)
            unreadable = recall_unreadable(rest, work_root, contents) if skip_unreadable else []
            if not unreadable:
                name = f"{index.dataset}-{resize}px-{_key_of(rest, resize, contents, left_out)}"
                folder = work_root / "pixels" / name
                return _build(folder, rest, resize, left_out, progress or _log_progress)
        except UnreadableImagesError as error:
            if not skip_unreadable:
                raise
            unreadable = error.images
            remember_unreadable(rest, work_root, contents, unreadable)
        left_out = sorted([*left_out, *unreadable])


def _build(
    folder: Path,
    index: ImageIndex,
    resize: int,
    left_out: Sequence[tuple[str, str]],
    progress: Progress,
) -> Path:
    """Decode into a folder, unless somebody has, and verify it."""
    with hold_lock(
        folder.with_suffix(".lock"), wait_s=_BUILD_WAIT_S, what=f"pixel cache {folder.name}"
    ):
        if not (folder / "meta.json").exists():
            _decode_into(folder, index, resize, left_out, progress)
        Pixels(folder).verify()
    return folder


def _log_progress(done: int, total: int) -> None:
    _log.info("decoded %d of %d images", done, total)


def _decode_into(
    folder: Path,
    index: ImageIndex,
    resize: int,
    left_out: Sequence[tuple[str, str]],
    progress: Progress,
) -> None:
    """Write a cache beside its final name, then rename it.

    Raises:
        StorageError: it cannot be written; what was decoded is kept, for the next to go on with.
    """
    partial = folder.with_name(f".partial-{folder.name}")
    sizes = [cached_size(index.root / path, resize) for path in index.paths]
    starts = starts_of(np.array(sizes), index.channels)
    try:
        _allocate(partial / "pixels.bin", int(starts[-1]))
        parts = _cut_into_parts(partial / "pixels.bin", index, resize, sizes, starts)
        meta: dict[str, Any] = {
            "format": FORMAT,
            "dataset": index.dataset,
            "root": str(index.root),
            "resize": resize,
            "channels": index.channels,
            "class_names": index.class_names,
            "labels": index.labels.tolist(),
            "sizes": sizes,
            "crc32": _decode_missing(partial, index, parts, progress),
            "left_out": left_out,
        }
        write_json(partial / "meta.json", meta)
        (partial / "parts.jsonl").unlink()
        shutil.rmtree(folder, ignore_errors=True)  # no meta.json: never finished
        partial.rename(folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: pixel cache of {starts[-1] / 1e9:.1f} GB cannot be written "
            f"({error.strerror}); free space or choose another --work-root, then give the same "
            "command again"
        ) from error


def _allocate(path: Path, num_bytes: int) -> None:
    """Reserve the space: a disk that is too small is noticed before hours of decoding."""
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("ab") as file:
            if num_bytes:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError:
        shutil.rmtree(path.parent, ignore_errors=True)  # what was reserved would be in the way
        raise


def _cut_into_parts(
    file: Path,
    index: ImageIndex,
    resize: int,
    sizes: Sequence[tuple[int, int]],
    starts: NDArray[np.int64],
) -> list[DecodingTask]:
    return [
        DecodingTask(
            number=number,
            file=str(file),
            offset=int(starts[first]),
            root=str(index.root),
            paths=index.paths[first : first + PART_IMAGES],
            sizes=sizes[first : first + PART_IMAGES],
            channels=index.channels,
            resize=resize,
        )
        for number, first in enumerate(range(0, len(sizes), PART_IMAGES))
    ]


def _decode_missing(
    partial: Path, index: ImageIndex, parts: Sequence[DecodingTask], progress: Progress
) -> list[int]:
    """Decode the parts that an earlier process has not; return the checksums of all.

    Raises:
        UnreadableImagesError: some are; nothing is kept, for their change renames the cache.
    """
    checks = _read_intact(partial, parts)
    total = sum(len(part.paths) for part in parts)
    done = sum(len(parts[number].paths) for number in checks)
    unreadable: list[Sequence[str]] = []
    with (partial / "parts.jsonl").open("a", encoding="utf-8") as journal:
        for decoded in decode_parts([part for part in parts if part.number not in checks]):
            unreadable += decoded.unreadable
            checks[decoded.number] = decoded.crc32
            if not decoded.unreadable:
                journal.write(json.dumps([decoded.number, decoded.crc32]) + "\n")
                journal.flush()
            done += len(parts[decoded.number].paths)
            progress(done, total)
    if unreadable:
        shutil.rmtree(partial, ignore_errors=True)
        raise UnreadableImagesError(index, unreadable)
    return [checks[part.number] for part in parts]


def _read_intact(partial: Path, parts: Sequence[DecodingTask]) -> dict[int, int]:
    """Return the checksums of the parts that a killed process had written, where they are right."""
    journal = partial / "parts.jsonl"
    numbered, written = {part.number: part for part in parts}, {}
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        with suppress(ValueError, TypeError):  # the last line may have been cut
            number, crc32 = json.loads(line)
            if number in numbered:
                written[number] = crc32
    spans = [_span_of(numbered[number]) for number in written]
    found = dict(zip(written, read_checksums(partial / "pixels.bin", spans), strict=True))
    return {number: crc32 for number, crc32 in found.items() if crc32 == written[number]}


def _span_of(part: DecodingTask) -> tuple[int, int]:
    pixels = sum(height * width for height, width in part.sizes)
    return part.offset, part.offset + part.channels * pixels


def _key_of(
    index: ImageIndex,
    resize: int,
    contents: Mapping[str, str],
    left_out: Sequence[tuple[str, str]],
) -> str:
    """Digest what the cache depends on: names, content, classes, decoding, what is left out."""
    digest = hashlib.sha256(f"{FORMAT} {resize} {index.channels}\n".encode())
    # All classes of the set: the splits are cut by their number.
    digest.update("\0".join(index.class_names).encode())
    for path, label in zip(index.paths, index.labels.tolist(), strict=True):
        digest.update(f"{path}\0{label}\0{contents[path]}\n".encode())
    for path, _ in left_out:
        digest.update(f"without {path}\n".encode())
    return digest.hexdigest()[:16]
