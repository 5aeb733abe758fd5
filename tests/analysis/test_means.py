"""Mean, standard deviation and Student-t intervals against values from printed tables."""

import subprocess
import sys

import pytest

from analysis.numbers.means import confidence_half_width, mean, standard_deviation


def test_mean_is_exact_where_naive_sums_are_not() -> None:
    assert mean([1e16, 1.0, -1e16, 3.0]) == 1.0
    assert mean([0.25]) == 0.25


def test_mean_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_standard_deviation_divides_by_n_minus_one() -> None:
    # deviations -3, -1, 1, 3: squares sum to 20, 20 / 3
    assert standard_deviation([2.0, 4.0, 6.0, 8.0]) == pytest.approx((20 / 3) ** 0.5)
    assert standard_deviation([5.0, 5.0]) == 0.0


@pytest.mark.parametrize("values", [[], [0.7]])
def test_spread_is_unknown_below_two_values(values: list[float]) -> None:
    assert standard_deviation(values) is None
    assert confidence_half_width(values) is None


@pytest.mark.parametrize(
    ("values", "confidence", "expected"),
    [
        # s = sqrt(2), s / sqrt(2) = 1: the half-width is the quantile, here t(1, 0.975)
        ([0.0, 2.0], 0.95, 12.706205),
        ([0.0, 2.0], 0.90, 6.313752),
        # s = 1, t(2, 0.975) = 4.302653, divided by sqrt(3)
        ([1.0, 2.0, 3.0], 0.95, 4.302653 / 3**0.5),
        # ten runs: s^2 = 82.5 / 9, t(9, 0.975) = 2.262157
        ([float(i) for i in range(10)], 0.95, 2.262157 * (82.5 / 9 / 10) ** 0.5),
    ],
)
def test_half_width_matches_printed_quantiles(
    values: list[float], confidence: float, expected: float
) -> None:
    assert confidence_half_width(values, confidence) == pytest.approx(expected, rel=1e-6)


def test_half_width_ignores_shift_and_follows_scale() -> None:
    values = [0.1, 0.4, 0.2]
    width = confidence_half_width(values)
    assert width is not None
    assert confidence_half_width([v + 7 for v in values]) == pytest.approx(width)
    assert confidence_half_width([-100 * v for v in values]) == pytest.approx(100 * width)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, -0.5])
def test_confidence_outside_its_range_is_refused(confidence: float) -> None:
    with pytest.raises(ValueError, match=r"confidence is .*, must be between 0 and 1"):
        confidence_half_width([1.0, 2.0], confidence)


def test_quantile_needs_no_scipy_stats() -> None:
    code = (
        "import sys; from analysis.numbers.means import confidence_half_width as h; h([1.0, 2.0]); "
        "print('scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
