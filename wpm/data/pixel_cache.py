"""Build the pixel cache: every image of an index, decoded and resized once.

All trials of a node read the same cache (`wpm.data.pixels`); no training opens an image file.
"""

import hashlib
import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wpm.data.decoding import DecodedPart, DecodingTask, decode_parts
from wpm.data.digests import (
    ReadableImages,
    UnreadableImagesError,
    remember_undecodable,
    settle_readable,
)
from wpm.data.image_file import cached_size
from wpm.data.index import ImageIndex
from wpm.data.pixels import FORMAT, PART_IMAGES, Pixels, read_checksums, starts_of
from wpm.data.readings import UPRIGHT, describe_readings, find_readings, turns_upright
from wpm.errors import StorageError, UserError
from wpm.files import hold_lock, write_json

_log = logging.getLogger(__name__)
_BUILD_WAIT_S = 24 * 3600.0  # for another process that decodes; the largest set takes hours
# Called with the number of images decoded so far and the number of all.
Progress = Callable[[int, int], None]


def build_pixel_cache(
    index: ImageIndex,
    resize: int,
    work_root: Path,
    progress: Progress | None = None,
    *,
    skip_unreadable: bool = False,
) -> Path:
    """Decode the images of an index into a cache, unless that was done before.

    The cache's name is a digest of the images' content, classes and decoding settings, and of
    what was left out. Several processes may call this at once: one decodes and the others wait
    for it. After a kill the next call resumes where the killed one stopped.

    Args:
        index: images to decode; a search passes trainval images only.
        resize: length of the shorter side in pixels.
        work_root: caches go to `work_root/pixels`.
        progress: called after every part, and not at all where nothing has to be decoded.
        skip_unreadable: whether to leave out images that cannot be read.

    Returns:
        The cache's folder, complete and verified.

    Raises:
        UnreadableImagesError: some images cannot be read.
        UserError: a damaged cache; with `skip_unreadable`, too few images left of a class.
        StorageError: the cache cannot be written.
    """
    if not index.paths:
        raise UserError(f"no images to decode in {index.root}")
    with warnings.catch_warnings():
        # Pillow warns about odd files in two lines each; those that matter are reported by us.
        warnings.filterwarnings("ignore", module="PIL")
        return _build_readable(index, resize, work_root, progress, skip_unreadable)


def _build_readable(
    index: ImageIndex,
    resize: int,
    work_root: Path,
    progress: Progress | None,
    skip_unreadable: bool,
) -> Path:
    """Leave out one unreadable image after another, where allowed, until a cache can be built."""
    left_out: list[tuple[str, str]] = []
    while True:
        readable = settle_readable(
            index, work_root, skip_unreadable=skip_unreadable, left_out=left_out
        )
        readings = find_readings(readable, work_root)
        name = _name_of(readable, resize, readings)
        folder = work_root / "pixels" / name
        try:
            return _build(folder, readable, readings, resize, progress or _log_progress)
        except UnreadableImagesError as error:  # only decoding finds these
            if not skip_unreadable:
                raise
            remember_undecodable(readable, work_root, error.images)
            left_out = [*readable.left_out, *error.images]


def _build(
    folder: Path,
    readable: ReadableImages,
    readings: Mapping[str, str],
    resize: int,
    progress: Progress,
) -> Path:
    """Decode into a folder, unless another process already has, and verify it."""
    with hold_lock(
        folder.with_suffix(".lock"), wait_s=_BUILD_WAIT_S, what=f"pixel cache {folder.name}"
    ):
        if not (folder / "meta.json").exists():
            _decode_into(folder, readable, readings, resize, progress)
        Pixels(folder).verify()
    return folder


def _log_progress(done: int, total: int) -> None:
    _log.info("decoded %d of %d images", done, total)


