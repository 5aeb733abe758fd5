"""Many workers on several studies: how busy the workers are, and where the driver saturates.

python -m benchmarks.search_scale [--workers 64 128 256] [--scale 1] [--quick]
python -m benchmarks.search_scale --ray 16 [--keep-trials]

Nothing is trained: a trial lasts as long as a recorded one, times `--scale`, and makes the same
reports. The first form simulates the workers and the clock; the studies with their sampler, pruner
and journal are real, and their time is measured and counted. For Ray it adds `--ray-ms` for each
event and `--reset-s` for each trial. The second form measures both on Ray itself, with that many
sleeping processes, through `wpm.cluster.runner.run_work`. Needs Optuna and Ray.
"""

import argparse
import heapq
import json
import os
import platform
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import ray
from ray import tune

from benchmarks.machine import resident_bytes
from benchmarks.search_replay import HISTORIES, History, plan_study, read_studies
from wpm.cluster import connection, tune_bridge, worker
from wpm.cluster import runner as cluster
from wpm.cpus import count_cpus
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work
from wpm.records import Outcome, TrialState
from wpm.reports import FoldReport, Report
from wpm.studies.plan import StudyPlan
from wpm.studies.search import SearchWork
from wpm.studies.study import Study

ROWS = ("contrastive", "contrastive+wpm", "triplet", "margin")
SAMPLER = "tpe"  # thousands of trials: a Gaussian process would be all that is measured
ORPHANS = 5


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument(
        "--ray", type=int, metavar="N", help="run on Ray, with N sleeping processes"
    )
    parser.add_argument(
        "--keep-trials", action="store_true", help="with --ray: do not empty Tune's ended trials"
    )
    parser.add_argument("--trials-per-worker", type=int, default=8)
    parser.add_argument("--scale", type=float, default=1.0, help="factor on the recorded times")
    parser.add_argument("--ray-ms", type=float, default=6.0, help="driver time for each event")
    parser.add_argument("--reset-s", type=float, default=0.1, help="worker time for each trial")
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--quick", action="store_true", help="64 workers, 3 trials each")
    args = parser.parse_args()
    if args.quick:
        args.workers, args.trials_per_worker = [64], 3
    histories = [
        trial.under(study.protocol.max_epochs, first_folds=0)
        for study in read_studies(args.histories)
        for trial in study.curves
    ]
    print(f"{platform.processor() or platform.machine()}, {count_cpus()} cores; {len(ROWS)} "
          f"studies, {args.trials_per_worker} trials a worker, times x {args.scale:g}")  # fmt: skip
    for workers in [args.ray] if args.ray else args.workers:
        trials = workers * args.trials_per_worker // len(ROWS)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
            plans = [plan_study(Path(folder), row, trials, SAMPLER) for row in ROWS]
            leave_orphans(plans[-1])
            studies = [stack.enter_context(Study(plan)) for plan in plans]
            source = Replay(studies, histories, args.scale)
            if args.ray:
                if args.keep_trials:
                    stack.enter_context(
                        patch.object(tune_bridge, "empty_trial", lambda trial: None)
                    )
                run_on_ray(source, workers, Path(folder) / "ray")
            else:
                simulation = Simulation(source, workers, args.ray_ms / 1e3, args.reset_s)
                simulation.run()
                simulation.print_line()
            print_fairness(source)


def leave_orphans(plan: StudyPlan) -> None:
    """Start trials of a study, and close it before they have ended."""
    with Study(plan) as study:
        for _ in range(ORPHANS):
            study.ask()


@dataclass
class Counts:
    """What a source of work has handed out and received."""

    keys: list[str] = field(default_factory=list)
    steps: int = 0
    ends: int = 0
    worked_s: float = 0.0
    widest: int = 0  # largest difference of started trials between two studies with work left
    processes: Counter[str] = field(default_factory=Counter)
    last_start: float = 0.0
    resident: list[int] = field(default_factory=list)  # driver's memory in bytes, at every end


