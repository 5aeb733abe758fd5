"""Stage `checkpoints`: what saving a training costs, and its share of the time."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.gpu.figures import Stage
from benchmarks.gpu.right import make_config
from benchmarks.gpu.setup import make_patterned_cache
from wpm.data.pixels import Pixels
from wpm.jobs.saving import find_interval
from wpm.protocols import Protocol
from wpm.records.progress import MODELS, Progress
from wpm.rows import Row
from wpm.training.snapshot import Snapshot
from wpm.training.training import Training


class Cost(NamedTuple):
    """Seconds of one checkpoint.

    Attributes:
        waited: for which the training waits.
        busy: of the processor, in the thread that writes.
        written: from the copy to the file.
    """

    waited: float
    busy: float
    written: float


def run(stage: Stage) -> None:
    """Save the state of four trained folds a few times as a trial of a search does.

    A plain and a mined epoch say what it would take after every epoch.

    The disk is that of the results' folder.
    """
    protocol = dataclasses.replace(
        stage.protocol(), iterations_per_epoch=1, validation_interval=1, max_epochs=1000
    )
    stage.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=stage.out) as folder:
        pixels = make_patterned_cache(Path(folder), protocol.resize, classes=48, images=5)
        training = make_training("contrastive", protocol, pixels, stage.device)
        training.run_epoch()
        cost = save_repeatedly(stage, training, Path(folder) / "training")
        epochs = {"plain": "contrastive", "mined": "contrastive+wpm"}
        for kind, row in epochs.items():
            if stage.seconds_left < 10:
                stage.skip(f"share of a {kind} epoch", "no time left", precision="float32")
                continue
            with stage.attempt(f"share of a {kind} epoch", precision="float32"):
                measured = training if kind == "plain" else None
                measured = measured or make_training(row, protocol, pixels, stage.device)
                record_share(stage, kind, measured, cost)
            del measured


def make_training(row: str, protocol: Protocol, pixels: Pixels, device: torch.device) -> Training:
    """Return a training of all four folds."""
    config = make_config(Row.parse(row), protocol)
    config = dataclasses.replace(config, folds=(0, 1, 2, 3))
    return Training(config, pixels, device, keep_models=False)  # as trials of a search


def save_repeatedly(stage: Stage, training: Training, folder: Path) -> float:
    """Record seconds and bytes of a checkpoint; return what it takes from the training.

    The training waits while the state is copied; a thread writes the copy. Its processor time
    counts as well, since there may be no core to spare.
    """
    progress, costs, size = Progress(folder), [], 0
    for number in range(2 if stage.quick else 4):
        stage.synchronize()
        start = time.perf_counter()
        state = training.state_dict()
        models = state.pop(MODELS)
        snapshot = Snapshot(state)
        stage.synchronize()
        copied = time.perf_counter()
        thread_start = time.thread_time()
        # A state is saved under its position, so each has another.
        progress.write_checkpoint({**snapshot.state, MODELS: models, "epoch": number + 1})
        written, busy = time.perf_counter(), time.thread_time() - thread_start
        costs.append(Cost(copied - start, busy, written - copied))
        size = sum(file.stat().st_size for file in folder.glob("checkpoint-*"))
        del state, snapshot
    median = Cost(*(statistics.median(values) for values in zip(*costs, strict=True)))
    stage.record("a checkpoint of four folds: training waits", median.waited, "s", n=len(costs))
    stage.record("a checkpoint of four folds: processor", median.busy, "s", n=len(costs))
    stage.record("a checkpoint of four folds: written", median.written, "s", n=len(costs))
    stage.record("a checkpoint of four folds", size / 1e6, "MB")
    cost = median.waited + median.busy
    interval = find_interval(cost, median.written)
    stage.record("from a checkpoint to the next", interval, "s")
    stage.record("share of the time that saving takes", cost / (cost + interval), "of the time")
    return cost


def record_share(stage: Stage, kind: str, training: Training, cost: float) -> None:
    """Record the share of time that saving after every epoch of 100 steps a fold would take."""
    fold = training.folds[0]
    fold.train_epoch(training.epoch + 1)
    stage.synchronize()
    repeats = 1 if stage.quick else 5
    start = time.perf_counter()
    for _ in range(repeats):
        fold.train_epoch(training.epoch + 1)
    step_s = (time.perf_counter() - start) / repeats
    full = stage.protocol()
    epoch_s = step_s * full.iterations_per_epoch * full.folds
    stage.record(
        f"share of a {kind} epoch with a checkpoint after each", cost / (cost + epoch_s),
        "of the time", precision="float32", n=repeats,
    )  # fmt: skip
