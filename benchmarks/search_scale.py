"""Many workers, several studies at once: share of the workers busy, and where the driver saturates.

python -m benchmarks.search_scale [--workers 64 128 256] [--scale 1] [--quick]
python -m benchmarks.search_scale --ray 16 [--keep-trials]

Nothing is trained: a trial lasts as long as a recorded one, times `--scale`, and reports what that
reported. The first form simulates workers and clock; the studies, their sampler, pruner and journal
are real, and the time that they take is measured and counted. What Ray adds is counted as
`--ray-ms` an event and `--reset-s` a trial: the second form measures both on Ray itself, with that
many processes that sleep, through `wpm.cluster.runner.run_work`. Needs Optuna, and Ray.
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
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work
from wpm.records import Outcome, TrialState
from wpm.reports import FoldReport, Report
from wpm.studies.plan import StudyPlan
from wpm.studies.search import SearchWork
from wpm.studies.study import Study

ROWS = ("contrastive", "contrastive+wpm", "triplet", "margin")
ORPHANS = 5


def main() -> None:
    """Print a line for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--ray", type=int, metavar="N", help="on Ray, with N processes that sleep")
    parser.add_argument(
        "--keep-trials", action="store_true", help="with --ray: leave Tune's ended trials full"
    )
    parser.add_argument("--trials-per-worker", type=int, default=8)
    parser.add_argument("--scale", type=float, default=1.0, help="of the recorded times")
    parser.add_argument("--ray-ms", type=float, default=6.0, help="of the driver, an event")
    parser.add_argument("--reset-s", type=float, default=0.1, help="of a worker, a trial")
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--quick", action="store_true", help="64 workers, 3 trials each")
    args = parser.parse_args()
    if args.quick:
        args.workers, args.trials_per_worker = [64], 3
    histories = [t["history"] for study in read_studies(args.histories) for t in study["trials"]]
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores; {len(ROWS)} "
          f"studies, {args.trials_per_worker} trials a worker, times x {args.scale:g}")  # fmt: skip
    for workers in [args.ray] if args.ray else args.workers:
        trials = workers * args.trials_per_worker // len(ROWS)
        with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
            plans = [plan_study(Path(folder), row, trials) for row in ROWS]
            leave_orphans(plans[-1])
            studies = [held.enter_context(Study(plan)) for plan in plans]
            source = Replay(studies, histories, args.scale)
            if args.ray:
                if args.keep_trials:
                    held.enter_context(patch.object(tune_bridge, "empty_trial", lambda trial: None))
                run_on_ray(source, workers, Path(folder) / "ray")
            else:
                simulation = Simulation(source, workers, args.ray_ms / 1e3, args.reset_s)
                simulation.run()
                simulation.print_line()
            print_fairness(source)


def leave_orphans(plan: StudyPlan) -> None:
    """Start trials of a study, and end before they do."""
    with Study(plan) as study:
        for _ in range(ORPHANS):
            study.ask()


@dataclass
class Seen:
    """What went through a source of work."""

    keys: list[str] = field(default_factory=list)
    steps: int = 0
    ends: int = 0
    worked_s: float = 0.0
    widest: int = 0  # largest difference of trials started between two studies that have more
    processes: Counter[str] = field(default_factory=Counter)
    last_start: float = 0.0
    resident: list[int] = field(default_factory=list)  # bytes of the driver, at every end


