"""Paired differences against hand-computed and printed values, and against scipy."""

import itertools
import random

import pytest

from analysis.numbers.paired import (
    MAX_FLIPPED,
    correct_holm,
    paired_difference,
    sign_flip_test,
    t_test,
)
from wpm.spreads import detectable_effect

DIFFERENCES = [0.1, 0.2, 0.3, 0.1, 0.2]


def test_difference_has_mean_interval_and_p_values() -> None:
    from scipy import stats

    found = paired_difference(DIFFERENCES)
    expected = stats.ttest_1samp(DIFFERENCES, 0.0)
    interval = expected.confidence_interval(0.95)
    assert found.mean == pytest.approx(0.18)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert found.t_p == pytest.approx(expected.pvalue)
    # All five are positive: only the pattern seen and its mirror are as extreme, 2 of 32.
    assert found.flip_p == found.smallest_flip_p == 2 / 32


@pytest.mark.parametrize(
    "differences", [[0.3], [0.2, 0.2, 0.2], [0.6 - 0.5, 0.7 - 0.6], [0.0, 0.0]]
)
def test_without_spread_there_is_no_t_test(differences: list[float]) -> None:
    found = paired_difference(differences)
    assert found.t_p is None
    assert found.mean == pytest.approx(differences[0])
    assert found.flip_p == (1.0 if differences[0] == 0 else 2.0 ** (1 - len(differences)))


def test_single_pair_has_no_interval() -> None:
    found = paired_difference([0.3])
    assert (found.low, found.high, found.half_width, found.detectable) == (None,) * 4


def test_no_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        paired_difference([])


def test_sign_flips_equal_a_plain_loop() -> None:
    rng = random.Random(0)
    for count in range(1, 8):
        differences = [round(rng.gauss(0.3, 1), 1) for _ in range(count)]  # ties occur
        sums = [
            abs(sum(s * d for s, d in zip(signs, differences, strict=True)))
            for signs in itertools.product((1, -1), repeat=count)
        ]
        as_extreme = [s >= abs(sum(differences)) - 1e-12 for s in sums]
        assert sign_flip_test(differences) == sum(as_extreme) / len(sums)


def test_sign_flips_do_not_depend_on_the_side() -> None:
    values = [0.1, -0.4, 0.25, 0.3]
    assert sign_flip_test(values) == sign_flip_test([-v for v in values])


def test_sign_flips_end_where_memory_does() -> None:
    assert sign_flip_test([]) is None
    assert sign_flip_test([0.1] * (MAX_FLIPPED + 1)) is None
    assert sign_flip_test([0.1] * 12) == 2 / 4096


def test_t_test_is_two_sided() -> None:
    assert t_test(DIFFERENCES) == t_test([-d for d in DIFFERENCES])
    assert t_test([-0.1, 0.1]) == pytest.approx(1.0)


def test_holm_corrects_step_by_step() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.04: times 4, 3, 2, 1, none smaller than one before.
    assert correct_holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert correct_holm([0.01, None, 0.9]) == [0.02, None, 0.9]
    assert correct_holm([0.6, 0.7]) == [1.0, 1.0]
    assert correct_holm([0.03]) == [0.03]
    assert correct_holm([]) == []


def test_detectable_difference_follows_the_spread() -> None:
    # deviations -0.08, 0.02, 0.12, -0.08, 0.02: squares sum to 0.028, divided by 4
    assert paired_difference(DIFFERENCES).detectable == pytest.approx(
        0.07**0.5 / 10**0.5 * detectable_effect(5)
    )
