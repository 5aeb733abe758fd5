"""How soon a training has saved its work and ended after SIGTERM.

python -m benchmarks.interrupt            # bninception, 8 x 4 images at 227 px; 10 min on two cores
python -m benchmarks.interrupt --quick    # small protocol, under a minute

Four folds with within-pair mining. First every fold trains, so that the checkpoint has its full
size; an epoch has 2 steps instead of 100, so that this takes only minutes. Then the job is
interrupted `--times` times at random moments, in the way the handler of SIGTERM does it, and each
time a new job resumes what was saved. Photographs and weights are random. Needs safetensors.
"""

import argparse
import dataclasses
import random
import tempfile
import threading
import time
from pathlib import Path

import torch

from benchmarks.image_data import make_photographs
from benchmarks.machine import find_device
from wpm.data.class_folders import index_class_folders
from wpm.data.pixel_cache import build_pixel_cache
from wpm.jobs.job import InterruptedJobError
from wpm.jobs.payloads import identify
from wpm.jobs.train_job import TrainJob
from wpm.protocol_files import find_protocol
from wpm.records import Outcome, TrainingFolder, TrialState
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.splits import class_disjoint_splits
from wpm.training.config import TrainingConfig

ROW = Row("contrastive", "wpm")
CLASSES, IMAGES = 32, 8  # half of the classes are for training and validation


def interrupt_after(job: TrainJob, wait_s: float) -> float | None:
    """Interrupt a job after a while; return the seconds until it ended, None if it had ended."""
    signalled: list[float] = []

    def interrupt() -> None:
        signalled.append(time.monotonic())
        job.interrupt()

    timer = threading.Timer(wait_s, interrupt)
    timer.start()
    try:
        while (result := job.step().result) is None:
            pass
        assert isinstance(result, Outcome)
        assert result.state == TrialState.COMPLETE, result.reason
    except InterruptedJobError:
        return time.monotonic() - signalled[0]
    finally:
        timer.cancel()
        job.close()
    return None


def main() -> None:
    """Print a line an interruption."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    protocol = find_protocol("small" if args.quick else "mlrc", "cub200")
    protocol = dataclasses.replace(protocol, iterations_per_epoch=2)
    rng = random.Random(args.seed)
    print(f"{find_device()[1]}, {torch.get_num_threads()} threads, {protocol.trunk}, "
          f"{protocol.crop} px, {protocol.folds} folds, seed {args.seed}", flush=True)  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        make_photographs(root / "images", CLASSES * IMAGES, CLASSES)
        index = index_class_folders("folder", root / "images", channels=3)
        trainval = class_disjoint_splits(index.labels, protocol.folds).trainval_classes
        pixel_cache = build_pixel_cache(index.subset(trainval), protocol.resize, root / "work")
        folds = tuple(range(protocol.folds))
        space = load_space(ROW)
        middle = {name: (r.low + r.high) / 2 for name, r in space.searched.items()}
        config = TrainingConfig(ROW, protocol, space.complete(middle), args.seed, folds)
        folder = root / "training"
        TrainingFolder(folder).write_identity(identify(0, config))
        job = TrainJob(folder, pixel_cache, config, export=False, gpus=1)
        start = time.monotonic()
        result = job.step().result
        assert result is None, result
        epoch_s = time.monotonic() - start
        job.close()
        print(f"first epoch: {epoch_s:.1f} s", flush=True)
        for _ in range(args.times):
            job = TrainJob(folder, pixel_cache, config, export=False, gpus=1)
            job.step()  # the first step of a resumed job returns its history
            took = interrupt_after(job, rng.uniform(0.1, 0.6) * epoch_s)
            if took is None:
                print("it ended before it was interrupted")
                break
            size = sum(file.stat().st_size for file in folder.glob("checkpoint-*"))
            print(f"saved and ended {took:.1f} s after the signal; checkpoint of "
                  f"{size / 1e6:.0f} MB", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
