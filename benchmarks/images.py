"""From image files to the input of the trunk: decoding them every time against a pixel cache.

python -m benchmarks.images                            # photographs of 500 x 375 made here
python -m benchmarks.images --data-root DIR            # a folder or zip, a folder for each class
python -m benchmarks.images --protocol small --quick   # 24 px instead of 227
"""

import argparse
import itertools
import multiprocessing
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, RandomSampler
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.image_data import make_photographs
from benchmarks.machine import find_device
from wpm.cpus import count_cpus
from wpm.data.batches import BatchMaker
from wpm.data.datasets import load_index
from wpm.data.decoding import (
    DecodedPart,
    DecodingTask,
    decode_in_processes,
    decode_in_threads,
)
from wpm.data.image_file import cached_size
from wpm.data.index import DataSource, ImageIndex
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import PART_IMAGES, Pixels
from wpm.model.embedding import build_model, freeze_batch_norm
from wpm.model.layout import place
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol

BATCH = 32
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def endless_pil_batches(root: Path, protocol: Protocol, cores: int) -> Iterator[Tensor]:
    """Yield batches that a DataLoader makes from files with Pillow, one worker on each core."""
    augment = transforms.Compose(
        [
            transforms.RandomResizedCrop(protocol.crop, protocol.crop_scale, protocol.crop_ratio),
            transforms.RandomHorizontalFlip(protocol.flip),
            transforms.ToTensor(),
            transforms.Normalize(*IMAGENET),
        ]
    )
    images = ImageFolder(str(root), augment)
    sampler = RandomSampler(images, replacement=True, num_samples=10**9)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    loader = DataLoader(images, BATCH, sampler=sampler, num_workers=cores,
                        pin_memory=device == "cuda", persistent_workers=True)  # fmt: skip
    for batch, _ in loader:
        yield batch.to(device, non_blocking=True)


def endless_cached_batches(
    pixels: Pixels, protocol: Protocol, device: torch.device
) -> Iterator[Tensor]:
    """Yield batches from the pixel cache, as a training makes them."""
    spec = build_model(protocol, pixels.channels, seed=0).trunk.input_spec
    maker, generator = BatchMaker(pixels, protocol, spec, device), torch.Generator().manual_seed(0)
    while True:
        indices = torch.randint(len(pixels), (BATCH,), generator=generator)
        yield maker.training_batch(indices, generator)[0]


@dataclass(frozen=True)
class Rate:
    """Images per second, and per second of CPU time of this process and its children."""

    wall: float
    cpu: float


def cpu_seconds(with_children: bool) -> float:
    """Return the CPU time of this process, and if asked of all that it has started."""
    total = time.process_time()
    if not with_children:
        return total
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    total += ended.ru_utime + ended.ru_stime
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


def measure(run: Callable[[], int], *, with_children: bool) -> Rate:
    """Return the rate of a function that returns the number of images it has processed."""
    synchronize()
    wall, cpu = time.perf_counter(), cpu_seconds(with_children)
    count = run()
    synchronize()
    wall, cpu = time.perf_counter() - wall, cpu_seconds(with_children) - cpu
    return Rate(count / wall, count / cpu)


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(what: str, ways: dict[str, Callable[[], Rate]], repeats: int) -> None:
    """Print the rates of two ways, measured in turn, and the median of their ratios."""
    pairs = [tuple(way() for way in ways.values()) for _ in range(repeats)]
    rates = []
    for name, column in zip(ways, zip(*pairs, strict=True), strict=True):
        wall = statistics.median(rate.wall for rate in column)
        cpu = statistics.median(rate.cpu for rate in column)
        rates.append(f"{name} {wall:.0f} images/s ({cpu:.0f} per CPU second)")
    wall = statistics.median(b.wall / a.wall for a, b in pairs)
    cpu = statistics.median(b.cpu / a.cpu for a, b in pairs)
    print(f"{what}: {', '.join(rates)}; ratio {wall:.2f} by the clock, {cpu:.2f} by CPU time "
          f"(n = {repeats} pairs)", flush=True)  # fmt: skip


