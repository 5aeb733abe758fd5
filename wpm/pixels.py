"""Decode once: image files become a uint8 cache on disk that every trial of a node maps."""

import hashlib
import logging
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from wpm.atomic import DamagedFileError, hold_lock, read_json, write_json
from wpm.datasets import ImageIndex
from wpm.errors import UserError

FORMAT = 1  # raise when the layout or the decoding changes: old caches are then left alone
_CHECK_BYTES = 64 * 2**20  # one CRC per so many bytes
_BUILD_WAIT_S = 24 * 3600.0  # another process decodes; the largest set takes hours
_DECODE_WINDOW = 256  # images decoded ahead of the writer: bounds memory

_log = logging.getLogger(__name__)


class Pixels:
    """Decoded images of a set, mapped from disk, shared by all processes of a node.

    Attributes:
        labels: (N,) int64, position of an image's class in `class_names`.
        class_names: all classes of the data set.
        sizes: (N, 2) int64, height and width of every image in pixels.
        channels: 1 or 3 (RGB).
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
        self.class_names: tuple[str, ...] = tuple(meta["class_names"])
        self.channels: int = meta["channels"]
        self.labels = torch.tensor(meta["labels"], dtype=torch.int64)
        self.sizes = torch.tensor(meta["sizes"], dtype=torch.int64).view(-1, 2)
        num_bytes = self.channels * self.sizes.prod(dim=1)
        self._starts = torch.cat([num_bytes.new_zeros(1), num_bytes.cumsum(0)])
        path = folder / "pixels.bin"
        if not path.exists() or path.stat().st_size != int(self._starts[-1]):
            raise _damaged(folder)
        # Read-only: what a process might write to, Linux does not let it map beyond the memory.
        mapped = np.memmap(path, dtype=np.uint8, mode="r")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of writing to it; `read` copies
            self._bytes = torch.from_numpy(mapped)
        same_size = bool((self.sizes == self.sizes[0]).all())
        height, width = self.sizes[0].tolist()
        self._uniform = self._bytes.view(-1, self.channels, height, width) if same_size else None

    def __len__(self) -> int:
        return len(self.labels)

    def indices_of(self, classes: Sequence[int]) -> Tensor:
        """Return (M,) positions of the images of some classes, in order."""
        return torch.nonzero(torch.isin(self.labels, torch.tensor(classes))).flatten()

    def read(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Copy some images into one batch.

        Args:
            indices: (B,) positions.

        Returns:
            (B, C, height, width) uint8, padded with zeros at the right and bottom to the largest
            of the batch, and (B, 2) int64 heights and widths.
        """
        sizes = self.sizes[indices]
        if self._uniform is not None:
            return self._uniform[indices], sizes
        height, width = sizes.amax(dim=0).tolist()
        images = torch.zeros((len(indices), self.channels, height, width), dtype=torch.uint8)
        for image, i, (h, w) in zip(images, indices.tolist(), sizes.tolist(), strict=True):
            flat = self._bytes[self._starts[i] : self._starts[i + 1]]
            image[:, :h, :w] = flat.view(self.channels, h, w)
        return images, sizes

    def verify(self) -> None:
        """Compare every byte with the checksums written with it.

        Raises:
            DamagedFileError: they differ.
        """
        checks = read_json(self.folder / "meta.json")["crc32"]
        if list(_crc32_of(self.folder / "pixels.bin")) != checks:
            raise _damaged(self.folder)


def build_pixels(index: ImageIndex, resize: int, work_root: Path) -> Path:
    """Decode the images of an index into a cache, unless that was done before.

    The cache's name is a digest of the images' content, classes and decoding settings. Several
    processes may call this at once: one decodes, the others wait for it.

    Args:
        index: images to decode; a search passes trainval images only.
        resize: length of the shorter side in pixels.
        work_root: caches go to `work_root/pixels`.

    Returns:
        The cache's folder, complete and verified.

    Raises:
        UserError: unreadable images, all named by number and the first by path; a damaged cache.
    """
    if not index.paths:
        raise UserError(f"no images to decode in {index.root}")
    name = f"{index.dataset}-{resize}px-{_key_of(index, resize, work_root)}"
    folder = work_root / "pixels" / name
    with hold_lock(
        folder.with_suffix(".lock"), wait_s=_BUILD_WAIT_S, what=f"pixel cache {folder.name}"
    ):
        if not (folder / "meta.json").exists():
            _decode_into(folder, index, resize)
        Pixels(folder).verify()
    return folder


