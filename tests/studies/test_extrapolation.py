"""Predicted ends of trials that have not trained to their end."""

import pytest

from wpm.studies.extrapolation import predict_ends


def test_gains_are_chained_from_rung_to_rung() -> None:
    trials = [{2: 0.2, 4: 0.3, 9: 0.6}, {2: 0.1, 4: 0.15}, {2: 0.2}, {}]
    assert predict_ends(trials, [2, 4, 9]) == [
        pytest.approx(0.6), pytest.approx(0.3), pytest.approx(0.6), None,
    ]  # fmt: skip


def test_median_gain_counts() -> None:
    trials = [{1: 0.1, 2: 0.1}, {1: 0.1, 2: 0.2}, {1: 0.1, 2: 0.9}, {1: 0.3}]
    assert predict_ends(trials, [1, 2])[3] == pytest.approx(0.6)


def test_nobody_beyond_a_rung_leaves_the_values_as_they_are() -> None:
    assert predict_ends([{1: 0.1}, {1: 0.3}], [1, 2, 3]) == [0.1, 0.3]


def test_trials_without_any_score_divide_by_nothing() -> None:
    assert predict_ends([{1: 0.0, 2: 0.0}, {1: 0.0}, {2: 0.5}], [1, 2]) == [0.0, 0.0, 0.5]
