"""What the records say of a row: its search, and the final runs of its configurations."""

import argparse
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from analysis.studies.published import Scores
from wpm.procedure import FIRST
from wpm.protocols import NO_STOPPING
from wpm.records import (
    Chosen,
    SearchCost,
    StudyPlace,
    TrialState,
    best_tested,
    validation_order,
)
from wpm.rows import Reduction

VIEWS = ("concatenated", "separated")
METRICS = {"precision_at_1": "P@1", "r_precision": "RP", "map_at_r": "MAP@R"}


@dataclass(frozen=True)
class TrialOutcome:
    """How a trial of a search ended.

    Attributes:
        score: validation MAP@R, a fraction, over the folds that it trained; None if the trial
            failed or is running.
        comparable: the score beside those of complete trials; see `comparable_score`.
        epochs: epochs that were trained; 0 while the trial is running.
        hours: device-hours; 0 while the trial is running.
    """

    number: int
    state: TrialState
    score: float | None = None
    epochs: int = 0
    hours: float = 0.0
    comparable: float | None = None


@dataclass(frozen=True)
class FinalRuns:
    """The final runs of one configuration.

    Attributes:
        chosen: where the configuration comes from.
        tested: for the seed of every tested run, its scores by view and metric.
        failed: number of failed runs.
        pending: number of runs that have started and not ended.
        validation: for the seed of every tested run, the mean over its folds of the best validation
            MAP@R.
        hours: device-hours of the folds that have ended.
        left_out: number of test images that could not be read, in the tested run with most of them.
        reductions: of the row without training, the scores under the other reductions.
        duplicates: number of test images that are among those to train and validate on as well, in
            the tested run with most of them.
    """

    chosen: Chosen
    tested: Mapping[int, Scores]
    failed: int
    pending: int
    validation: Mapping[int, float]
    hours: float
    left_out: int = 0
    reductions: Mapping[Reduction, Scores] = field(default_factory=dict)
    duplicates: int = 0

    @property
    def trial(self) -> int | str:
        """Number of the chosen trial, "published", or "none" for the row without training."""
        if self.chosen.trial is not None:
            return self.chosen.trial
        return "none" if self.chosen.source is None else "published"

    @property
    def score(self) -> float:
        """Validation MAP@R of that trial; -inf if there was no search."""
        return -math.inf if self.chosen.score is None else self.chosen.score

    def scores(self, view: str, metric: str) -> list[float]:
        """Return the score of every tested run."""
        return [scores[view, metric] for scores in self.tested.values()]


@dataclass(frozen=True)
class RowRecord:
    """A row on a data set under a protocol: the records of its search and of its final runs.

    Attributes:
        identity: identity of the study: protocol, images and more.
        budget: number of trials that the search may run.
        trials: the trials with readable records, by number.
        configurations: the configurations with final runs, the best in validation first.
        left_out: number of images to train and validate on that could not be read.
        label: name for people if the name of the row alone would be ambiguous, else "".
        known: number of complete configurations that the search tried first; None if the records
            do not say.
        twin_cost: what the search of the plain twin took, if its best trials were tried first.
    """

    place: StudyPlace
    identity: Mapping[str, Any]
    budget: int
    trials: Sequence[TrialOutcome]
    configurations: Sequence[FinalRuns]
    left_out: int = 0
    label: str = ""
    known: int | None = None
    twin_cost: SearchCost | None = None

    @property
    def name(self) -> str:
        """Name of the row, for people, with the search unless it is the first."""
        return self.label or self.place.label

    @property
    def ended(self) -> Sequence[TrialOutcome]:
        """The trials that have ended, complete or not."""
        return [trial for trial in self.trials if trial.state.has_ended]

    @property
    def ended_of_budget(self) -> str:
        """Number of trials that ended, and the budget, such as "18/20"; "+ 20" of the twin."""
        twin = "" if self.twin_cost is None else f" + {self.twin_cost.trials}"
        return f"{len(self.ended)}/{self.budget}{twin}"

    @property
    def stopping(self) -> str:
        """What becomes of trials that are behind, one of `wpm.protocols.STOPPINGS`."""
        return str(self.identity.get("stopping", NO_STOPPING))

    @property
    def procedure(self) -> int:
        """Number of the training procedure."""
        return int(self.identity.get("procedure", FIRST))

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and score of the best complete trial; None if there is none."""
        complete = [
            (trial.number, trial.score)
            for trial in self.trials
            if trial.state == TrialState.COMPLETE and trial.score is not None
        ]
        return min(complete, key=lambda trial: validation_order(trial[1], trial[0]), default=None)

    @property
    def finals(self) -> FinalRuns | None:
        """The final runs that stand for the row; None if there are none.

        They are those of the best tested configuration. If no run was tested, they are those of
        the best configuration in validation, so that the table can say what happened to them.
        """
        return best_tested(self.configurations) or next(iter(self.configurations), None)

    @property
    def own_cost(self) -> SearchCost:
        """What the row's own trials took that have ended."""
        return SearchCost(
            len(self.ended),
            sum(trial.epochs for trial in self.trials),
            math.fsum(trial.hours for trial in self.trials),
        )

    @property
    def search_cost(self) -> SearchCost:
        """What the search took, with that of the twin from whose best trials it began."""
        own = self.own_cost
        return own if self.twin_cost is None else own + self.twin_cost

    @property
    def search_hours(self) -> float:
        """Device-hours of `search_cost`."""
        return self.search_cost.hours

    def spread_hours(self, trials: Sequence[TrialOutcome]) -> list[float]:
        """Return the device-hours of trials in order; the first one bears the twin's search."""
        hours = [trial.hours for trial in trials]
        if hours and self.twin_cost is not None:
            hours[0] += self.twin_cost.hours
        return hours

    @property
    def final_hours(self) -> float:
        """Device-hours of the final runs in `finals`."""
        return self.finals.hours if self.finals else 0.0

    @property
    def epochs(self) -> int:
        """Number of epochs of `search_cost`."""
        return self.search_cost.epochs


def add_score_flags(parser: argparse._ActionsContainer) -> None:
    """Add the flags that choose the test score."""
    parser.add_argument(
        "--view",
        choices=VIEWS,
        default="concatenated",
        help="view of the test score [concatenated]",
    )
    parser.add_argument(
        "--metric",
        choices=list(METRICS),
        default="map_at_r",
        help="metric of the test score [map_at_r]",
    )
