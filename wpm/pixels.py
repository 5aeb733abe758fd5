"""Decode once: image files become a uint8 cache on disk that every trial of a node maps."""

import hashlib
import json
import logging
import mmap
import os
import shutil
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wpm.atomic import DamagedFileError, FormatError, StorageError, hold_lock, read_json, write_json
from wpm.contents import (
    UnreadableImagesError,
    digest_contents,
    leave_out,
    recall_unreadable,
    remember_unreadable,
)
from wpm.datasets import ImageIndex
from wpm.decoding import Part, cached_size, decode_parts
from wpm.errors import UserError

FORMAT = 2  # raise when the layout or the decoding changes: old caches are then left alone
# Decoded by one worker, kept when the rest is cut short; has one checksum, so part of the format.
PART_IMAGES = 64
# Of a GPU's free memory when a training starts; activations, and other trials, need the rest.
RESIDENT_SHARE = 0.25
_BUILD_WAIT_S = 24 * 3600.0  # another process decodes; the largest set takes hours
_READ_BYTES = 16 * 2**20

_MAP_NORESERVE = 0x4000  # Linux's; Python names it from 3.14 on

_log = logging.getLogger(__name__)

# Called with the number of images decoded so far and that of all.
Progress = Callable[[int, int], None]


class Pixels:
    """Decoded images of a set, mapped from disk, shared by all processes of a node.

    Attributes:
        labels: (N,) int64, position of an image's class in `class_names`.
        class_names: all classes of the data set.
        sizes: (N, 2) int64, height and width of every image in pixels.
        channels: 1 or 3 (RGB).
        starts: (N + 1,) int64, where an image's bytes begin among those of all.
        bytes: all bytes: image after image, row after row, channels last.
        left_out: as `read_left_out` returns it.
    """

    def __init__(self, folder: Path) -> None:
        """Map a finished cache.

        Args:
            folder: what `build_pixels` returned.

        Raises:
            UserError: the folder is not a finished cache, or its size is wrong.
        """
        self.folder = folder
        meta = read_json(folder / "meta.json")
        if meta["format"] != FORMAT:
            raise FormatError(
                f"{folder}: pixel cache of format {meta['format']}, this version reads {FORMAT}; "
                "give the launch command again, it builds another"
            )
        self.class_names: tuple[str, ...] = tuple(meta["class_names"])
        self.channels: int = meta["channels"]
        self.left_out = _left_out(meta)
        self.labels = torch.tensor(meta["labels"], dtype=torch.int64)
        self.sizes = torch.tensor(meta["sizes"], dtype=torch.int64).view(-1, 2)
        self.starts = torch.from_numpy(_starts_of(self.sizes.numpy(), self.channels))
        path = folder / "pixels.bin"
        if not path.exists() or path.stat().st_size != int(self.starts[-1]):
            raise _damaged(folder)
        self.bytes = torch.frombuffer(_map_privately(path), dtype=torch.uint8)
        self._resident: dict[torch.device, Tensor | None] = {}

    def __len__(self) -> int:
        return len(self.labels)

    def indices_of(self, classes: Sequence[int]) -> Tensor:
        """Return (M,) positions of the images of some classes, in order."""
        return torch.nonzero(torch.isin(self.labels, torch.tensor(classes))).flatten()

    def image(self, position: int) -> Tensor:
        """Return (height, width, C) uint8 of one image: the mapped memory itself, not a copy."""
        height, width = self.sizes[position].tolist()
        first, end = self.starts[position : position + 2].tolist()
        return self.bytes[first:end].view(height, width, self.channels)

    def resident(self, device: torch.device) -> Tensor | None:
        """Return all bytes on a GPU, copied there once, or None where they are too many.

        Args:
            device: a GPU, of whose free memory they may take `RESIDENT_SHARE`.
        """
        if device not in self._resident:
            free, _ = torch.cuda.mem_get_info(device)
            fits = len(self.bytes) <= RESIDENT_SHARE * free
            self._resident[device] = self.bytes.to(device) if fits else None
            where = "on the GPU" if fits else "in host memory"
            _log.info("%s: %.1f GB %s", self.folder.name, len(self.bytes) / 1e9, where)
        return self._resident[device]

    def verify(self) -> None:
        """Compare every byte with the checksums written with it.

        Raises:
            DamagedFileError: they differ.
        """
        checks = read_json(self.folder / "meta.json")["crc32"]
        firsts = self.starts[:-1:PART_IMAGES].tolist()
        spans = list(zip(firsts, [*firsts[1:], int(self.starts[-1])], strict=True))
        if _checksums(self.folder / "pixels.bin", spans) != checks:
            raise _damaged(self.folder)


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


def read_left_out(folder: Path) -> list[tuple[str, str]]:
    """Return path and reason of the images that a cache lacks because they could not be read."""
    return _left_out(read_json(folder / "meta.json"))


def _left_out(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    # The first caches of this format were written when every image had to be readable.
    return [(path, reason) for path, reason in meta.get("left_out", [])]


def _map_privately(path: Path) -> mmap.mmap:
    """Map a file copy-on-write: its pages are shared until somebody writes to them.

    Without NORESERVE Linux would refuse a file larger than the memory, in case all is written to.
    """
    with path.open("rb") as file:
        return mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


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
    starts = _starts_of(np.array(sizes), index.channels)
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


def _starts_of(sizes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Return (N + 1,) positions of images' first bytes, and the end, from (N, 2) sizes."""
    return np.concatenate([[0], np.cumsum(channels * sizes.prod(axis=1))])


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
) -> list[Part]:
    return [
        Part(
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
    partial: Path, index: ImageIndex, parts: Sequence[Part], progress: Progress
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


def _read_intact(partial: Path, parts: Sequence[Part]) -> dict[int, int]:
    """Return the checksums of the parts that a killed process had written, where they are right."""
    journal = partial / "parts.jsonl"
    numbered, written = {part.number: part for part in parts}, {}
    for line in journal.read_bytes().splitlines() if journal.exists() else []:
        with suppress(ValueError, TypeError):  # the last line may have been cut
            number, crc32 = json.loads(line)
            if number in numbered:
                written[number] = crc32
    spans = [_span_of(numbered[number]) for number in written]
    found = dict(zip(written, _checksums(partial / "pixels.bin", spans), strict=True))
    return {number: crc32 for number, crc32 in found.items() if crc32 == written[number]}


def _span_of(part: Part) -> tuple[int, int]:
    pixels = sum(height * width for height, width in part.sizes)
    return part.offset, part.offset + part.channels * pixels


def _checksums(path: Path, spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return the CRC-32 of each span of a file, first byte and end."""

    def compute(span: tuple[int, int]) -> int:
        first, end = span
        crc32 = 0
        with path.open("rb") as file:
            file.seek(first)
            while chunk := file.read(min(_READ_BYTES, end - file.tell())):
                crc32 = zlib.crc32(chunk, crc32)
        return crc32

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # reads and sums outside Python's lock
        return list(pool.map(compute, spans))


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


def _damaged(folder: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{folder}: pixel cache is damaged (wrong size or checksum); delete the folder, "
        "it is built again from the images"
    )
