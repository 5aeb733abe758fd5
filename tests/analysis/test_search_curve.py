"""The progress of a search equals that of plain loops over all orders."""

import itertools

import pytest

from analysis.numbers.search_curve import ROUND_COUNTS, average_curves, make_curve

SCORES = [0.3, 0.0, 0.5, 0.45, 0.2]
COMPLETE = [True, False, False, True, True]
HOURS = [1.0, 0.5, 0.25, 2.0, 1.0]


def test_best_so_far_is_of_trials_that_can_be_chosen() -> None:
    curve = make_curve(SCORES, COMPLETE, HOURS)
    assert curve.best == (0.3, 0.3, 0.3, 0.45, 0.45)
    assert curve.hours == (1.0, 1.5, 1.75, 3.75, 4.75)
    assert [curve.best_after(h) for h in (0.9, 1.0, 3.7, 3.75, 99)] == [None, 0.3, 0.3, 0.45, 0.45]


def test_nothing_can_be_chosen_before_a_trial_is_complete() -> None:
    assert make_curve([0.2, 0.1], [False, True], [1, 1]).best == (None, 0.1)


def test_expected_best_is_the_mean_over_all_draws() -> None:
    curve = make_curve(SCORES, COMPLETE, HOURS)
    assert curve.counts == (1, 2, 3, 4, 5)
    for count, expected in zip(curve.counts, curve.expected, strict=True):
        draws = [max(draw) for draw in itertools.combinations(SCORES, count)]
        assert expected == pytest.approx(sum(draws) / len(draws))


def test_interval_holds_the_expectation_and_is_repeatable() -> None:
    curve = make_curve(SCORES, COMPLETE, HOURS)
    for low, expected, high in zip(curve.low, curve.expected, curve.high, strict=True):
        assert min(SCORES) <= low < expected < high + 1e-12 <= max(SCORES) + 1e-9
    assert make_curve(SCORES, COMPLETE, HOURS) == curve


def test_interval_narrows_with_trials() -> None:
    few, many = (
        make_curve([0.1, 0.5] * 2, [True] * 4, [1] * 4),
        make_curve([0.1, 0.5] * 50, [True] * 100, [1] * 100),
    )
    assert many.high[0] - many.low[0] < few.high[0] - few.low[0]
    assert many.expected[0] == pytest.approx(0.3)


def test_search_without_trials_has_an_empty_curve() -> None:
    curve = make_curve([], [], [])
    assert (curve.best, curve.counts, curve.best_after(1.0)) == ((), (), None)


def test_long_searches_have_expectations_at_round_numbers_and_the_end() -> None:
    curve = make_curve([i / 3000 for i in range(3000)], [True] * 3000, [1.0] * 3000)
    assert {*ROUND_COUNTS, 3000} <= set(curve.counts)
    assert len(curve.counts) < 80
    assert curve.expected[0] == pytest.approx(2999 / 6000)
    assert curve.expected[-1] == pytest.approx(2999 / 3000)
    assert make_curve(SCORES, COMPLETE, HOURS, counts=(2, 4, 9)).counts == (2, 4)


def test_mean_of_searches_begins_where_each_has_something_to_choose() -> None:
    early = make_curve([0.4, 0.2, 0.6], [True, True, True], [1, 1, 1])
    late = make_curve([0.4, 0.2, 0.6], [False, True, True], [1, 1, 1])
    first, *others = average_curves([early, late]).best
    assert first is None
    assert others == pytest.approx([0.3, 0.6])
    assert average_curves([early, late]).best_after(1.0) is None