def compare_batches(
    root: Path,
    pixels: Pixels,
    protocol: Protocol,
    device: torch.device,
    cores: int,
    seconds: float,
    repeats: int,
) -> None:
    """Print the rates of batches from files and of batches from the cache."""

    def take(batches: Iterator[Tensor], ahead: int, with_children: bool) -> Rate:
        for _ in itertools.islice(
            batches, ahead
        ):  # batches that were made before the clock started
            pass
        end = time.perf_counter() + seconds

        def run() -> int:
            count = 0
            while time.perf_counter() < end:
                count += len(next(batches))
            return count

        return measure(run, with_children=with_children)

    pil = endless_pil_batches(root, protocol, cores)
    ours = endless_cached_batches(pixels, protocol, device)
    ways = {
        "files, Pillow and DataLoader": lambda: take(pil, 3 * cores + 1, True),
        f"cache, on {device}": lambda: take(ours, 1, False),
    }
    compare(f"batches of {BATCH} at {protocol.crop} px, {cores} cores", ways, repeats)


def compare_decoding(
    index: ImageIndex, resize: int, cores: int, folder: Path, repeats: int
) -> None:
    """Print the rates of threads and of processes, and how many cores threads can use at most."""
    sizes = [cached_size(index.root / path, resize) for path in index.paths]
    starts = np.cumsum([0, *(index.channels * h * w for h, w in sizes)]).tolist()
    file = folder / "pixels.bin"
    file.write_bytes(bytes(starts[-1]))
    parts = [
        DecodingTask(number, str(file), starts[first], str(index.root),
             index.paths[first : first + PART_IMAGES], sizes[first : first + PART_IMAGES],
             index.channels, resize)
        for number, first in enumerate(range(0, len(sizes), PART_IMAGES))
    ]  # fmt: skip

    def decode(way: Callable[..., Iterator[DecodedPart]]) -> Rate:
        return measure(
            lambda: sum(len(parts[part.number].paths) for part in way(parts, cores)),
            with_children=True,
        )

    ways = {
        "threads": lambda: decode(decode_in_threads),
        "processes": lambda: decode(decode_in_processes),
    }
    compare(f"decoding {len(sizes)} images to {resize} px, {cores} cores", ways, repeats)
    stages = time_stages(index, resize)
    locked = stages["open"] + stages["copy"]
    print("; ".join(f"{name} {1e6 * seconds:.0f} us" for name, seconds in stages.items())
          + f" per image: {locked / sum(stages.values()):.0%} under Python's lock, so threads "
          f"cannot use more than about {sum(stages.values()) / locked:.0f} cores")  # fmt: skip


def time_stages(index: ImageIndex, resize: int) -> dict[str, float]:
    """Return the CPU seconds per image; Pillow releases Python's lock only to decode and resize."""
    spent = dict.fromkeys(("open", "decode", "resize", "copy"), 0.0)
    paths = index.paths[:300]

    def timed(stage: str, function: Callable[..., Any], *arguments: Any) -> Any:
        start = time.thread_time()
        result = function(*arguments)
        spent[stage] += (time.thread_time() - start) / len(paths)
        return result

    for path in paths:
        height, width = cached_size(index.root / path, resize)
        image = timed("open", Image.open, index.root / path)
        colour = timed("decode", image.convert, "RGB")
        small = timed("resize", colour.resize, (width, height), Image.Resampling.BILINEAR)
        timed("copy", small.tobytes)
    return spent


@dataclass(frozen=True)
class Waiting:
    """Median seconds of a training step, and the share of it spent waiting for images."""

    share: float
    step_s: float
    n: int


