"""Decode image files into the bytes of a pixel cache, in threads or processes, without torch.

`python -m wpm.data.decoding` is such a process: it reads tasks as lines of JSON and answers each
with a line. multiprocessing is not used, because a process of our own starts in a tenth of a second
whatever the parent has imported, and ends by itself when the parent is gone, killed or not.
"""

import json
import os
import selectors
import subprocess
import sys
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wpm.cpus import count_cpus
from wpm.errors import UserError

# From this many cores and images on, processes decode. Threads share Python's lock, which decoding
# an image holds for about 4% of its time, so that threads keep at most this many cores busy
# (benchmarks/images.py); on fewer cores they are faster. Small sets are decoded before a process
# has started.
PROCESS_CORES = 25
PROCESS_IMAGES = 2048
# Errors of Pillow for files that it cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


@dataclass(frozen=True)
class DecodingTask:
    """A part of a cache to decode: images whose pixels lie one after another in a file.

    Attributes:
        number: of the part among those of the cache.
        file: where the pixels go; it exists and is long enough.
        offset: position of the first image's first byte in the file.
        root: folder that `paths` are relative to.
        paths: image files.
        sizes: height and width of each once decoded, as `cached_size` found them.
        channels: 1 for greyscale, 3 for RGB.
        resize: length of the shorter side in pixels.
    """

    number: int
    file: str
    offset: int
    root: str
    paths: Sequence[str]
    sizes: Sequence[Sequence[int]]
    channels: int
    resize: int


@dataclass(frozen=True)
class DecodedPart:
    """What became of a task.

    Attributes:
        number: of the part.
        crc32: checksum of its bytes.
        unreadable: path and reason of every image that could not be decoded.
    """

    number: int
    crc32: int
    unreadable: Sequence[Sequence[str]]


def decode_image(path: Path | Image.Image, channels: int, resize: int) -> NDArray[np.uint8]:
    """Open an image, convert it and resize its shorter side.

    Args:
        path: the file, or an image that is open already and stays open.
        channels: 1 for greyscale, 3 for RGB.
        resize: length of the shorter side in pixels; the longer keeps the ratio, rounded down.

    Returns:
        (height, width, C) uint8.

    Raises:
        OSError, SyntaxError, ValueError: Pillow cannot read the file.
    """
    opened = nullcontext(path) if isinstance(path, Image.Image) else Image.open(path)
    with opened as image:
        converted = _to_eight_bit(image).convert("L" if channels == 1 else "RGB")
    size = _resized(*converted.size, resize)
    if size != converted.size:
        converted = converted.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(converted).reshape(size[1], size[0], channels)


def cached_size(path: Path, resize: int) -> tuple[int, int]:
    """Return the height and width of an image once decoded, from its header; 0, 0 if unreadable."""
    try:
        with Image.open(path) as image:
            width, height = _resized(*image.size, resize)
    except UNREADABLE:
        return 0, 0  # decoding it will fail too, and give the reason
    return height, width


def _resized(width: int, height: int, resize: int) -> tuple[int, int]:
    short = min(width, height)
    return int(resize * width / short), int(resize * height / short)


def _to_eight_bit(image: Image.Image) -> Image.Image:
    """Prepare those kinds of image that Pillow's own conversion clips or warns about."""
    if image.mode.startswith("I"):  # 16 bits a pixel; converting would clip them at 255
        levels = np.asarray(image).astype(np.uint32)
        return Image.fromarray((levels.clip(max=65535) // 257).astype(np.uint8))
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        # Put transparent images on white: converting them directly would show the colour hidden
        # under transparent pixels.
        layers = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layers.size, "white"), layers)
    return image


