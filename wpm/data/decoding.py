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
import time
import warnings
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from wpm.cpus import count_cpus
from wpm.data.image_file import UndecodableError, read_image
from wpm.errors import UserError

# From this many cores and images on, processes decode. Threads share Python's lock, which decoding
# an image holds for about 4% of its time, so that threads keep at most this many cores busy
# (benchmarks/images.py); on fewer cores they are faster. Small sets are decoded before a process
# has started.
PROCESS_CORES = 25
PROCESS_IMAGES = 2048
# A process that takes longer for a part, or for a single image when those of a part are tried one
# by one, is taken for hung. The largest images that Pillow opens take some seconds.
PART_SECONDS, IMAGE_SECONDS = 1200.0, 120.0
_COMMAND = [sys.executable, "-m", "wpm.data.decoding"]


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
        upright: whether to turn images as their metadata say.
        isolated: whether to decode in another process, as an earlier launch ended while decoding:
            an image may have ended it.
    """

    number: int
    file: str
    offset: int
    root: str
    paths: Sequence[str]
    sizes: Sequence[Sequence[int]]
    channels: int
    resize: int
    upright: bool = False
    isolated: bool = False


@dataclass(frozen=True)
class DecodedPart:
    """What became of a task.

    Attributes:
        number: of the part.
        crc32: checksum of its bytes.
        unreadable: path and reason of every image that could not be decoded.
        findings: path and `ImageFinding` of every image in which little can be seen.
    """

    number: int
    crc32: int
    unreadable: Sequence[Sequence[str]]
    findings: Sequence[Sequence[str]] = ()


def decode_part(part: DecodingTask) -> DecodedPart:
    """Decode images into their place in the file; only one is in memory at a time."""
    crc32, unreadable, findings = 0, [], []
    with Path(part.file).open("r+b", buffering=0) as file:
        file.seek(part.offset)
        for path, size in zip(part.paths, part.sizes, strict=True):
            try:
                image = read_image(
                    Path(part.root, path), part.channels, part.resize, upright=part.upright
                )
            except UndecodableError as error:
                unreadable.append((path, str(error)))
                continue
            found = image.pixels.shape[:2]
            if found != tuple(size):
                unreadable.append((path, f"its header promises {size}, it holds {found}"))
                continue
            if image.finding is not None:
                findings.append((path, image.finding.value))
            data = np.ascontiguousarray(image.pixels).data
            crc32 = zlib.crc32(data, crc32)
            if file.write(data) != data.nbytes:
                raise OSError(f"{part.file}: a write ended early")
    return DecodedPart(part.number, crc32, unreadable, tuple(findings))


def decode_parts(parts: Sequence[DecodingTask]) -> Iterator[DecodedPart]:
    """Decode parts on all cores: in processes if images and cores are many, else in threads.

    Parts that are to be decoded in isolation are decoded in processes in any case.

    Yields:
        One answer a part, in any order.

    Raises:
        OSError: the file cannot be written.
        UserError: a decoding process ended twice, and no image is to blame.
    """
    cores = count_cpus()
    is_small = cores < PROCESS_CORES or sum(len(part.paths) for part in parts) < PROCESS_IMAGES
    if is_small and not any(part.isolated for part in parts):
        return decode_in_threads(parts, cores)
    return decode_in_processes(parts, cores)


def decode_in_threads(parts: Sequence[DecodingTask], threads: int) -> Iterator[DecodedPart]:
    """Decode parts in threads; Pillow releases Python's lock to decode and to resize."""
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(decode_part, parts)