class Replay(SearchWork):
    """A search whose workers are told a recorded history instead of a configuration."""

    def __init__(
        self, studies: Sequence[Study], histories: Sequence[History], scale: float
    ) -> None:
        super().__init__(studies, lambda line: None)
        self._histories = histories
        self._scale = scale
        self._rng = np.random.default_rng(0)
        self.seen = Seen()

    def next_work(self) -> Work | None:
        """Hand out a trial of the search, with a history drawn at random."""
        work = super().next_work()
        if work is None:
            return None
        self.seen.keys.append(work.key)
        self.seen.last_start = time.monotonic()
        open_studies = [s.started for s in self._studies if not s.exhausted]
        if not any(s.has_orphans for s in self._studies) and len(self.seen.keys) > 4 * ORPHANS:
            spread = max(open_studies, default=0) - min(open_studies, default=0)
            self.seen.widest = max(self.seen.widest, spread)
        history = self._histories[int(self._rng.integers(len(self._histories)))]
        return Work(work.key, work.study, describe_history(history, self._scale))

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Count, then ask the study."""
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
        self.seen.ends += 1
        self.seen.resident.append(resident_bytes())

    def _note(self, work: Work, step: StepResult) -> None:
        self.seen.steps += 1
        self.seen.worked_s += work.payload["waits"][len(step.reports) - 1]
        self.seen.processes[step.reports[-1].folds[0].step_mode] += 1


def describe_history(history: History, scale: float) -> dict[str, Any]:
    """Return what a worker that sleeps is told, in plain JSON types."""
    starts = [0.0, *history.seconds[:-1]]
    waits = [scale * (b - a) for a, b in zip(starts, history.seconds, strict=True)]
    reports = [
        Report(epoch, value, (FoldReport(
            fold=0, loss=0.0, precision_at_1=value, r_precision=value, map_at_r=value,
            best_map_at_r=value, best_epoch=epoch, stopped=False, training_seconds=seconds,
            validation_seconds=0.0, images_per_second=0.0),))
        for epoch, value, seconds in zip(
            history.epochs, history.values, history.seconds, strict=True)
    ]  # fmt: skip
    return {
        "waits": waits,
        **StepResult(reports, Outcome.from_reports(TrialState.COMPLETE, reports)).to_json(),
    }


class Simulation:
    """A search on a simulated clock: many workers, and one driver that hears them in turn."""

    def __init__(self, source: Replay, workers: int, ray_s: float, reset_s: float) -> None:
        """Nobody works yet.

        Args:
            source: of the work; the processor time that it takes is measured.
            workers: how many work at a time.
            ray_s: seconds of the driver that Ray takes for each event.
            reset_s: seconds until a worker begins with its next trial.
        """
        self.source, self.workers = source, workers
        self._ray_s, self._reset_s = ray_s, reset_s
        # (time of the next report, tie-break, work, reports by then)
        self._arrivals: list[tuple[float, int, Work, int]] = []
        self._idle_since = [0.0] * workers
        self.now = 0.0  # when the driver is free
        self.driver_s: list[float] = []  # of each event
        self.waited_s = 0.0  # by workers while there was work to hand out
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
        """Let the driver do something, and its clock go on by what that takes."""
        start = time.process_time()
        answer = handle()
        self.driver_s.append(time.process_time() - start + self._ray_s)
        self.now += self.driver_s[-1]
        return answer

    def print_line(self) -> None:
        """Print the share of the workers busy, and what a driver that is never idle would do."""
        seen, driver_s = self.source.seen, sum(self.driver_s)
        print(
            f"{self.workers:>4} workers: {seen.ends} trials, {seen.steps} reports in "
            f"{self.now:.0f} s; busy {1 - self.waited_s / (self.workers * self.handed_out):.1%} "
            f"while there were trials to hand out, {seen.worked_s / (self.workers * self.now):.1%} "
            f"to the end; driver busy {driver_s / self.now:.0%}, "
            f"{1e3 * statistics.mean(self.driver_s):.1f} ms an event: saturates at "
            f"{seen.ends / driver_s:.1f} trials or {seen.steps / driver_s:.0f} reports a second"
        )


class Sleeper(tune.Trainable):
    """Sleeps where `wpm.cluster`'s worker trains; imports neither torch nor wpm."""

    def setup(self, config: dict[str, Any]) -> None:
        """Take a history."""
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
    """Run a search on Ray with processes that sleep, one GPU each, of GPUs that are not there."""
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
    seen = source.seen
    handing_out = seen.last_start - start
    print(
        f"{workers:>4} processes on Ray: {seen.ends} trials, {seen.steps} reports in {wall:.0f} s "
        f"({handing_out:.0f} s until the last was handed out); busy "
        f"{seen.worked_s / (workers * wall):.1%} of all that time, starts and end included; "
        f"{len(seen.processes)} processes were started; driver {1e3 * cpu / seen.steps:.1f} ms of "
        f"CPU a report, {1e3 * cpu / seen.ends:.0f} ms a trial"
    )
    settled = seen.resident[len(seen.resident) // 4 :]
    slope = statistics.linear_regression(range(len(settled)), settled).slope
    print(
        f"     driver's memory: {settled[0] / 1e6:.1f} MB after a quarter of the trials, "
        f"{settled[-1] / 1e6:.1f} MB in the end; {slope / 1e3:.1f} kB a trial"
    )


def print_fairness(source: Replay) -> None:
    """Say whether orphans went first, and how evenly the studies were served."""
    first = [key.rsplit("/", 1)[0].rsplit("/", 1)[1] for key in source.seen.keys[:ORPHANS]]
    started: Mapping[str, int] = Counter(key.rsplit("/", 1)[0] for key in source.seen.keys)
    print(
        f"     the first {ORPHANS} trials were the interrupted study's: "
        f"{set(first) == {ROWS[-1]}}; trials started of two studies never differed by more than "
        f"{source.seen.widest}; in all {sorted(started.values())}"
    )


if __name__ == "__main__":
    main()
