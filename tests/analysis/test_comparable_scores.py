"""Scores of trials that were stopped with fewer folds than complete ones have."""

from pathlib import Path

import pytest

from analysis.studies.row_results import comparable_score, read_row
from analysis.studies.row_searches import search_curve
from tests.support.searches import write_search_of_waiting_folds
from wpm.records import Outcome, TrialState


def outcome(*fold_scores: float) -> Outcome:
    score = sum(fold_scores) / len(fold_scores)
    return Outcome(TrialState.COMPLETE, "", score, 1, fold_scores, 0.0, 0.0)


# On both folds they have 5/6, 2/3 and 2/3 of what they have on the first.
COMPLETE = [outcome(0.6, 0.4), outcome(0.3, 0.1), outcome(0.42, 0.14)]


@pytest.mark.parametrize(
    ("trial", "comparable"),
    [
        (outcome(0.3), 0.3 * 0.4 / 0.6),
        (outcome(0.3, 0.2), 0.25),
        (outcome(0.9), 0.5),
        (outcome(0.0), 0.0),
    ],
)
def test_score_of_fewer_folds_is_that_of_all_and_at_most_the_best(
    trial: Outcome, comparable: float
) -> None:
    assert comparable_score(trial, COMPLETE) == pytest.approx(comparable)


def test_nothing_to_compare_with_leaves_the_score() -> None:
    assert comparable_score(outcome(0.3), []) == 0.3
    assert comparable_score(outcome(0.3), [outcome(0.0, 0.0)]) == 0.3


def test_expectations_are_of_comparable_scores(tmp_path: Path) -> None:
    row, problems = read_row(write_search_of_waiting_folds(tmp_path))
    assert problems == []
    # Complete with 0.2 on both folds; stopped with 0.3 on one of them, and with 0.4 on both.
    assert [trial.score for trial in row.ended] == pytest.approx([0.2, 0.3, 0.4])
    assert [trial.comparable for trial in row.ended] == pytest.approx([0.2, 0.2, 0.4])
    assert search_curve(row).expected[0] == pytest.approx(0.8 / 3)