def decode_part(part: DecodingTask) -> DecodedPart:
    """Decode images into their place in the file; only one is in memory at a time."""
    crc32, unreadable = 0, []
    with Path(part.file).open("r+b", buffering=0) as file:
        file.seek(part.offset)
        for path, size in zip(part.paths, part.sizes, strict=True):
            try:
                pixels = decode_image(Path(part.root, path), part.channels, part.resize)
                if pixels.shape[:2] != tuple(size):
                    raise ValueError(f"its header promises {size}, it holds {pixels.shape[:2]}")
            except UNREADABLE as error:
                reason = str(error).splitlines()[0] if str(error) else repr(error)
                unreadable.append((path, reason))
                continue
            data = np.ascontiguousarray(pixels).data
            crc32 = zlib.crc32(data, crc32)
            if file.write(data) != data.nbytes:
                raise OSError(f"{part.file}: a write ended early")
    return DecodedPart(part.number, crc32, unreadable)


def decode_parts(parts: Sequence[DecodingTask]) -> Iterator[DecodedPart]:
    """Decode parts on all cores: in processes if images and cores are many, else in threads.

    Yields:
        One answer a part, in any order.

    Raises:
        OSError: the file cannot be written.
        UserError: a decoding process was killed.
    """
    cores = count_cpus()
    if cores < PROCESS_CORES or sum(len(part.paths) for part in parts) < PROCESS_IMAGES:
        return decode_in_threads(parts, cores)
    return decode_in_processes(parts, cores)


def decode_in_threads(parts: Sequence[DecodingTask], threads: int) -> Iterator[DecodedPart]:
    """Decode parts in threads; Pillow releases Python's lock to decode and to resize."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode_part, parts)


def decode_in_processes(parts: Sequence[DecodingTask], processes: int) -> Iterator[DecodedPart]:
    """Decode parts in other processes; each gets its next part when it has answered."""
    waiting = iter(parts)
    with selectors.DefaultSelector() as selector:
        workers: list[subprocess.Popen[str]] = []
        try:
            for part in islice(waiting, processes):
                worker = _start_worker()
                workers.append(worker)
                selector.register(_pipe(worker.stdout), selectors.EVENT_READ, (worker, part))
                _give(worker, part)
            while selector.get_map():
                for key, _ in selector.select():
                    worker, part = key.data
                    decoded = _take(worker, part)
                    selector.unregister(key.fileobj)
                    for part in islice(waiting, 1):
                        selector.register(key.fileobj, selectors.EVENT_READ, (worker, part))
                        _give(worker, part)
                    yield decoded
        finally:
            for worker in workers:
                worker.kill()  # a part without an answer is decoded again
                worker.communicate()


def _start_worker() -> "subprocess.Popen[str]":
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-m", "wpm.data.decoding"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="ascii",
        process_group=0,  # so that Ctrl-C reaches the parent only
        # or numpy starts a thread per core, though nothing is multiplied here
        env={**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
    )


def _pipe(stream: Any) -> Any:
    assert stream is not None  # every process is started with pipes
    return stream


def _give(worker: "subprocess.Popen[str]", part: DecodingTask) -> None:
    with suppress(BrokenPipeError):  # the process has ended; reading its answer reports that
        stream = _pipe(worker.stdin)
        stream.write(json.dumps(asdict(part)) + "\n")
        stream.flush()


def _take(worker: "subprocess.Popen[str]", part: DecodingTask) -> DecodedPart:
    line = _pipe(worker.stdout).readline()
    if not line:
        raise UserError(
            f"a decoding process ended (exit code {worker.wait()}) between {part.paths[0]} and "
            f"{part.paths[-1]} of {part.root}; free memory, or fix the image that ends it"
        )
    answer = json.loads(line)
    if "error" in answer:
        raise OSError(*answer["error"])
    return DecodedPart(**answer)


def _serve() -> None:
    """Decode the tasks that arrive on stdin until it ends."""
    for line in sys.stdin:
        try:
            answer = asdict(decode_part(DecodingTask(**json.loads(line))))
        except OSError as error:
            answer = {"error": error.args}
        try:
            os.write(1, f"{json.dumps(answer)}\n".encode())
        except BrokenPipeError:  # the parent is gone
            return


if __name__ == "__main__":
    _serve()
