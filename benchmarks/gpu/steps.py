"""Stage `step`: seconds, memory, launches and waits of an optimiser step in every way there is."""

import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch.profiler import ProfilerActivity, profile

from benchmarks.folds import make_optimizer
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.setup import (
    NEG_MARGIN,
    POS_MARGIN,
    Batch,
    make_batch,
    make_patterned_cache,
    view_settings,
)
from benchmarks.within_pair_step import SHARPNESS, LiveBytes, LoopedLoss, backward_baseline
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.losses import build_loss
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.rows import PRETRAINED, Row
from wpm.spaces import known_losses, load_space
from wpm.training.config import TrainingConfig
from wpm.training.mined_step import MinedStep
from wpm.training.plain_step import PlainStep
from wpm.training.training import Training
from wpm.within_pair import WithinPairLoss

PUBLISHED_PLAIN, PUBLISHED_MINED = "plain, default layout", "mined, the description's loop"
PLAIN, FAST, LOW_MEMORY = "plain", "mined, fast", "mined, low memory"
BY_TRIAL = "cuDNN chooses by trial"
_MIN_STEPS = 3
# How the calls that queue work on a GPU are named in a profile.
_LAUNCHES = ("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch")
_WAIT_STEPS = 3  # over which the waits of a row are counted
Step = Callable[[], object]


def run(stage: Stage) -> None:
    """Measure float32 in all ways, then the waits of every row, then lower precisions."""
    measure_precision(stage, "float32")
    measure_context(stage)
    measure_waits(stage)
    measure_precision(stage, "tf32")
    measure_precision(stage, "bf16")


def measure_precision(stage: Stage, precision: str) -> None:
    """Measure every way of stepping in one precision."""
    if precision == "tf32" and stage.device.type == "cpu":
        stage.skip("steps", "a CPU has no tf32", precision=precision)
        return
    is_enough = stage.quick and stage.device.type == "cpu" and precision == "bf16"
    with float32_products(precision):
        protocol = stage.protocol(precision)
        batch = make_batch(protocol, stage.device)
        for name, build in list_ways(protocol, batch).items():
            if is_enough and name not in (PLAIN, FAST):
                stage.skip(name, "two ways show that it runs", precision=precision)
            elif stage.seconds_left < 5:
                stage.skip(name, "no time left", precision=precision)
            elif stage.device.type == "cpu" and BY_TRIAL in name:
                stage.skip(name, "needs a GPU", precision=precision)
            else:
                with stage.attempt(name, precision=precision), _cudnn_tries(BY_TRIAL in name):
                    measure_way(stage, name, build, precision)


@contextmanager
def _cudnn_tries(tries: bool) -> Iterator[None]:
    """Let cuDNN time its algorithms for every new shape, or choose by its rules as usual."""
    usual = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = tries
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = usual


def list_ways(protocol: Protocol, batch: Batch) -> dict[str, Callable[[], Step]]:
    """Return what builds each kind of step; every one has a copy of the model to itself."""

    def contrastive() -> ContrastiveLoss:
        return ContrastiveLoss(pos_margin=POS_MARGIN, neg_margin=NEG_MARGIN)

    def published_plain() -> Step:
        model, images = copy.deepcopy(batch.model), batch.images.contiguous()
        model.lay_out(torch.contiguous_format)
        loss = contrastive()

        def backward() -> None:
            model.zero_grad(set_to_none=True)
            loss(model(images), batch.classes).backward()

        return _with_optimizer(model, backward)

    def published_mined() -> Step:
        model, images = copy.deepcopy(batch.model), batch.images.contiguous()
        model.lay_out(torch.contiguous_format)
        loss = LoopedLoss(batch.classes)

        def backward() -> None:
            model.zero_grad(set_to_none=True)
            backward_baseline(model, images, batch.masks, loss)

        return _with_optimizer(model, backward)

    def plain() -> Step:
        model = copy.deepcopy(batch.model)
        step = PlainStep(model, contrastive())
        return _with_optimizer(model, lambda: step.backward(batch.images, batch.classes))

    def mined(mode: str) -> Step:
        model = copy.deepcopy(batch.model)
        loss = WithinPairLoss(contrastive(), sharpness=SHARPNESS)
        # The masks are drawn anew, as in a training: that is part of a step.
        step = MinedStep(model, loss, view_settings(protocol), torch.Generator().manual_seed(0))
        step.mode = mode
        return _with_optimizer(model, lambda: step.backward(batch.images, batch.classes))

    return {
        PUBLISHED_PLAIN: published_plain,
        PLAIN: plain,
        PUBLISHED_MINED: published_mined,
        FAST: lambda: mined("fast"),
        LOW_MEMORY: lambda: mined("low_memory"),
        f"{PLAIN}, {BY_TRIAL}": plain,
        f"{FAST}, {BY_TRIAL}": lambda: mined("fast"),
    }


def _with_optimizer(model: torch.nn.Module, backward: Callable[[], object]) -> Step:
    optimizer = make_optimizer(list(model.parameters()))

    def step() -> None:
        backward()
        optimizer.step()

    return step


