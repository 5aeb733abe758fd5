"""Read the pixel cache: decoded images on disk that all processes of a node map and share.

Three things are easily confused. A *pixel cache* is the folder that `wpm.data.pixel_cache` builds,
and every variable that holds its path is called `pixel_cache`. `Pixels` is the reader of such a
folder. The pixels of one image are a tensor that `Pixels.image` returns.
"""

import logging
import mmap
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wpm.cpus import count_cpus
from wpm.data.image_file import ImageFinding
from wpm.data.index import OwnSplit
from wpm.data.parts import Part
from wpm.errors import DamagedFileError, FormatError
from wpm.files import read_json

FORMAT = 2  # raise it when layout or decoding change; caches of another format are then not used
# Images that one worker decodes in one go. They share a checksum, so the number is part of the
# format, and after a kill all of them are kept or none.
PART_IMAGES = 64
# Share of a GPU's memory that a cache may take, of what this process may still allocate when a
# training starts. Activations need the rest.
RESIDENT_SHARE = 0.25
_READ_BYTES = 16 * 2**20

_MAP_NORESERVE = 0x4000  # of Linux; Python has a name for it from 3.14 on

_log = logging.getLogger(__name__)


class Pixels:
    """Reader of a pixel cache, mapped from disk and shared by all processes of a node.

    Attributes:
        folder: the pixel cache.
        labels: (N,) int64, position of an image's class in `class_names`.
        class_names: all classes of the data set, also those without images here.
        sizes: (N, 2) int64, height and width of every image in pixels.
        channels: 1 or 3 (RGB).
        starts: (N + 1,) int64, position of every image's first byte in `bytes`, and the end.
        bytes: uint8 of all images: image after image, row after row, channels last.
        left_out: as `read_left_out` returns it.
        split: which half the images are of a split that the user gives; None for the protocol's.
    """

    def __init__(self, folder: Path) -> None:
        """Map a finished cache.

        Raises:
            StorageError: the folder is not a finished cache.
            FormatError: another version wrote it, in another layout.
            DamagedFileError: its size is wrong.
        """
        self.folder = folder
        meta = read_json(folder / "meta.json")
        if meta["format"] != FORMAT:
            raise FormatError(
                f"{folder}: pixel cache of format {meta['format']}, this version reads {FORMAT}; "
                "give the launch command again, and it builds another"
            )
        self.class_names: tuple[str, ...] = tuple(meta["class_names"])
        self.channels: int = meta["channels"]
        self.left_out = _left_out(meta)
        self.split = _read_split(meta.get("split"))
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
        """Return (height, width, C) uint8 of one image: a view of the mapped memory, not a copy."""
        height, width = self.sizes[position].tolist()
        first, end = self.starts[position : position + 2].tolist()
        return self.bytes[first:end].view(height, width, self.channels)

    def resident(self, device: torch.device) -> Tensor | None:
        """Return all bytes on a GPU, copied there once; None if they exceed `RESIDENT_SHARE`."""
        if device not in self._resident:
            held = _copy_if_fits(self.bytes, device)
            self._resident[device] = held
            where = "in host memory" if held is None else "on the GPU"
            _log.info("%s: %.1f GB %s", self.folder.name, len(self.bytes) / 1e9, where)
        return self._resident[device]

    def verify(self) -> None:
        """Compare all bytes with the checksums that were written with them.

        Raises:
            DamagedFileError: they differ.
        """
        checks = read_json(self.folder / "meta.json")["crc32"]
        firsts = self.starts[:-1:PART_IMAGES].tolist()
        spans = list(zip(firsts, [*firsts[1:], int(self.starts[-1])], strict=True))
        if read_checksums(self.folder / "pixels.bin", spans) != checks:
            raise _damaged(self.folder)


def read_left_out(folder: Path) -> list[tuple[str, str]]:
    """Return path and reason of the images that are not in a cache, as they were unreadable."""
    return _left_out(read_json(folder / "meta.json"))


def read_findings(folder: Path) -> list[tuple[str, ImageFinding]]:
    """Return path and finding of the images of a cache in which little can be seen."""
    # Caches built before images were looked at have no such entry.
    findings = read_json(folder / "meta.json").get("findings", [])
    return [(path, ImageFinding(finding)) for path, finding in findings]


def _read_split(content: Mapping[str, Any] | None) -> OwnSplit | None:
    if content is None:
        return None
    folds = content["folds"]
    return OwnSplit(Part(content["part"]), None if folds is None else tuple(folds))


def _left_out(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    # Caches built before --skip-unreadable existed have no such entry.
    return [(path, reason) for path, reason in meta.get("left_out", [])]


def _copy_if_fits(data: Tensor, device: torch.device) -> Tensor | None:
    """Copy bytes to a GPU unless they are too many for it."""
    if len(data) > RESIDENT_SHARE * _available_bytes(device):
        return None
    try:
        return data.to(device)
    except torch.OutOfMemoryError:  # another process took the memory meanwhile
        return None


def _available_bytes(device: torch.device) -> float:
    """Return what this process may still allocate on a GPU: free, and below its cap."""
    # The number of the GPU, or None for the current one: not every function takes "cuda" alone.
    gpu = device.index
    free, total = torch.cuda.mem_get_info(gpu)
    cap = torch.cuda.get_per_process_memory_fraction(gpu) * total
    return min(free, cap - torch.cuda.memory_allocated(gpu))


def _map_privately(path: Path) -> mmap.mmap:
    """Map a file copy-on-write: its pages are shared until somebody writes to them.

    `torch.frombuffer` expects writable memory. Without NORESERVE Linux would refuse a file that
    is larger than the memory, in case all of it gets written to.
    """
    with path.open("rb") as file:
        return mmap.mmap(
            file.fileno(),
            0,
            flags=mmap.MAP_PRIVATE | _MAP_NORESERVE,
            prot=mmap.PROT_READ | mmap.PROT_WRITE,
        )


def starts_of(sizes: NDArray[np.int64], channels: int) -> NDArray[np.int64]:
    """Return (N + 1,) positions of images' first bytes, and the end, from their (N, 2) sizes."""
    return np.concatenate([[0], np.cumsum(channels * sizes.prod(axis=1))])


def read_checksums(path: Path, spans: Iterable[tuple[int, int]]) -> list[int]:
    """Return the CRC-32 of some spans of a file, each given by its first byte and its end."""

    def compute(span: tuple[int, int]) -> int:
        first, end = span
        crc32 = 0
        with path.open("rb") as file:
            file.seek(first)
            while chunk := file.read(min(_READ_BYTES, end - file.tell())):
                crc32 = zlib.crc32(chunk, crc32)
        return crc32

    with ThreadPoolExecutor(count_cpus()) as pool:  # reading and summing release Python's lock
        return list(pool.map(compute, spans))


def _damaged(folder: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{folder}: pixel cache is damaged (wrong size or checksum); delete the folder, "
        "and it is built again from the images"
    )
