"""Correlations against scipy, and where they have no value or no interval."""

import pytest

from analysis.numbers.correlation import correlate

FIRST = [0.1, 0.4, 0.2, 0.9, 0.5, 0.4]
SECOND = [0.2, 0.3, 0.1, 0.7, 0.8, 0.35]


def test_values_and_pearson_interval_are_scipys() -> None:
    from scipy import stats

    pearson = correlate(FIRST, SECOND, ranks=False)
    expected = stats.pearsonr(FIRST, SECOND)
    interval = expected.confidence_interval(0.95)
    assert pearson.value == pytest.approx(expected.statistic)
    assert (pearson.low, pearson.high) == pytest.approx((interval.low, interval.high), rel=1e-6)
    spearman = correlate(FIRST, SECOND, ranks=True)  # 0.4 twice: tied ranks
    assert spearman.value == pytest.approx(stats.spearmanr(FIRST, SECOND).statistic)
    assert spearman.points == 6


def test_interval_of_ranks_by_hand() -> None:
    # Ranks 1 2 3 4 against 2 1 4 3: r = 1 - 6 * 4 / (4 * 15) = 0.6; artanh 0.6 = 0.693147;
    # 1.959964 * sqrt(1.18 / 1) = 2.129057; tanh of -1.435910 and 2.822204.
    found = correlate([1.0, 2.0, 3.0, 4.0], [20.0, 10.0, 40.0, 30.0], ranks=True)
    assert found.value == pytest.approx(0.6)
    assert (found.low, found.high) == pytest.approx((-0.892873, 0.992951), abs=1e-5)


def test_ranks_do_not_mind_a_curve() -> None:
    first = [0.1, 0.2, 0.3, 0.4]
    curved = [x**5 for x in first]
    found = correlate(first, curved, ranks=True)
    assert (found.value, found.low, found.high) == (1.0, None, None)
    values = correlate(first, curved, ranks=False)
    assert values.value is not None
    assert values.value < 0.95


@pytest.mark.parametrize(
    ("first", "second"),
    [([], []), ([0.1, 0.2], [0.3, 0.4]), ([0.1, 0.1, 0.1], [0.1, 0.2, 0.3]),
     ([0.1, 0.2, 0.3], [0.5, 0.5, 0.5])],
)  # fmt: skip
def test_too_few_points_or_no_spread_have_no_correlation(
    first: list[float], second: list[float]
) -> None:
    for ranks in (True, False):
        found = correlate(first, second, ranks=ranks)
        assert (found.value, found.low, found.high) == (None, None, None)
        assert found.points == len(first)


def test_three_points_have_no_interval() -> None:
    found = correlate([0.1, 0.2, 0.3], [0.1, 0.3, 0.2], ranks=False)
    assert found.value == pytest.approx(0.5)
    assert (found.low, found.high) == (None, None)
