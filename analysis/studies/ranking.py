"""Rank the trials of a search by validation MAP@R."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from analysis.numbers.boundary import EdgeDistance, edge_distances
from analysis.numbers.means import standard_deviation
from analysis.studies.row_results import convert_records
from analysis.studies.selection import require_study
from wpm.errors import UserError
from wpm.records import (
    StudyPlace,
    TrainingFolder,
    TrainingRecord,
    TrialState,
    device_hours,
    read_trials,
)

# The states in the order of the ranking.
_STATES = (
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.DIVERGED,
    TrialState.RUNNING,
    TrialState.WAITING,
    TrialState.FAILED,
)


@dataclass(frozen=True)
class RankedTrial:
    """A trial as the ranking shows it.

    Attributes:
        place: the study of the trial.
        score: mean over the folds, a fraction; None if the trial failed or has no validation yet.
        deviation: sample standard deviation over the folds; None with one fold, and if the trial
            diverged.
        epochs: epochs that have been trained; where folds train one after another, those of all.
        folds: folds that have been trained.
        folds_of: folds of a complete trial; None where all folds train in lockstep, so that every
            trial has them.
        seconds: worker time.
        hours: device-hours.
        edges: distances of the parameters from the edges of their ranges, the nearest first.
        reason: why the trial diverged, failed or was stopped.
        rank: position among the trials with a final score; None if it is running or failed.
        origin: where the configuration was known from before the search; "" if it was sampled.
    """

    place: StudyPlace
    number: int
    state: TrialState
    score: float | None
    deviation: float | None
    epochs: int
    folds: int
    folds_of: int | None
    seconds: float
    hours: float
    parameters: Mapping[str, float]
    edges: Sequence[EdgeDistance]
    reason: str
    rank: int | None = None
    origin: str = ""


@dataclass(frozen=True)
class Ranking:
    """Trials, the best first.

    Attributes:
        places: the studies of the trials; one, unless rankings were merged.
        budget: number of trials that the searches may run.
        ended: number of trials that have ended, complete or not.
        trials: the trials with readable records, ranked.
        identity: identity of the study: protocol, images and more; empty if rankings were merged.
        procedures: numbers of the training procedures of the studies.
    """

    places: Sequence[StudyPlace]
    budget: int
    ended: int
    trials: Sequence[RankedTrial]
    identity: Mapping[str, Any] = field(default_factory=dict)
    procedures: frozenset[int] = frozenset()

    @property
    def name(self) -> str:
        """Name of the study, or the number of studies."""
        return self.places[0].name if len(self.places) == 1 else f"{len(self.places)} studies"


def read_ranking(place: StudyPlace) -> tuple[Ranking, list[str]]:
    """Read and rank the trials of a study.

    Returns:
        The ranking, and one line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    study = require_study(place)
    records, problems = read_trials(place)
    for position, record in enumerate(records):
        if not record.state.has_ended:  # only its reports say how far it is
            try:
                records[position] = TrainingFolder(record.folder).read()
            except UserError as error:
                problems.append(str(error))
    identity = study["identity"]
    trials, more_problems = convert_records(
        records, lambda record: describe_trial(place, record, identity)
    )
    ended = sum(trial.state.has_ended for trial in trials)
    ranking = Ranking(
        [place],
        study["trials"],
        ended,
        rank_trials(trials),
        identity,
        procedures=frozenset({identity["procedure"]}),
    )
    return ranking, problems + more_problems


def merge_rankings(rankings: Sequence[Ranking]) -> Ranking:
    """Rank the trials of several studies together."""
    return Ranking(
        places=[place for ranking in rankings for place in ranking.places],
        budget=sum(ranking.budget for ranking in rankings),
        ended=sum(ranking.ended for ranking in rankings),
        trials=rank_trials([trial for ranking in rankings for trial in ranking.trials]),
        procedures=frozenset().union(*(ranking.procedures for ranking in rankings)),
    )


def rank_trials(trials: Sequence[RankedTrial]) -> list[RankedTrial]:
    """Sort trials by state; complete and stopped ones by score, the others by number.

    Of stopped trials those with more folds come first: their scores do not compare with others'.
    """

    def place_of(trial: RankedTrial) -> tuple[int, float, float, int, str]:
        score = trial.score if trial.state in (TrialState.COMPLETE, TrialState.PRUNED) else None
        is_stopped = trial.state == TrialState.PRUNED
        return (
            _STATES.index(trial.state),
            -trial.folds / trial.folds_of if is_stopped and trial.folds_of else -1.0,
            float("inf") if score is None else -score,
            trial.number,
            trial.place.name,
        )

    return [
        replace(trial, rank=rank if trial.score is not None and trial.state.has_ended else None)
        for rank, trial in enumerate(sorted(trials, key=place_of), start=1)
    ]


def describe_trial(
    place: StudyPlace, record: TrainingRecord, identity: Mapping[str, Any]
) -> RankedTrial:
    """Describe a trial that has no rank yet; a running one is described by its reports.

    Args:
        record: record of the trial, with its reports if it is running.
        identity: of the study, as study.json has it: ranges by parameter, and the protocol.

    Raises:
        ValueError: the record has a value that no search writes.
        KeyError: the record lacks a value.
    """
    outcome, parameters, protocol = record.outcome, record.parameters, identity["protocol"]
    # A failed trial has no score, as in the search, even if it reached one before it failed.
    scored = outcome.state is not TrialState.FAILED and outcome.score is not None
    return RankedTrial(
        place=place,
        number=record.number,
        state=outcome.state,
        score=outcome.score if scored else None,
        # The score of a diverged trial is 0 and no mean over its folds.
        deviation=standard_deviation(outcome.fold_scores)
        if scored and outcome.state is not TrialState.DIVERGED
        else None,
        epochs=outcome.epochs,
        folds=len(outcome.fold_scores),
        folds_of=protocol["folds"] if protocol["first_folds"] else None,
        seconds=outcome.training_seconds + outcome.validation_seconds,
        hours=device_hours(outcome),
        parameters=parameters,
        edges=edge_distances(parameters, identity.get("searched", {})),
        reason=outcome.reason,
        origin=record.origin,
    )
