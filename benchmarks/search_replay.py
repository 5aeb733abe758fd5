"""Read recorded trials, and run searches that replay them."""

import heapq
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wpm.protocol_files import find_protocol
from wpm.protocols import PAUSING, Protocol
from wpm.records import StudyPlace
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.plan import StudyPlan
from wpm.studies.rungs import Rungs

HISTORIES = Path(__file__).parent / "data" / "search_histories.json"


def plan_study(folder: Path, row: str, trials: int, sampler: str) -> StudyPlan:
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
class Curves:
    """What the folds of a trial report if nothing stops it.

    Attributes:
        values: of each fold, the best validation score so far at every epoch, until its patience
            ends.
        seconds: of one epoch of one fold.
    """

    values: Sequence[Sequence[float]]
    seconds: float

    @property
    def end(self) -> float:
        """The trial's score: mean over the folds of the last value."""
        return sum(fold[-1] for fold in self.values) / len(self.values)

    @property
    def cost(self) -> int:
        """Epochs of single folds until all have ended."""
        return sum(map(len, self.values))

    def under(self, max_epochs: int, first_folds: int) -> "History":
        """Return the reports of a trial whose first folds train to their end before the others."""
        folds = list(range(len(self.values)))
        stages = [folds[:first_folds], folds[first_folds:]] if first_folds else [folds]
        steps, values, costs, seconds = [], [], [], []
        spent, ended = 0.0, list[float]()
        for number, stage in enumerate(stages):
            last = max(len(self.values[fold]) for fold in stage)
            for epoch in range(1, last + 1):
                now = [self.values[fold][:epoch][-1] for fold in stage]
                running = sum(len(self.values[fold]) >= epoch for fold in stage)
                spent += running * self.seconds
                # As `Report.compared_at` says.
                others_follow = epoch == last and number < len(stages) - 1
                steps.append(max_epochs * number + (max_epochs if others_follow else epoch))
                values.append(sum(now + ended) / len(now + ended))
                costs.append(running)
                seconds.append(spent)
            ended += [self.values[fold][-1] for fold in stage]
        return History(steps, values, costs, seconds)


@dataclass(frozen=True)
class History:
    """What a trial reports if nothing stops it.

    Attributes:
        steps: the step of each report, see `wpm.reports.Report`.
        values: the value of each report: mean over the folds trained so far of the best score.
        costs: the epochs of single folds that were trained for each report.
        seconds: the time of each report since the start of the trial.
    """

    steps: Sequence[int]
    values: Sequence[float]
    costs: Sequence[int]
    seconds: Sequence[float]


@dataclass(frozen=True)
class RecordedStudy:
    """Trials that were recorded to their ends.

    Attributes:
        protocol: under which they were trained.
        searched: range of each parameter: low, high, scale and type.
        parameters: of each trial.
        curves: of each trial.
    """

    dataset: str
    row: str
    protocol: Protocol
    searched: Mapping[str, Mapping[str, Any]]
    parameters: Sequence[Mapping[str, float]]
    curves: Sequence[Curves]

    @property
    def name(self) -> str:
        """Name for people."""
        return f"{self.dataset}/{self.protocol.name}/{self.row}"


def read_studies(path: Path = HISTORIES) -> list[RecordedStudy]:
    """Read what `benchmarks.search_histories` wrote."""
    return [
        RecordedStudy(
            study["dataset"],
            study["row"],
            find_protocol(study["protocol"], study["dataset"]),
            study["searched"],
            [trial["parameters"] for trial in study["trials"]],
            [Curves(trial["folds"], trial["seconds"]) for trial in study["trials"]],
        )
        for study in json.loads(path.read_text())
    ]


@dataclass(frozen=True)
class Rule:
    """A way to stop trials."""

    stopping: str = PAUSING
    first_folds: int = 0
    grace: int = 2
    factor: int = 2

    def change(self, protocol: Protocol) -> Protocol:
        """Return a protocol with the rule's rungs."""
        return replace(
            protocol,
            first_folds=self.first_folds,
            grace_epochs=self.grace,
            reduction_factor=self.factor,
        )

    def rungs(self, protocol: Protocol) -> Rungs:
        """Return empty rungs."""
        return Rungs(self.change(protocol), self.stopping)


class Listener:
    """Hears what happens in a replay."""

    def on_report(self, number: int, step: int, value: float) -> None:
        """Hear a report of a trial."""

    def on_end(self, number: int, value: float | None) -> None:
        """Hear that a trial is complete, or was stopped: then there is no value."""


@dataclass
class ReplayedTrial:
    """A trial in a replay.

    Attributes:
        number: position in the order of the starts.
        history: everything that the trial would report.
        known: whether its configuration was known before the search.
        reports: number of reports that it has made.
    """

    number: int
    history: History
    known: bool = False
    reports: int = 0

    @property
    def complete(self) -> bool:
        """Whether it has ended by itself."""
        return self.reports == len(self.history.steps)

    @property
    def cost(self) -> int:
        """Epochs of single folds that it has trained."""
        return sum(self.history.costs[: self.reports])

    @property
    def value(self) -> float:
        """The value of its last report."""
        return self.history.values[self.reports - 1]


def replay(
    start: Callable[[int], History],
    rungs: Rungs,
    trials: int,
    workers: int,
    listener: Listener | None = None,
    known: int = 0,
) -> list[ReplayedTrial]:
    """Run a search on simulated time, in the order of decisions of `wpm.studies.study.Study`.

    Args:
        start: returns what a new trial would report, by its number.
        rungs: decide which trials train on; they are filled.
        trials: number of trials to run.
        workers: number of trials that run at a time.
        listener: hears every report and end.
        known: how many of the first trials are known points.

    Returns:
        The trials in the order in which they were last worked on.
    """
    listener = listener or Listener()
    started: list[ReplayedTrial] = []
    order: dict[int, ReplayedTrial] = {}
    running: list[tuple[float, int]] = []  # (time of the next report, number)
    now = 0.0

    def go_on(trial: ReplayedTrial) -> None:
        times = (0.0, *trial.history.seconds)
        wait = times[trial.reports + 1] - times[trial.reports]
        heapq.heappush(running, (now + wait, trial.number))

    def hand_out() -> ReplayedTrial | None:
        resumed = rungs.resume_one()
        if resumed is None and len(started) < trials:
            number = len(started)
            started.append(ReplayedTrial(number, start(number), number < known))
            return started[-1]
        if resumed is None and not running:
            resumed = rungs.resume_one(is_last_call=True)
        return None if resumed is None else started[resumed]

    while True:
        while len(running) < workers and (trial := hand_out()) is not None:
            go_on(trial)
        if not running:
            break
        now, number = heapq.heappop(running)
        trial = started[number]
        step, value = trial.history.steps[trial.reports], trial.history.values[trial.reports]
        trial.reports += 1
        order.pop(number, None)
        order[number] = trial
        listener.on_report(number, step, value)
        if trial.complete:
            listener.on_end(number, value)
        elif rungs.reach(number, step, value, known=trial.known):
            go_on(trial)
        elif not rungs.pauses:
            listener.on_end(number, None)
    for trial in started:
        if rungs.pauses and not trial.complete:
            listener.on_end(trial.number, None)
    return list(order.values())