def decode_in_processes(parts: Sequence[DecodingTask], processes: int) -> Iterator[DecodedPart]:
    """Decode parts in other processes; each gets its next part when it has answered.

    Where a process ends or hangs, the images of its part are tried one by one. Those that do it
    again are unreadable; if there are none, the part is decoded once more.
    """
    waiting = iter(parts)
    with selectors.DefaultSelector() as selector:
        workers: set[_Worker] = set()

        def give_next(worker: _Worker) -> None:
            for part in islice(waiting, 1):
                worker.give(part, PART_SECONDS)
                selector.register(worker.answers, selectors.EVENT_READ, worker)

        try:
            for _ in range(min(processes, len(parts))):
                workers.add(_Worker())
            for worker in workers:
                give_next(worker)
            while busy := {key.data for key in selector.get_map().values()}:
                rest = min(worker.deadline for worker in busy) - time.monotonic()
                ready = {key.data for key, _ in selector.select(max(0.0, rest))}
                late = {worker for worker in busy if worker.deadline < time.monotonic()}
                for worker in ready | late:
                    selector.unregister(worker.answers)
                    decoded = worker.take() if worker in ready else None
                    if decoded is None:
                        worker.end()
                        workers.remove(worker)
                        decoded = _decode_with_care(worker.part)
                        worker = _Worker()
                        workers.add(worker)
                    give_next(worker)
                    yield decoded
        finally:
            for worker in workers:
                worker.end()  # a part without an answer is decoded again


def _decode_with_care(part: DecodingTask) -> DecodedPart:
    """Decode a part whose process ended or hung, and name the images that do this to a process.

    Raises:
        UserError: no image does so by itself, but the process ended again.
    """
    if unreadable := _find_harmful(part):
        return DecodedPart(part.number, 0, unreadable)
    worker = _Worker()
    try:
        worker.give(part, PART_SECONDS)
        decoded = worker.wait()
        if decoded is None:
            raise UserError(
                f"a decoding process {worker.end()} between {part.paths[0]} and {part.paths[-1]} "
                f"of {part.root}, twice; free memory, or fix the image that ends it"
            )
        return decoded
    finally:
        worker.end()


def _find_harmful(part: DecodingTask) -> list[tuple[str, str]]:
    """Return path and reason of the images of a part that end a process, or keep it too long."""
    harmful: list[tuple[str, str]] = []
    offset, worker = part.offset, _Worker()
    try:
        for path, size in zip(part.paths, part.sizes, strict=True):
            alone = replace(part, offset=offset, paths=[path], sizes=[size])
            worker.give(alone, IMAGE_SECONDS)
            decoded = worker.wait()
            if decoded is None:
                harmful.append((path, f"the process that decoded it {worker.end()}"))
                worker = _Worker()
            else:
                harmful += [(path, reason) for path, reason in decoded.unreadable]
            offset += part.channels * size[0] * size[1]
    finally:
        worker.end()
    return harmful


class _Worker:
    """A process that decodes parts, one after another.

    Attributes:
        part: what it decodes.
        answers: the stream that it answers on.
        deadline: until when it must have answered, by `time.monotonic`.
    """

    part: DecodingTask

    def __init__(self) -> None:
        self._process = _start_worker()
        self.answers = _pipe(self._process.stdout)
        self.deadline = 0.0
        self._ended = ""

    def give(self, part: DecodingTask, seconds: float) -> None:
        """Let it decode a part, for which it has so long."""
        self.part, self.deadline = part, time.monotonic() + seconds
        _give(self._process, part)

    def wait(self) -> DecodedPart | None:
        """Return its answer; None if it ended, or has not answered by its deadline."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            if not selector.select(max(0.0, self.deadline - time.monotonic())):
                return None
        return self.take()

    def take(self) -> DecodedPart | None:
        """Return the answer that is there; None if the process has ended instead.

        Raises:
            OSError: it could not write the pixels.
        """
        line = self.answers.readline()
        if not line.endswith("\n"):
            self._process.wait()
            return None
        answer = json.loads(line)
        if "error" in answer:
            raise OSError(*answer["error"])
        return DecodedPart(**answer)

    def end(self) -> str:
        """End the process if it has not ended by itself, and return how it ended."""
        if not self._ended:
            code = self._process.poll()
            took = f"was stopped after {IMAGE_SECONDS:g} seconds"
            self._ended = took if code is None else f"ended (exit code {code})"
            self._process.kill()
            self._process.communicate()
        return self._ended


def _start_worker() -> "subprocess.Popen[str]":
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        _COMMAND,
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


def _serve() -> None:
    """Decode the tasks that arrive on stdin until it ends."""
    warnings.filterwarnings("ignore", module="PIL")  # as in the process that builds the cache
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
