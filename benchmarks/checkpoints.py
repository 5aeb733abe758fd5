"""Which share of a training's time saving takes, before and now, on a slow disk.

python -m benchmarks.checkpoints            # BN-Inception, 100 MB/s; 7 to 14 minutes
python -m benchmarks.checkpoints --quick    # small network, half a minute

Before, the training waited after every epoch until its complete state, best models included, was
on disk. Now a thread writes a copy of it, as often as its cost allows (`wpm.jobs.saving`). Both
save the same four folds. The first optimiser step of every fold is a real one, so that the state
has its full size; the others only take their time, as steps of a GPU that a process waits for. So
the share by the clock is what the training waits for, and no thread can slow it; what the thread
takes from a training that has no core to spare is added in the share as it is recorded.

The disk is throttled in this process: writing to a file sleeps. Photographs and weights are random.
"""

import argparse
import dataclasses
import hashlib
import io
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from unittest.mock import patch

import torch

from benchmarks.gpu.setup import make_patterned_cache
from wpm.data.pixels import Pixels
from wpm.files import write_bytes
from wpm.jobs.payloads import identify
from wpm.jobs.train_job import TrainJob
from wpm.protocol_files import find_protocol
from wpm.records import TrainingFolder, worker_seconds
from wpm.records.progress import Progress
from wpm.reports import FoldReport
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.fold import FoldTraining, never_pause
from wpm.training.training import Training

# Of a step with BN-Inception at batch 32 on a fast GPU, as docs/performance.md estimates it.
STEP_S = 0.008


@dataclass(frozen=True)
class Share:
    """What saving took of a training.

    Attributes:
        seconds: of the training, saving included.
        waited: share of that for which the training waited.
        recorded: share as the training records it; None where it does not.
        checkpoints: how many were written.
        megabytes: of the last of them.
    """

    seconds: float
    waited: float
    recorded: float | None
    checkpoints: int
    megabytes: float


class SlowDisk:
    """Makes writing to files below a folder as slow as a disk, for all threads together."""

    def __init__(self, folder: Path, bytes_per_s: float) -> None:
        self._folder, self._bytes_per_s = folder, bytes_per_s
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, size: int) -> None:
        """Wait until the disk has taken so many bytes."""
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + size / self._bytes_per_s
            until = self._free_at
        time.sleep(max(0.0, until - time.monotonic()))

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """Throttle every file that is opened for writing."""
        open_file = Path.open

        def open_slowly(path: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
            file = open_file(path, mode, *args, **options)
            is_here = self._folder in path.parents
            return SlowFile(file, self) if is_here and mode == "wb" else file

        with patch.object(Path, "open", open_slowly):
            yield


class SlowFile:
    """A file on a slow disk."""

    def __init__(self, file: IO[bytes], disk: SlowDisk) -> None:
        self._file, self._disk = file, disk

    def __enter__(self) -> "SlowFile":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, data: bytes) -> int:
        """Write, as slowly as the disk."""
        self._disk.take(len(data))
        return self._file.write(data)


@contextmanager
def simulated_steps(step_s: float) -> Iterator[None]:
    """Let every optimiser step but a fold's first only take its time, and a validation none."""
    train_epoch = FoldTraining.train_epoch

    def simulate(fold: FoldTraining, epoch: int, pause: Callable[[], bool] = never_pause) -> bool:
        if not fold.optimizers[0].state:
            train_epoch(fold, epoch, _after_one_step(fold))
        steps = fold._protocol.iterations_per_epoch
        start = time.perf_counter()
        while fold.iteration < steps and not pause():
            time.sleep(step_s)
            fold.iteration += 1
        fold._training_seconds += time.perf_counter() - start
        if fold.iteration < steps:
            return False
        fold.iteration = 0
        return True

    def skip_validation(fold: FoldTraining, epoch: int) -> None:
        if fold._keep_model:
            fold.best_model = {k: v.clone() for k, v in fold.model.state_dict().items()}
        fold.report = FoldReport(
            fold.position, 1.0, 0.5, 0.5, 0.5, 0.5 + epoch * 1e-6, epoch, stopped=False,
            training_seconds=fold._training_seconds, validation_seconds=0.0, images_per_second=1.0,
        )  # fmt: skip

    with (
        patch.object(FoldTraining, "train_epoch", simulate),
        patch.object(FoldTraining, "validate", skip_validation),
    ):
        yield


