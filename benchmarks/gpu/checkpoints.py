"""Stage `checkpoints`: seconds and bytes of saving a training, and its share of an epoch."""

import dataclasses
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.gpu.figures import Stage
from benchmarks.gpu.right import make_config
from benchmarks.gpu.setup import make_patterned_cache
from wpm.data.pixels import Pixels
from wpm.protocols import Protocol
from wpm.records import TrainingFolder
from wpm.rows import Row
from wpm.training.training import Training


def run(stage: Stage) -> None:
    """Save the state of four trained folds a few times, and compare with a plain and mined epoch.

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
        seconds = save_repeatedly(stage, training, Path(folder) / "training")
        epochs = {"plain": "contrastive", "mined": "contrastive+wpm"}
        for kind, row in epochs.items():
            if stage.seconds_left < 10:
                stage.skip(f"share of a {kind} epoch", "no time left", precision="float32")
                continue
            with stage.attempt(f"share of a {kind} epoch", precision="float32"):
                measured = training if kind == "plain" else None
                measured = measured or make_training(row, protocol, pixels, stage.device)
                record_share(stage, kind, measured, seconds)
            del measured


def make_training(row: str, protocol: Protocol, pixels: Pixels, device: torch.device) -> Training:
    """Return a training of all four folds."""
    config = make_config(Row.parse(row), protocol)
    return Training(dataclasses.replace(config, folds=(0, 1, 2, 3)), pixels, device)


def save_repeatedly(stage: Stage, training: Training, folder: Path) -> float:
    """Record seconds and bytes of a checkpoint; return the seconds."""
    records, times, size = TrainingFolder(folder), [], 0
    for number in range(2 if stage.quick else 4):
        start = time.perf_counter()
        state = training.state_dict()
        # A state is saved under its position, so each has another.
        records.write_progress([], {**state, "epoch": number + 1})
        times.append(time.perf_counter() - start)
        size = sum(file.stat().st_size for file in folder.glob("checkpoint-*"))
    seconds = statistics.median(times)
    stage.record("a checkpoint of four folds", seconds, "s", n=len(times))
    stage.record("a checkpoint of four folds", size / 1e6, "MB")
    return seconds


def record_share(stage: Stage, kind: str, training: Training, seconds: float) -> None:
    """Record the share of time that saving after every epoch of 100 steps a fold takes."""
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
        f"share of a {kind} epoch with a checkpoint after each", seconds / (seconds + epoch_s),
        "of the time", precision="float32", n=repeats,
    )  # fmt: skip
