"""Stage `images`: how fast batches are made, and how long a training step waits for them."""

import itertools
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import wpm.data.pixels
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.setup import make_photograph_cache
from benchmarks.images import BATCH, endless_cached_batches, measure_waiting
from benchmarks.table_cost import measure_images
from wpm.data.pixels import Pixels
from wpm.precision import float32_products

DECODED, CACHED = "a batch, decoded by Pillow on all cores", "a batch, from the cache"


def run(stage: Stage) -> None:
    """Measure the rate from both kinds of memory, the wait, and the published way beside."""
    with tempfile.TemporaryDirectory() as folder, float32_products("float32"):
        pixels = make_photograph_cache(Path(folder), stage.protocol(), 32 if stage.quick else 256)
        stage.each(
            {
                "augmentation": lambda: measure_rate(stage, pixels, "augmentation"),
                "waiting": lambda: measure_share(stage, pixels),
                "augmentation, staged": lambda: measure_staged(stage, pixels),
                DECODED: lambda: measure_decoding(stage),
            },
            needs_s=3,
        )


def measure_rate(stage: Stage, pixels: Pixels, what: str) -> None:
    """Record the images a second that become the trunk's input on the device."""
    batches = endless_cached_batches(pixels, stage.protocol(), stage.device)
    list(itertools.islice(batches, 3))
    stage.synchronize()
    seconds = 0.5 if stage.quick else 3.0
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        next(batches)
        count += 1
    stage.synchronize()  # the rate is that of the device, not of its queue
    rate = BATCH * count / (time.perf_counter() - begin)
    stage.record(what, rate, "images/s", n=count)


def measure_staged(stage: Stage, pixels: Pixels) -> None:
    """Record the rate where the pixels do not fit the GPU's memory."""
    if stage.device.type == "cpu":
        stage.skip("augmentation, staged", "a CPU reads the cache itself")
        return
    with patch.object(wpm.data.pixels, "RESIDENT_SHARE", 0.0):
        measure_rate(stage, Pixels(pixels.folder), "augmentation, staged")


def measure_share(stage: Stage, pixels: Pixels) -> None:
    """Record the share of a plain step in which it waits for images."""
    waiting = measure_waiting(
        pixels, stage.protocol(), stage.device, seconds=1.0 if stage.quick else 6.0
    )
    stage.record(
        "share of a plain step that waits for images", waiting.share, "of the step",
        precision="float32", n=waiting.n,
    )  # fmt: skip


def measure_decoding(stage: Stage) -> None:
    """Record the seconds of a batch in the published way and in ours."""
    part = measure_images(stage.protocol(), stage.device, 0.5 if stage.quick else 3.0)
    stage.record(DECODED, part.published, "s")
    stage.record(CACHED, part.ours, "s")
