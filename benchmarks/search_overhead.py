"""What a search costs beside its trainings: the records of the study, and the launch around it.

python -m benchmarks.search_overhead [--quick] [--sampler NAME]
python -m benchmarks.search_overhead [--quick] --launch

Needs Optuna. The first form uses `wpm.studies.study.Study` with its journal on disk, and trains
nothing. The second form needs Ray too: it runs `launch.py --protocol smoke`, one trial at a time,
and reads the times from its records.
"""

import argparse
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import optuna

from benchmarks.search_replay import plan_study
from wpm.cpus import count_cpus
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision
from wpm.records import Outcome, TrainingFolder, TrialState, find_studies, read_trials
from wpm.reports import FoldReport, Report
from wpm.studies.samplers import DEFAULT_SAMPLER
from wpm.studies.search import SearchWork
from wpm.studies.study import Study

ROOT = Path(__file__).resolve().parent.parent
ROW = "contrastive+wpm"  # five parameters
EPOCHS = 20


def main() -> None:
    """Print a line for each stage of the study, then for the launch."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="200 trials instead of 1,000")
    parser.add_argument("--sampler", default=DEFAULT_SAMPLER)
    parser.add_argument("--launch", action="store_true", help="measure a real launch, with Ray")
    args = parser.parse_args()
    print(f"{platform.processor() or platform.machine()}, {count_cpus()} cores, "
          f"python {platform.python_version()}, optuna {optuna.__version__}")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        if args.launch:
            measure_launch(Path(folder), trials=6 if args.quick else 20)
        else:
            measure_study(Path(folder), args.sampler, trials=200 if args.quick else 1000)


def measure_study(folder: Path, sampler: str, trials: int) -> None:
    """Run a study on invented learning curves, and time what the driver does for each trial."""
    plan = plan_study(folder, ROW, trials, sampler)
    took: dict[str, list[float]] = defaultdict(list)

    @contextmanager
    def clock(what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        took[what].append(time.perf_counter() - start)

    rng = np.random.default_rng(0)
    with Study(plan) as study:
        source = SearchWork([study], lambda line: None)
        for _ in range(trials):
            with clock("ask"):
                work = source.next_work()
            assert work is not None
            quality = invent_quality(work.payload["config"]["parameters"], rng)
            reports: list[Report] = []
            stopped = False
            with clock("all its reports"):
                while not stopped and len(reports) < EPOCHS:
                    reports.append(report(len(reports) + 1, quality))
                    step = StepResult(list(reports))
                    stopped = source.on_step(work, step) is Decision.STOP
            end = StepResult(reports, Outcome.from_reports(TrialState.COMPLETE, reports))
            TrainingFolder(Path(work.payload["folder"])).write_progress(reports, {"epoch": 1})
            with clock("tell"):
                (source.on_stopped if stopped else source.on_ended)(work, end)
            with clock("progress line"):
                source.describe()
    start = time.perf_counter()
    with Study(plan):
        reopened = time.perf_counter() - start
    stages = [n for n in (10, 100, 1000) if n <= trials]
    print(f"sampler {sampler}, {trials} trials of {ROW}, ms, median of the last 10 (largest):")
    for what, seconds in took.items():
        cells = []
        for stage in stages:
            window = [1e3 * s for s in seconds[stage - 10 : stage]]
            cells.append(f"at {stage}: {statistics.median(window):6.1f} ({max(window):6.1f})")
        print(f"  {what:<16} " + "  ".join(cells))
    print(f"  opening the study of {trials} trials again: {reopened:.2f} s; "
          f"journal {plan.place.journal.stat().st_size / 1e6:.1f} MB")  # fmt: skip


def invent_quality(parameters: dict[str, float], rng: np.random.Generator) -> float:
    """Return a noisy score between 0 and 1 that is best at margins 0.3 and 0.7."""
    distance = (parameters["pos_margin"] - 0.3) ** 2 + (parameters["neg_margin"] - 0.7) ** 2
    return float(np.clip(0.6 * np.exp(-distance) + rng.normal(0, 0.02), 0, 1))


def report(epoch: int, quality: float) -> Report:
    """Return a report of one fold."""
    value = quality * (1 - 0.8**epoch)
    fold = FoldReport(
        fold=0, loss=1.0, precision_at_1=value, r_precision=value, map_at_r=value,
        best_map_at_r=value, best_epoch=epoch, stopped=False, training_seconds=1.0 * epoch,
        validation_seconds=0.1 * epoch, images_per_second=1000.0,
    )  # fmt: skip
    return Report(epoch, value, (fold,))


def measure_launch(folder: Path, trials: int) -> None:
    """Launch a search before and after its images are decoded; print the time beside training."""
    for images in ("images to decode", "images decoded"):
        run_root = folder / images.replace(" ", "-")
        command = [
            sys.executable, "launch.py", "--protocol", "smoke", "--rows", "contrastive",
            "--trials", str(trials), "--no-early-stopping", "--run-root", str(run_root),
            "--work-root", str(folder / "work"), "--cpus-per-trial", str(count_cpus()),
        ]  # fmt: skip
        start = time.time()
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        ended = time.time()
        (place,) = find_studies(run_root)
        folders = [record.folder for record in read_trials(place)[0]]
        # A worker writes its process into the lock of a trial when it starts it.
        locks = [path / "lock" for path in folders]
        began = min(lock.stat().st_mtime for lock in locks)
        finished = max((path / "result.json").stat().st_mtime for path in folders)
        results = [record.result for record in read_trials(place)[0] if record.result]
        trained = sum(r.training_seconds + r.validation_seconds for r in results)
        processes = {lock.read_text() for lock in locks}
        print(
            f"{images}: {began - start:.1f} s from command to first trial; {len(results)} trials "
            f"in {len(processes)} worker processes, {trained / trials:.2f} s of training and "
            f"{(finished - began - trained) / trials:.2f} s beside it for each; "
            f"{ended - finished:.1f} s from last trial to end"
        )


if __name__ == "__main__":
    main()