def _after_one_step(fold: FoldTraining) -> Callable[[], bool]:
    begin = fold.iteration
    return lambda: fold.iteration > begin


def measure_before(config: TrainingConfig, pixels: Pixels, folder: Path, epochs: int) -> Share:
    """Save everything after every epoch, while the training waits."""
    training = Training(config, pixels, torch.device("cpu"))
    training.run_epoch()
    waited, size, begin = 0.0, 0, time.perf_counter()
    for _ in range(epochs):
        training.run_epoch()
        start = time.perf_counter()
        buffer = io.BytesIO()
        torch.save(training.state_dict(), buffer)
        data = buffer.getvalue()
        path = folder / f"checkpoint-{training.epoch}.pt"
        write_bytes(path, data)
        hashlib.sha256(data).hexdigest()
        (folder / f"checkpoint-{training.epoch - 1}.pt").unlink(missing_ok=True)
        waited += time.perf_counter() - start
        size = len(data)
    seconds = time.perf_counter() - begin
    return Share(seconds, waited / seconds, None, epochs, size / 1e6)


def measure_now(config: TrainingConfig, pixels: Pixels, folder: Path, seconds: float) -> Share:
    """Train as a trial of a search does."""
    TrainingFolder(folder).write_identity(identify(0, config))
    sizes = []
    write = Progress.write_checkpoint

    def note(progress: Progress, *args: Any, **options: Any) -> None:
        write(progress, *args, **options)
        sizes.append(sum(file.stat().st_size for file in folder.glob("checkpoint-*")))

    with patch.object(Progress, "write_checkpoint", note):
        job = TrainJob(folder, pixels.folder, config, export=False)
        first = job.step()  # with the real steps, and before anything is saved
        begin = time.perf_counter()
        step = first
        while time.perf_counter() - begin < seconds or not sizes:
            step = job.step()
        took = time.perf_counter() - begin
        written, size = len(sizes), sizes[-1]
    trained = worker_seconds(step.reports) - worker_seconds(first.reports)
    spent = (step.reports[-1].saving_seconds or 0.0) - (first.reports[-1].saving_seconds or 0.0)
    # What the job would write when it is closed is not part of the measurement.
    job.interrupt()
    job.close()
    return Share(took, 1 - trained / took, spent / took, written, size / 1e6)


def main() -> None:
    """Print both shares."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--megabytes", type=float, default=100, help="a second, of the disk [100]")
    parser.add_argument("--seconds", type=float, help="of the training that saves aside [240]")
    parser.add_argument("--epochs", type=int, default=10, help="of the other one [10]")
    args = parser.parse_args()
    protocol = find_protocol("small" if args.quick else "mlrc", "cub200")
    # The steps that are real: images of any size give a state of the same size.
    protocol = dataclasses.replace(
        protocol, resize=72, crop=64, classes_per_batch=2, images_per_class=2, max_epochs=10**6,
        iterations_per_epoch=100, validation_interval=2,
    )  # fmt: skip
    row = Row.parse("contrastive")
    config = TrainingConfig(
        row, protocol, {"pos_margin": 0.1, "neg_margin": 0.8}, 0, tuple(range(protocol.folds))
    )
    seconds = args.seconds or (20 if args.quick else 240)
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        pixels = make_patterned_cache(root, protocol.resize)
        for way in ("before", "now"):
            (root / way).mkdir()
        with SlowDisk(root, 1e6 * args.megabytes).mounted(), simulated_steps(STEP_S):
            print(f"{protocol.trunk}, {protocol.folds} folds, epochs of "
                  f"{protocol.folds * protocol.iterations_per_epoch} steps of "
                  f"{1000 * STEP_S:g} ms, disk of {args.megabytes:g} MB/s", flush=True)  # fmt: skip
            show("before", measure_before(config, pixels, root / "before", args.epochs))
            show("now", measure_now(config, pixels, root / "now", seconds))


def show(way: str, share: Share) -> None:
    """Print a line."""
    recorded = "" if share.recorded is None else f", {share.recorded:.2%} as it is recorded"
    print(f"{way:>6}: {share.waited:.2%} of {share.seconds:.0f} s waited for{recorded}; "
          f"{share.checkpoints} checkpoints of {share.megabytes:.0f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