def _decode_into(
    folder: Path,
    readable: ReadableImages,
    readings: Mapping[str, str],
    resize: int,
    progress: Progress,
) -> None:
    """Write a cache beside its final name, then rename it.

    Raises:
        StorageError: it cannot be written; what was decoded is kept for the next call.
    """
    index = readable.index
    partial = folder.with_name(f".partial-{folder.name}")
    sizes = [
        cached_size(index.root / path, resize, upright=UPRIGHT in readings.get(path, ""))
        for path in index.paths
    ]
    starts = starts_of(np.array(sizes), index.channels)
    try:
        _allocate(partial / "pixels.bin", int(starts[-1]))
        parts = _cut_into_parts(partial / "pixels.bin", index, resize, sizes, starts)
        decoded = _decode_missing(partial, index, parts, progress)
        meta: dict[str, Any] = {
            "format": FORMAT,
            "dataset": index.dataset,
            "root": str(index.root),
            "resize": resize,
            "channels": index.channels,
            "class_names": index.class_names,
            "labels": index.labels.tolist(),
            "sizes": sizes,
            "crc32": [part.crc32 for part in decoded],
            "left_out": readable.left_out,
            "findings": [finding for part in decoded for finding in part.findings],
        }
        if readings:
            meta["before_readings"] = {
                "name": _name_of(readable, resize, {}),
                "reason": describe_readings(readings),
            }
        if index.split is not None:
            meta["split"] = asdict(index.split)
        write_json(partial / "meta.json", meta)
        (partial / "parts.jsonl").unlink()
        shutil.rmtree(folder, ignore_errors=True)  # it has no meta.json, so it was never finished
        partial.rename(folder)
    except OSError as error:
        raise StorageError(
            f"{folder}: pixel cache of {starts[-1] / 1e9:.1f} GB cannot be written "
            f"({error.strerror}); free space or choose another --work-root, then give the same "
            "command again"
        ) from error


def _allocate(path: Path, num_bytes: int) -> None:
    """Reserve the space, so that a disk that is too small fails before hours of decoding."""
    path.parent.mkdir(exist_ok=True)
    try:
        with path.open("ab") as file:
            if num_bytes:
                os.posix_fallocate(file.fileno(), 0, num_bytes)
    except OSError:
        shutil.rmtree(path.parent, ignore_errors=True)  # free the partly reserved file
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
            upright=turns_upright(index),
            isolated=(file.parent / "parts.jsonl").exists(),
        )
        for number, first in enumerate(range(0, len(sizes), PART_IMAGES))
    ]


def _decode_missing(
    partial: Path, index: ImageIndex, parts: Sequence[DecodingTask], progress: Progress
) -> list[DecodedPart]:
    """Decode the parts that no earlier process has decoded; return what became of all.

    Raises:
        UnreadableImagesError: some cannot be decoded. Nothing is kept then: once they are fixed
            or left out, the cache has another name.
    """
    finished = _read_intact(partial, parts)
    total = sum(len(part.paths) for part in parts)
    done = sum(len(parts[number].paths) for number in finished)
    unreadable: list[Sequence[str]] = []
    with (partial / "parts.jsonl").open("a", encoding="utf-8") as journal:
        for decoded in decode_parts([part for part in parts if part.number not in finished]):
            unreadable += decoded.unreadable
            finished[decoded.number] = decoded
            if not decoded.unreadable:
                line = [decoded.number, decoded.crc32, decoded.findings]
                journal.write(json.dumps(line) + "\n")
                journal.flush()
            done += len(parts[decoded.number].paths)
            progress(done, total)
    if unreadable:
        shutil.rmtree(partial, ignore_errors=True)
        raise UnreadableImagesError(index, unreadable)
    return [finished[part.number] for part in parts]


def _read_intact(partial: Path, parts: Sequence[DecodingTask]) -> dict[int, DecodedPart]:
    """Return the parts that a killed process wrote, if their bytes still match the checksums."""
    journal = partial / "parts.jsonl"
    numbered, written = {part.number: part for part in parts}, {}
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        with suppress(ValueError, TypeError):  # a kill may have cut the last line short
            number, crc32, findings = json.loads(line)
            if number in numbered:
                written[number] = DecodedPart(number, crc32, [], findings)
    spans = [_span_of(numbered[number]) for number in written]
    found = read_checksums(partial / "pixels.bin", spans)
    return {
        part.number: part
        for part, crc32 in zip(written.values(), found, strict=True)
        if part.crc32 == crc32
    }


def _span_of(part: DecodingTask) -> tuple[int, int]:
    pixels = sum(height * width for height, width in part.sizes)
    return part.offset, part.offset + part.channels * pixels


def _name_of(readable: ReadableImages, resize: int, readings: Mapping[str, str]) -> str:
    """Name a cache by what it depends on: names, content, classes, decoding, what is left out."""
    index = readable.index
    digest = hashlib.sha256(f"{FORMAT} {resize} {index.channels}\n".encode())
    # The names of all classes, also of those without images here: splits count all of them.
    digest.update("\0".join(index.class_names).encode())
    for path, label in zip(index.paths, index.labels.tolist(), strict=True):
        digest.update(f"{path}\0{label}\0{readable.digests[path]}\n".encode())
    for path, _ in readable.left_out:
        digest.update(f"without {path}\n".encode())
    if index.split is not None:
        digest.update(f"split {index.split.part} {index.split.folds}\n".encode())
    for path, reading in sorted(readings.items()):
        digest.update(f"{path} read {reading}\n".encode())
    return f"{index.dataset}-{resize}px-{digest.hexdigest()[:16]}"
