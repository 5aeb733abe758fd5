"""Read a search with the history of every trial: its learning curve, its start and its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from analysis.studies.ranking import RankedTrial, describe_trial
from analysis.studies.row_results import convert_records
from analysis.studies.selection import require_study
from wpm.records import StudyPlace, TrainingRecord, TrialState, read_trials, validation_order


@dataclass(frozen=True)
class TrialHistory:
    """A trial and its history.

    Attributes:
        outcome: how the trial ended, or how far it is.
        curve: for every validation, its step (see `wpm.reports.Report`; the epoch, where all folds
            train in lockstep) and the best validation MAP@R so far, a fraction.
        started: time at which the trial was first handed out; None if the record does not say.
        ended: None while the trial is running.
    """

    outcome: RankedTrial
    curve: Sequence[tuple[int, float]]
    started: datetime | None
    ended: datetime | None

    def score_at(self, step: int) -> float | None:
        """Return the best score so far at the first validation at or after a step."""
        return next((score for reached, score in self.curve if reached >= step), None)


@dataclass(frozen=True)
class Search:
    """A study with the histories of its trials.

    Attributes:
        identity: what must not change during the study: ranges, protocol, images.
        provenance: code, libraries and machine that started the study.
        budget: number of trials that the search may run.
        trials: the trials with readable records, by number.
    """

    place: StudyPlace
    identity: Mapping[str, Any]
    provenance: Mapping[str, Any]
    budget: int
    trials: Sequence[TrialHistory]

    @property
    def searched(self) -> Mapping[str, Mapping[str, Any]]:
        """The range of every parameter: low, high, scale, type and reason."""
        ranges: Mapping[str, Mapping[str, Any]] = self.identity.get("searched", {})
        return ranges

    def in_state(self, *states: TrialState) -> list[TrialHistory]:
        """Return the trials in one of some states."""
        return [trial for trial in self.trials if trial.outcome.state in states]

    @property
    def best(self) -> TrialHistory | None:
        """The best complete trial."""
        return min(
            self.in_state(TrialState.COMPLETE),
            key=lambda trial: validation_order(trial.outcome.score, trial.outcome.number),
            default=None,
        )


def with_values(trials: Sequence[TrialHistory], names: Sequence[str]) -> list[TrialHistory]:
    """Return the trials that have a score and a value of each parameter."""
    return [
        trial
        for trial in trials
        if trial.outcome.score is not None
        and all(name in trial.outcome.parameters for name in names)
    ]


def read_search(place: StudyPlace) -> tuple[Search, list[str]]:
    """Read a study with the reports of all its trials.

    Returns:
        The search, and one line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    study = require_study(place)
    records, problems = read_trials(place, with_reports=True)
    identity = study["identity"]
    trials, more_problems = convert_records(
        records, lambda record: _describe(place, record, identity)
    )
    trials.sort(key=lambda trial: trial.outcome.number)
    search = Search(place, identity, study.get("provenance", {}), study["trials"], trials)
    return search, problems + more_problems


def _describe(
    place: StudyPlace, record: TrainingRecord, identity: Mapping[str, Any]
) -> TrialHistory:
    return TrialHistory(
        outcome=describe_trial(place, record, identity),
        curve=[(report.step, report.best_map_at_r) for report in record.reports],
        started=_parse_time(record.identity.get("provenance", {}).get("started")),
        ended=_parse_time(record.outcome.ended),
    )


def _parse_time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