class Replay(SearchWork):
    """A search whose workers receive a recorded history instead of a configuration."""

    def __init__(
        self, studies: Sequence[Study], histories: Sequence[History], scale: float
    ) -> None:
        super().__init__(studies, lambda line: None)
        self._histories = histories
        self._scale = scale
        self._rng = np.random.default_rng(0)
        self.counts = Counts()

    def next_work(self) -> Work | None:
        """Hand out a trial of the search, with a random recorded history."""
        work = super().next_work()
        if work is None:
            return None
        self.counts.keys.append(work.key)
        self.counts.last_start = time.monotonic()
        open_studies = [s.started for s in self._studies if not s.exhausted]
        if not any(s.has_orphans for s in self._studies) and len(self.counts.keys) > 4 * ORPHANS:
            spread = max(open_studies, default=0) - min(open_studies, default=0)
            self.counts.widest = max(self.counts.widest, spread)
        history = self._histories[int(self._rng.integers(len(self._histories)))]
        return Work(work.key, work.study, describe_history(history, self._scale))

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Count the step, then ask the study."""
        self._note(work, step)
        return super().on_step(work, step)

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Count, then tell the study."""
        self._note_end()
        super().on_stopped(work, step)

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Count, then tell the study."""
        self._note(work, step)
        self._note_end()
        super().on_ended(work, step)

    def _note_end(self) -> None:
        self.counts.ends += 1
        self.counts.resident.append(resident_bytes())

    def _note(self, work: Work, step: StepResult) -> None:
        self.counts.steps += 1
        self.counts.worked_s += work.payload["waits"][len(step.reports) - 1]
        self.counts.processes[step.reports[-1].folds[0].step_mode] += 1


def describe_history(history: History, scale: float) -> dict[str, Any]:
    """Return the payload of a sleeping worker, in plain JSON types."""
    starts = [0.0, *history.seconds[:-1]]
    waits = [scale * (b - a) for a, b in zip(starts, history.seconds, strict=True)]
    reports = [
        Report(epoch, value, (FoldReport(
            fold=0, loss=0.0, precision_at_1=value, r_precision=value, map_at_r=value,
            best_map_at_r=value, best_epoch=epoch, stopped=False, training_seconds=seconds,
            validation_seconds=0.0, images_per_second=0.0),))
        for epoch, value, seconds in zip(
            history.steps, history.values, history.seconds, strict=True)
    ]  # fmt: skip
    return {
        "waits": waits,
        **StepResult(reports, Outcome.from_reports(TrialState.COMPLETE, reports)).to_json(),
    }


class Simulation:
    """A search on a simulated clock: many workers, and one driver that serves them in turn.

    Args:
        source: source of the work; the processor time that it takes is measured.
        workers: number of workers.
        ray_s: seconds of the driver that Ray takes for each event.
        reset_s: seconds until a worker starts its next trial.
    """

    def __init__(self, source: Replay, workers: int, ray_s: float, reset_s: float) -> None:
        self.source, self.workers = source, workers
        self._ray_s, self._reset_s = ray_s, reset_s
        # (time of the next report, tie-break, work, reports by then)
        self._arrivals: list[tuple[float, int, Work, int]] = []
        self._idle_since = [0.0] * workers
        self.now = 0.0  # time at which the driver is free
        self.driver_s: list[float] = []  # seconds of the driver for each event
        self.waited_s = 0.0  # seconds that workers waited while there was work to hand out
        self.handed_out = 0.0

    def run(self) -> None:
        """Run until every trial has ended."""
        self._hand_out()
        while self._arrivals:
            arrived, _, work, count = heapq.heappop(self._arrivals)
            self.now = max(self.now, arrived)
            if self._report(work, count):
                self._idle_since.append(arrived)
                self._hand_out()
            else:
                self._begin(work, count, arrived, self.now)

    def _report(self, work: Work, count: int) -> bool:
        """Pass a report on; return whether the trial has ended."""
        recorded = StepResult.from_json(work.payload)
        reports = recorded.reports[:count]
        if count == len(work.payload["waits"]):
            step = StepResult(reports, recorded.result)
            self._drive(lambda: self.source.on_ended(work, step))
            return True
        step = StepResult(reports)

        def handle() -> bool:
            stop = self.source.on_step(work, step) is Decision.STOP
            if stop:
                self.source.on_stopped(work, step)
            return stop

        return bool(self._drive(handle))

    def _hand_out(self) -> None:
        while self._idle_since:
            work = self._drive(self.source.next_work)
            if work is None:
                return
            self._begin(work, 0, self._idle_since.pop(0), self.now + self._reset_s)
            self.handed_out = self.now

    def _begin(self, work: Work, count: int, idle_since: float, now: float) -> None:
        if not self.source.exhausted:
            self.waited_s += now - idle_since
        arrival = (now + work.payload["waits"][count], len(self.driver_s), work, count + 1)
        heapq.heappush(self._arrivals, arrival)

    def _drive(self, handle: Callable[[], Any]) -> Any:
        """Let the driver handle an event, and advance the clock by the time that this takes."""
        start = time.process_time()
        answer = handle()
        self.driver_s.append(time.process_time() - start + self._ray_s)
        self.now += self.driver_s[-1]
        return answer

    def print_line(self) -> None:
        """Print how busy the workers were, and how much a driver that is never idle could do."""
        counts, driver_s = self.source.counts, sum(self.driver_s)
        print(
            f"{self.workers:>4} workers: {counts.ends} trials, {counts.steps} reports in "
            f"{self.now:.0f} s; busy {1 - self.waited_s / (self.workers * self.handed_out):.1%} "
            f"while there were trials to hand out, "
            f"{counts.worked_s / (self.workers * self.now):.1%} to the end; "
            f"driver busy {driver_s / self.now:.0%}, "
            f"{1e3 * statistics.mean(self.driver_s):.1f} ms per event: saturates at "
            f"{counts.ends / driver_s:.1f} trials or {counts.steps / driver_s:.0f} reports a second"
        )


class Sleeper(tune.Trainable):
    """A worker that sleeps instead of training; it imports neither torch nor wpm."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take the first history."""
        self._payload = json.loads(config["payload"])
        self._done = 0

    def step(self) -> dict[str, Any]:
        """Sleep until the next report."""
        time.sleep(self._payload["waits"][self._done])
        self._done += 1
        reports = self._payload["reports"][: self._done]
        # The one text in a report carries which process it comes from.
        reports[-1]["folds"][0]["step_mode"] = str(os.getpid())
        ended = self._done == len(self._payload["waits"])
        end = {name: self._payload[name] if ended else None for name in ("kind", "result")}
        return {"step": json.dumps({"reports": reports, **end}), "done": ended}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next history."""
        self.setup(new_config)
        return True


def run_on_ray(source: Replay, workers: int, folder: Path) -> None:
    """Run a search on Ray with sleeping processes; each has one GPU, which does not exist."""
    ray.init(
        address="local", num_cpus=workers, num_gpus=workers, include_dashboard=False,
        log_to_driver=False, object_store_memory=200_000_000,
    )  # fmt: skip
    try:
        start, cpu = time.monotonic(), time.process_time()
        with patch.object(worker, "Worker", Sleeper):
            cluster.run_work(
                source, connection.Resources("local", 1, 1), folder, lambda describe: None
            )
        wall, cpu = time.monotonic() - start, time.process_time() - cpu
    finally:
        ray.shutdown()
    counts = source.counts
    handing_out = counts.last_start - start
    print(
        f"{workers:>4} processes on Ray: {counts.ends} trials, {counts.steps} reports in "
        f"{wall:.0f} s ({handing_out:.0f} s until the last was handed out); busy "
        f"{counts.worked_s / (workers * wall):.1%} of all that time, starts and end included; "
        f"{len(counts.processes)} processes were started; driver "
        f"{1e3 * cpu / counts.steps:.1f} ms of CPU per report, "
        f"{1e3 * cpu / counts.ends:.0f} ms per trial"
    )
    settled = counts.resident[len(counts.resident) // 4 :]
    slope = statistics.linear_regression(range(len(settled)), settled).slope
    print(
        f"     driver's memory: {settled[0] / 1e6:.1f} MB after a quarter of the trials, "
        f"{settled[-1] / 1e6:.1f} MB in the end; {slope / 1e3:.1f} kB per trial"
    )


def print_fairness(source: Replay) -> None:
    """Print whether orphans were handed out first, and how evenly studies received workers."""
    first = [key.rsplit("/", 1)[0].rsplit("/", 1)[1] for key in source.counts.keys[:ORPHANS]]
    started: Mapping[str, int] = Counter(key.rsplit("/", 1)[0] for key in source.counts.keys)
    print(
        f"     the first {ORPHANS} trials were orphans of the interrupted study: "
        f"{set(first) == {ROWS[-1]}}; the started trials of two studies never "
        f"differed by more than {source.counts.widest}; in all {sorted(started.values())}"
    )


if __name__ == "__main__":
    main()
