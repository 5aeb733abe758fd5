"""Read recorded trials, and run searches that replay them."""

import heapq
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from wpm.protocol_files import find_protocol
from wpm.records import StudyPlace
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.plan import StudyPlan
from wpm.studies.samplers import DEFAULT_SAMPLER

HISTORIES = Path(__file__).parent / "data" / "search_histories.json"


def plan_study(folder: Path, row: str, trials: int, sampler: str = DEFAULT_SAMPLER) -> StudyPlan:
    """Return the plan of a study whose images are never opened."""
    return StudyPlan(
        place=StudyPlace(folder, "invented", "small", Row.parse(row)),
        space=load_space(Row.parse(row)),
        protocol=find_protocol("small", "omniglot"),
        images={"pixels": "none"},
        pixel_cache=folder / "none",
        trials=trials,
        seed=0,
        sampler=sampler,
    )


@dataclass(frozen=True)
class History:
    """What a trial reported, or would report if nothing stopped it.

    Attributes:
        epochs: the epoch of each report.
        values: the value of each report: mean over the folds of the best score so far.
        folds_running: the share of the folds that trained up to each report.
        seconds: the time of each report since the start of the trial.
    """

    epochs: Sequence[int]
    values: Sequence[float]
    folds_running: Sequence[float]
    seconds: Sequence[float]

    def cost(self, reports: int) -> float:
        """Return the epochs trained until a report; an epoch of one fold counts as its share."""
        starts = [0, *self.epochs[:-1]]
        steps = [end - start for start, end in zip(starts, self.epochs, strict=True)]
        shares = zip(steps, self.folds_running, strict=True)
        return sum(step * share for step, share in list(shares)[:reports])


@dataclass(frozen=True)
class ReplayedTrial:
    """A trial that has ended in a replay.

    Attributes:
        number: position in the order of the starts.
        history: everything that the trial would have reported.
        reports: number of reports that it made.
        complete: whether it ended by itself.
    """

    number: int
    history: History
    reports: int
    complete: bool

    @property
    def cost(self) -> float:
        """The epochs that were trained."""
        return self.history.cost(self.reports)

    @property
    def value(self) -> float:
        """The value of the last report."""
        return self.history.values[self.reports - 1]


def read_studies(path: Path = HISTORIES) -> list[dict[str, Any]]:
    """Read what `benchmarks.search_histories` wrote, and add the `history` of each trial."""
    studies: list[dict[str, Any]] = json.loads(path.read_text())
    for study in studies:
        for trial in study["trials"]:
            shares = [running / study["folds"] for running in trial["folds_running"]]
            trial["history"] = History(trial["epochs"], trial["values"], shares, trial["seconds"])
    return studies


def replay(
    study: optuna.Study,
    start: Callable[[optuna.Trial], History],
    trials: int,
    workers: int,
    stopped_as: TrialState = TrialState.PRUNED,
) -> list[ReplayedTrial]:
    """Run a search on simulated time, with the same calls to Optuna as `wpm.studies.study`.

    Args:
        study: its sampler chooses the parameters, its pruner stops trials.
        start: suggests the parameters of a trial, and returns what it would report.
        trials: number of trials to run.
        workers: number of trials that run at a time.
        stopped_as: the state under which a stopped trial is recorded in the study.

    Returns:
        The trials in the order in which they ended.
    """
    ended: list[ReplayedTrial] = []
    # (time of the next report, number, reports so far, history, Optuna's trial)
    running: list[tuple[float, int, int, History, optuna.Trial]] = []

    def start_one(now: float) -> None:
        trial = study.ask()
        history = start(trial)
        heapq.heappush(running, (now + history.seconds[0], trial.number, 0, history, trial))

    for _ in range(min(workers, trials)):
        start_one(0.0)
    started = len(running)
    while running:
        now, number, report, history, trial = heapq.heappop(running)
        value = history.values[report]
        trial.report(value, step=history.epochs[report])
        # The last report ends a trial, so that the pruner has nothing to decide.
        complete = report + 1 == len(history.epochs)
        if complete:
            study.tell(trial, value)
        elif trial.should_prune():
            record_stopped(study, trial, value, stopped_as)
        else:
            wait = history.seconds[report + 1] - history.seconds[report]
            heapq.heappush(running, (now + wait, number, report + 1, history, trial))
            continue
        ended.append(ReplayedTrial(number, history, report + 1, complete))
        if started < trials:
            start_one(now)
            started += 1
    return ended


def record_stopped(
    study: optuna.Study, trial: optuna.Trial, value: float, state: TrialState
) -> None:
    """Record a stopped trial in a study."""
    study.tell(trial, value if state == TrialState.COMPLETE else None, state)