def measure_way(
    stage: Stage,
    name: str,
    build: Callable[[], Step],
    precision: str,
    *,
    owns_memory: bool = False,
) -> None:
    """Record seconds, peak memory and launches of one kind of step.

    Args:
        stage: that measures.
        name: of the kind.
        build: makes the step.
        precision: of trunk and embedder.
        owns_memory: whether a step allocates when it is built all that it needs, as a captured one.
    """
    _reset_peak(stage)
    before = _allocated_bytes(stage)
    step = build()
    step()
    if owns_memory:
        peak, note = int(torch.cuda.max_memory_allocated() - before), "with a copy of the weights"
    else:
        peak, note = peak_bytes(stage, step), ""
    median, n = time_step(stage, step, seconds=0.2 if stage.quick else 1.0)
    stage.record(name, median, "s", precision=precision, n=n)
    stage.record(name, peak / 2**20, "MiB at most", precision=precision, note=note)
    if stage.device.type == "cuda":
        stage.record(name, count_launches(stage, step), "launches", precision=precision)


def measure_context(stage: Stage) -> None:
    """Record what the GPU holds for this process beside the allocator: context and kernels."""
    what = "context and kernels of a process, where it is alone"
    if stage.device.type == "cpu":
        stage.skip(what, "needs a GPU")
        return
    free, total = torch.cuda.mem_get_info()
    stage.record(what, (total - free - torch.cuda.memory_reserved()) / 2**20, "MiB")


def _allocated_bytes(stage: Stage) -> int:
    return torch.cuda.memory_allocated() if stage.device.type == "cuda" else 0


def _reset_peak(stage: Stage) -> None:
    if stage.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def time_step(stage: Stage, step: Step, seconds: float) -> tuple[float, int]:
    """Return the median seconds of a step and how many were taken.

    A training does not wait for the GPU after a step, so a GPU is timed over several.
    """
    block = 5 if stage.device.type == "cuda" else 1
    times: list[float] = []
    stage.synchronize()
    end = time.perf_counter() + seconds
    while len(times) < (2 if stage.quick else _MIN_STEPS) or time.perf_counter() < end:
        start = time.perf_counter()
        for _ in range(block):
            step()
        stage.synchronize()
        times.append((time.perf_counter() - start) / block)
        if stage.seconds_left < 2:
            break
    return statistics.median(times), block * len(times)


def peak_bytes(stage: Stage, step: Step) -> int:
    """Return the memory that a step takes beyond what is there before it.

    On a CPU the bytes of tensors are counted; a GPU counts by itself.
    """
    if stage.device.type == "cpu":
        with LiveBytes() as counted:
            step()
        return int(counted.peak)
    _reset_peak(stage)
    before = _allocated_bytes(stage)
    step()
    torch.cuda.synchronize()
    return int(torch.cuda.max_memory_allocated() - before)


def count_launches(stage: Stage, step: Step) -> int:
    """Return how many times a step queues work on the GPU; a graph is queued as one."""
    activities = [ProfilerActivity.CPU]
    if stage.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled:
        step()
        stage.synchronize()
    events = profiled.key_averages()
    return sum(int(event.count) for event in events if event.key.startswith(_LAUNCHES))


# Waits of the CPU for the GPU


def list_rows() -> list[Row]:
    """Return every row that can be trained: 17 losses, and the mined ones of those with pairs."""
    rows = [Row.parse(loss) for loss in known_losses() if loss != PRETRAINED]
    return rows + [mined for row in rows if (mined := _mine(row)) is not None]


def _mine(row: Row) -> Row | None:
    mined = Row.parse(f"{row}+wpm")
    try:
        build_loss(mined, middle_of(mined), num_classes=4, embedding_dim=4)
    except UserError:
        return None
    return mined


def middle_of(row: Row) -> dict[str, float]:
    """Return the parameters in the middle of a row's search space.

    Raises:
        UserError: mining has no meaning for the row.
    """
    space = load_space(row)
    middle = {name: (r.low + r.high) / 2 for name, r in space.searched.items()}
    return space.complete(middle)


def measure_waits(stage: Stage) -> None:
    """Record how often an optimiser step of each row makes the CPU wait for the GPU."""
    if stage.seconds_left < 10:
        stage.skip("waits of every row", "no time left")
        return
    with tempfile.TemporaryDirectory() as folder:
        protocol = replace(find_protocol("smoke", "folder"), iterations_per_epoch=100)
        pixels = make_patterned_cache(Path(folder), protocol.resize, images=4)
        for row in list_rows():
            with stage.attempt(f"waits of {row}"):
                waits = count_waits(row, protocol, pixels, stage.device)
                if stage.device.type == "cuda":
                    stage.record(f"waits of {row}", waits, "a step", precision="float32")
    if stage.device.type == "cpu":
        stage.skip("waits of every row", "the steps ran, but a CPU waits for no GPU")


def count_waits(row: Row, protocol: Protocol, pixels: Pixels, device: torch.device) -> float:
    """Return the synchronising calls of an optimiser step, images included."""
    config = TrainingConfig(row, protocol, middle_of(row), 0, (0,))
    fold = Training(config, pixels, device).folds[0]

    def count(steps: int) -> int:
        """Count over some steps; reading the loss at their end waits as well, once."""
        fold.iteration = 0
        asked = iter(range(steps + 1))
        with warnings.catch_warnings(record=True) as raised:
            warnings.simplefilter("always")
            fold.train_epoch(1, lambda: next(asked) == steps)
        return sum("called a synchronizing" in str(warning.message) for warning in raised)

    count(1)  # caches are filled
    before = torch.cuda.get_sync_debug_mode() if device.type == "cuda" else 0
    try:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        one, more = count(1), count(1 + _WAIT_STEPS)
    finally:
        if device.type == "cuda":
            torch.cuda.set_sync_debug_mode(before)
    return (more - one) / _WAIT_STEPS
