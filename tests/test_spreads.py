"""The split of a variance against hand-computed values and a simulation; power tables."""

import numpy as np
import pytest

from wpm.spreads import (
    detectable_difference,
    detectable_effect,
    needed_searches,
    pair_scores,
    split_variance,
    spread_factors,
)


def test_runs_pair_by_search_and_seed() -> None:
    first = {1: {1000: 0.5, 1001: 0.6}, 2: {2000: 0.4}, 3: {3000: 0.1}}
    second = {1: {1000: 0.7, 1002: 0.9}, 2: {2000: 0.3, 2001: 0.8}, 4: {4000: 0.2}}
    found = pair_scores(first, second)
    assert found == {1: {1000: pytest.approx(0.2)}, 2: {2000: pytest.approx(-0.1)}}


def test_search_without_a_common_run_has_no_pair() -> None:
    assert pair_scores({1: {1000: 0.5}}, {1: {1001: 0.5}}) == {}
    assert pair_scores({}, {1: {1000: 0.5}}) == {}


def test_variance_is_split_as_by_hand() -> None:
    # Means 2 and 5: between 3 x (1.5^2 + 1.5^2) / 1 = 13.5, within 4 / 4 = 1; (13.5 - 1) / 3.
    found = split_variance([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert (found.searches, found.runs) == (2, 6)
    assert found.search_sd == pytest.approx((12.5 / 3) ** 0.5)
    assert found.seed_sd == pytest.approx(1.0)
    assert found.mean_sd(3) == pytest.approx((12.5 / 3 + 1 / 3) ** 0.5)


def test_variance_of_unequal_searches_is_split_as_by_hand() -> None:
    # Means 1, 4 and 7, centre 3: between 3 x 4 + 2 x 1 + 1 x 16 = 30, halved 15;
    # within 2 + 2 = 4, over 6 - 3; size (6 - 14 / 6) / 2 = 11 / 6.
    found = split_variance([[0.0, 1.0, 2.0], [3.0, 5.0], [7.0], []])
    assert (found.searches, found.runs) == (3, 6)
    assert found.seed_sd == pytest.approx((4 / 3) ** 0.5)
    assert found.search_sd == pytest.approx(((15 - 4 / 3) / (11 / 6)) ** 0.5)


def test_spread_below_that_of_seeds_is_zero() -> None:
    found = split_variance([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0]])
    assert found.search_sd == 0.0
    assert found.seed_sd == pytest.approx(0.5**0.5)


@pytest.mark.parametrize("scores", [[], [[]], [[1.0]], [[1.0], [2.0], [4.0]]])
def test_single_runs_cannot_be_split(scores: list[list[float]]) -> None:
    found = split_variance(scores)
    assert (found.search_sd, found.seed_sd, found.mean_sd(3)) == (None, None, None)


def test_one_search_says_nothing_about_another() -> None:
    found = split_variance([[1.0, 2.0]])
    assert found.search_sd is None
    assert found.seed_sd == pytest.approx(0.5**0.5)
    assert found.mean_sd(5) is None


def test_split_is_right_on_average() -> None:
    rng = np.random.default_rng(0)
    sizes = (5, 3, 3, 1)
    variances = []
    for _ in range(4000):
        groups = [(rng.normal(0, 2) + rng.normal(size=size)).tolist() for size in sizes]
        found = split_variance(groups)
        assert found.search_sd is not None
        assert found.seed_sd is not None
        variances.append((found.search_sd**2, found.seed_sd**2))
    search, seed = np.mean(variances, axis=0)
    assert search == pytest.approx(4.0, rel=0.05)
    assert seed == pytest.approx(1.0, rel=0.05)


def test_detectable_effect_matches_power_tables() -> None:
    # Cohen's d of a one-sample t-test, two-sided 5%, power 80%: n = 10 and 20 as tabulated.
    assert detectable_effect(10) == pytest.approx(0.996, abs=1e-3)
    assert detectable_effect(20) == pytest.approx(0.660, abs=1e-3)
    assert detectable_effect(5) > detectable_effect(10)


def test_needed_searches_are_the_first_that_find_the_difference() -> None:
    assert needed_searches(1.0, mean_sd=1.0) == 10  # 0.996 of a standard deviation
    assert detectable_difference(1.0, 9) > 1.0
    assert needed_searches(1.0, mean_sd=0.0) == 2
    assert needed_searches(0.01, mean_sd=1.0) is None


def test_needed_searches_find_the_difference_in_four_of_five_simulations() -> None:
    from scipy.special import stdtr

    count = needed_searches(1.2, mean_sd=1.0)
    assert count == 8
    values = np.random.default_rng(0).normal(1.2, 1.0, size=(4000, count))
    t = values.mean(axis=1) / (values.std(axis=1, ddof=1) / count**0.5)
    found = np.mean(2 * stdtr(count - 1, -np.abs(t)) < 0.05)
    assert found == pytest.approx(0.8, abs=0.04)


def test_few_searches_leave_the_spread_open() -> None:
    # Chi-squared with 2 degrees of freedom: quantiles 0.05064 and 7.3778.
    low, high = spread_factors(3)
    assert low == pytest.approx((2 / 7.3778) ** 0.5, rel=1e-3)
    assert high == pytest.approx((2 / 0.05064) ** 0.5, rel=1e-3)
    assert spread_factors(30)[1] < 1.4
