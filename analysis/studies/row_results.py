"""Read a study: its search, and the final runs of its configurations."""

import math
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from analysis.numbers.means import mean
from analysis.studies.published import Scores
from analysis.studies.row_record import METRICS, VIEWS, FinalRuns, RowRecord, TrialOutcome
from analysis.studies.selection import require_study
from wpm.records import (
    FinalRecord,
    Outcome,
    ScoredRun,
    StudyPlace,
    TrainingRecord,
    TrialState,
    chosen_order,
    count_known,
    device_hours,
    read_finals,
    read_trials,
    read_twin_cost,
)
from wpm.rows import Reduction

_Record = TypeVar("_Record", TrainingRecord, FinalRecord)
_Content = TypeVar("_Content")


def read_row(place: StudyPlace) -> tuple[RowRecord, list[str]]:
    """Read the search and the final runs of a study.

    Returns:
        The row, and one line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    study = require_study(place)
    records, problems = read_trials(place)
    whole = [r.result for r in records if r.result and r.state is TrialState.COMPLETE]
    trials, more_problems = convert_records(records, partial(_describe_trial, whole))
    finals, even_more = read_final_runs(place)
    left_out = len(study.get("provenance", {}).get("left_out", ()))
    row = RowRecord(
        place,
        study["identity"],
        study["trials"],
        trials,
        finals,
        left_out,
        known=count_known(study),
        twin_cost=read_twin_cost(study),
    )
    return row, [*problems, *more_problems, *even_more]


def read_final_runs(place: StudyPlace) -> tuple[list[FinalRuns], list[str]]:
    """Read the final runs of all configurations of a study.

    Returns:
        The readable ones, the best in validation first, and one line for each damaged record.
    """
    records, problems = read_finals(place)
    finals, more_problems = convert_records(records, _describe_finals)
    return sorted(finals, key=chosen_order), problems + more_problems


def convert_records(
    records: Sequence[_Record], convert: Callable[[_Record], _Content]
) -> tuple[list[_Content], list[str]]:
    """Convert records one by one.

    An intact record can still lack values that a command needs, if another version wrote it.

    Returns:
        The converted records, and one line for each record that could not be converted.
    """
    contents, problems = [], []
    for record in records:
        try:
            contents.append(convert(record))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(
                f"{record.folder}: left out, its records are not as expected "
                f"({type(error).__name__}: {error})"
            )
    return contents, problems


def _describe_trial(complete: Sequence[Outcome], record: TrainingRecord) -> TrialOutcome:
    if record.result is None:
        return TrialOutcome(record.number, record.state)
    # A failed trial has no score, as in the search, even if it reached one before it failed.
    scored = record.state is not TrialState.FAILED
    return TrialOutcome(
        record.number,
        record.state,
        score=record.result.score if scored else None,
        epochs=record.result.epochs,
        hours=device_hours(record.result),
        comparable=comparable_score(record.result, complete) if scored else None,
    )


def comparable_score(outcome: Outcome, complete: Sequence[Outcome]) -> float | None:
    """Return what a trial's score would be on all folds, where it was stopped with fewer.

    Folds differ in difficulty. So the score is multiplied by what the complete trials have on all
    folds, divided by what they have on these: the median of them. It is at most the best of
    theirs, since a trial that was behind is not taken to be the best.

    Args:
        complete: how the complete trials of the study ended.
    """
    folds = len(outcome.fold_scores)
    if outcome.score is None or all(len(other.fold_scores) <= folds for other in complete):
        return outcome.score
    ratios = [
        mean(other.fold_scores) / mean(other.fold_scores[:folds])
        for other in complete
        if folds and mean(other.fold_scores[:folds]) > 0
    ]
    if not ratios:
        return outcome.score
    best = max(mean(other.fold_scores) for other in complete)
    return min(outcome.score * statistics.median(ratios), best)


def _describe_finals(record: FinalRecord) -> FinalRuns:
    begun = list(zip(record.runs, record.folds, strict=True))
    tested = [(run, folds) for run, folds in begun if isinstance(run, ScoredRun)]
    return FinalRuns(
        chosen=record.chosen,
        tested={
            run.seed: {
                (view, metric): run.scores(view)[metric] for view in VIEWS for metric in METRICS
            }
            for run, _ in tested
        },
        failed=len(record.failed),
        pending=sum(run is None for run in record.runs),
        validation={
            run.seed: mean([fold.score for fold in folds if fold.score is not None])
            for run, folds in tested
            if folds
        },
        hours=math.fsum(device_hours(fold) for _, folds in begun for fold in folds),
        left_out=max((len(run.left_out) for run, _ in tested), default=0),
        reductions=_read_reductions(tested[0][0]) if tested else {},
        duplicates=max((run.duplicates.get("test_images", 0) for run, _ in tested), default=0),
    )


def _read_reductions(run: ScoredRun) -> dict[Reduction, Scores]:
    return {
        Reduction(name): {
            (view, metric): scores[view][metric] for view in VIEWS for metric in METRICS
        }
        for name, scores in run.reductions.items()
    }
