"""Decode once: image files become a uint8 cache on disk that every trial of a node maps."""

import logging
import mmap
import os
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wpm.errors import DamagedFileError, FormatError
from wpm.files import read_json

FORMAT = 2  # raise when the layout or the decoding changes: old caches are then left alone
# Decoded by one worker, kept when the rest is cut short; has one checksum, so part of the format.
PART_IMAGES = 64
# Of a GPU's free memory when a training starts; activations, and other trials, need the rest.
RESIDENT_SHARE = 0.25
_READ_BYTES = 16 * 2**20

_MAP_NORESERVE = 0x4000  # Linux's; Python names it from 3.14 on

_log = logging.getLogger(__name__)


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
        self.starts = torch.from_numpy(starts_of(self.sizes.numpy(), self.channels))
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
        if read_checksums(self.folder / "pixels.bin", spans) != checks:
            raise _damaged(self.folder)


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


def starts_of(sizes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Return (N + 1,) positions of images' first bytes, and the end, from (N, 2) sizes."""
    return np.concatenate([[0], np.cumsum(channels * sizes.prod(axis=1))])


def read_checksums(path: Path, spans: Iterable[tuple[int, int]]) -> list[int]:
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


def _damaged(folder: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{folder}: pixel cache is damaged (wrong size or checksum); delete the folder, "
        "it is built again from the images"
    )