def measure_waiting(
    pixels: Pixels, protocol: Protocol, device: torch.device, seconds: float
) -> Waiting:
    """Measure how long training steps wait for their images."""
    model = place(build_model(protocol, pixels.channels, seed=0), device).train()
    freeze_batch_norm(model)
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0)
    batches = endless_cached_batches(pixels, protocol, device)

    def step(images: Tensor) -> None:
        optimizer.zero_grad(set_to_none=True)
        embeddings = nn.functional.normalize(model(images), dim=1)
        (embeddings @ embeddings.T).square().mean().backward()
        optimizer.step()

    def take_steps(source: Iterator[Tensor], steps: int) -> tuple[float, float]:
        """Return the seconds for some steps, and the seconds in which the CPU made their images."""
        synchronize()
        making, start = 0.0, time.perf_counter()
        for _ in range(steps):
            before = time.perf_counter()
            images = next(source)
            making += time.perf_counter() - before
            step(images)
        synchronize()
        return time.perf_counter() - start, making

    ready, steps = itertools.repeat(next(batches)), 20 if device.type == "cuda" else 1
    take_steps(batches, 1)
    waits: list[tuple[float, float]] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(waits) < 3:
        total, making = take_steps(batches, steps)
        # A GPU computes while the CPU makes images; it waited as long as steps with images that
        # are ready are faster.
        wait = total - take_steps(ready, steps)[0] if device.type == "cuda" else making
        waits.append((wait / total, total / steps))
    share, total = (statistics.median(column) for column in zip(*waits, strict=True))
    return Waiting(share, total, len(waits))


def _read_all(folder: Path, barrier: Any, answers: Any) -> None:
    """Read a cache, and return the memory of its mapping once the other process has read it too."""
    pixels = Pixels(folder)
    pixels.bytes.sum()
    barrier.wait()
    lines = Path("/proc/self/smaps").read_text().partition(str(folder / "pixels.bin"))[2]
    sizes = dict(line.split(":") for line in lines.splitlines()[1:20])
    answers.put([int(sizes[name].split()[0]) for name in ("Rss", "Pss", "Private_Dirty")])
    barrier.wait()


def measure_sharing(folder: Path) -> None:
    """Print the memory of two processes that have read the same cache."""
    context = multiprocessing.get_context("spawn")
    barrier, answers = context.Barrier(2), context.SimpleQueue()
    workers = [context.Process(target=_read_all, args=(folder, barrier, answers)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for number in range(2):
        rss, pss, private = answers.get()
        print(f"process {number} of 2 reading one cache: {rss / 1024:.1f} MiB mapped and read, "
              f"{pss / 1024:.1f} MiB its share, {private / 1024:.1f} MiB its own")  # fmt: skip
    for worker in workers:
        worker.join()


def main() -> None:
    """Print the figures for decoding, batches, waiting and memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data-root", type=Path, help="images [made here]")
    parser.add_argument("--protocol", choices=["mlrc", "small"], default="mlrc")
    parser.add_argument("--cores", type=int, default=count_cpus())
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.cores)
    device, on = find_device()
    print(f"{on}, {count_cpus()} cores, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}, Pillow {PIL.__version__}")  # fmt: skip
    protocol = find_protocol(args.protocol, "folder")
    with tempfile.TemporaryDirectory() as scratch:
        work_root = Path(scratch)
        made, repeats, seconds = (400, 3, 2.0) if args.quick else (2000, 7, 10.0)
        data_root = args.data_root or make_photographs(work_root / "photographs", made)
        index = load_index(DataSource("folder", data_root, work_root))
        if args.quick:
            index = index.subset(range(8))
        compare_decoding(index, protocol.resize, args.cores, work_root, repeats)
        pixels = Pixels(build_pixel_cache(index, protocol.resize, work_root))
        compare_batches(index.root, pixels, protocol, device, args.cores, seconds, repeats)
        waiting = measure_waiting(pixels, protocol, device, 3 * seconds)
        print(f"{protocol.trunk} at {protocol.crop} px, batch {BATCH}: "
              f"{1e3 * waiting.step_s:.0f} ms a step, {waiting.share:.1%} of it waiting for images "
              f"(n = {waiting.n})")  # fmt: skip
        measure_sharing(pixels.folder)


if __name__ == "__main__":
    main()