def decode_image(path: Path | Image.Image, channels: int, resize: int) -> NDArray[np.uint8]:
    """Open an image, convert it and resize its shorter side.

    Args:
        path: the file, or an image that is open already.
        channels: 1 for greyscale, 3 for RGB.
        resize: length of the shorter side in pixels; the longer keeps the ratio, rounded down.

    Returns:
        (C, height, width) uint8.

    Raises:
        OSError, SyntaxError, ValueError: what Pillow raises on files that it cannot read.
    """
    # An image that is open already is its owner's to close.
    opened = nullcontext(path) if isinstance(path, Image.Image) else Image.open(path)
    with opened as image:
        converted = _to_eight_bit(image).convert("L" if channels == 1 else "RGB")
    width, height = converted.size
    short = min(width, height)
    size = (int(resize * width / short), int(resize * height / short))
    if size != converted.size:
        converted = converted.resize(size, Image.Resampling.BILINEAR)
    pixels = np.asarray(converted)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Prepare the kinds of image that Pillow's own conversion clips or warns about."""
    if image.mode.startswith("I"):  # 16 bits a pixel, which conversion would cut off at 255
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray((levels.clip(max=65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Strokes on nothing: without a ground they would vanish in the colour under the glass.
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image


@dataclass(frozen=True)
class _Unreadable:
    path: str
    reason: str


def _decode_into(folder: Path, index: ImageIndex, resize: int) -> None:
    """Write a cache beside its final name, then rename it."""
    for stale in folder.parent.glob(
        f".partial-{folder.name}-*"
    ):  # of a killed builder; we hold the lock
        shutil.rmtree(stale, ignore_errors=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".partial-{folder.name}-"))
    try:
        sizes: list[tuple[int, int]] = []
        unreadable: list[_Unreadable] = []
        with (partial / "pixels.bin").open("wb") as file:
            for decoded in _decode_all(index, resize):
                if isinstance(decoded, _Unreadable):
                    unreadable.append(decoded)
                else:
                    file.write(np.ascontiguousarray(decoded).tobytes())
                    sizes.append(decoded.shape[1:])
        if unreadable:
            first = "; ".join(f"{bad.path} ({bad.reason})" for bad in unreadable[:3])
            raise UserError(
                f"{len(unreadable)} of {len(index.paths)} images in {index.root} cannot be read: "
                f"{first}{'; ...' if len(unreadable) > 3 else ''}; mend or delete them"
            )
        meta: dict[str, Any] = {
            "format": FORMAT,
            "dataset": index.dataset,
            "root": str(index.root),
            "resize": resize,
            "channels": index.channels,
            "class_names": index.class_names,
            "labels": index.labels.tolist(),
            "sizes": sizes,
            "crc32": list(_crc32_of(partial / "pixels.bin")),
        }
        write_json(partial / "meta.json", meta)
        shutil.rmtree(folder, ignore_errors=True)  # no meta.json: never finished
        partial.rename(folder)
    except OSError as error:
        raise UserError(
            f"{folder}: pixel cache cannot be written ({error.strerror}); free space or choose "
            "another --work-root"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _decode_all(index: ImageIndex, resize: int) -> Iterator[NDArray[np.uint8] | _Unreadable]:
    """Decode in order, several threads ahead (Pillow decodes and resizes outside Python's lock)."""

    def decode(path: str) -> NDArray[np.uint8] | _Unreadable:
        try:
            return decode_image(index.root / path, index.channels, resize)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return _Unreadable(path, str(error).splitlines()[0] if str(error) else repr(error))

    done = 0
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start in range(0, len(index.paths), _DECODE_WINDOW):
            window = index.paths[start : start + _DECODE_WINDOW]
            yield from pool.map(decode, window)
            done += len(window)
            _log.info("decoded %d of %d images of %s", done, len(index.paths), index.dataset)


def _key_of(index: ImageIndex, resize: int, work_root: Path) -> str:
    """Digest what the cache depends on: names, content, classes, decoding."""
    digest = hashlib.sha256(f"{FORMAT} {resize} {index.channels}\n".encode())
    # All classes of the set: the splits are cut by their number.
    digest.update("\0".join(index.class_names).encode())
    contents = _content_digests(index, work_root)
    for path, label, content in zip(index.paths, index.labels.tolist(), contents, strict=True):
        digest.update(f"{path}\0{label}\0{content}\n".encode())
    return digest.hexdigest()[:16]


def _content_digests(index: ImageIndex, work_root: Path) -> list[str]:
    """Digest every file; files whose size and times are as remembered are not read again."""
    root_key = hashlib.sha256(str(index.root.resolve()).encode()).hexdigest()[:16]
    memory_path = work_root / "pixels" / f"digests-{root_key}.json"
    try:
        known: dict[str, list[Any]] = read_json(memory_path)
    except UserError:  # not there, or damaged: only a memory of what can be computed again
        known = {}
    digests, changed = [], False
    for path in index.paths:
        try:
            stat = (index.root / path).stat()
            stamp = [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]
            if path not in known or known[path][0] != stamp:
                content = hashlib.sha256((index.root / path).read_bytes()).hexdigest()
                known[path], changed = [stamp, content], True
        except OSError as error:
            raise UserError(
                f"{index.root / path}: cannot be read ({error.strerror}); mend or delete it"
            ) from error
        digests.append(str(known[path][1]))
    if changed:
        write_json(memory_path, known)
    return digests


def _crc32_of(path: Path) -> Iterator[int]:
    with path.open("rb") as file:
        while chunk := file.read(_CHECK_BYTES):
            yield zlib.crc32(chunk)


def _damaged(folder: Path) -> DamagedFileError:
    return DamagedFileError(
        f"{folder}: pixel cache is damaged (wrong size or checksum); delete the folder, "
        "it is built again from the images"
    )
