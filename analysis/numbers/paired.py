"""Paired differences: interval, tests, correction for many tests, and detectable effect.

docs/statistics.md says why these were chosen, and what they cannot show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.numbers.means import confidence_half_width, mean, standard_deviation
from wpm.spreads import detectable_effect

_ROUNDING = 1e-12  # scores are fractions, so that a smaller spread is only rounding
MAX_FLIPPED = 20  # the sign patterns of more pairs would not fit in memory


@dataclass(frozen=True)
class PairedDifference:
    """What pairs of measurements say about a difference.

    Attributes:
        values: the differences, one for each pair.
        mean: mean of the differences.
        half_width: half-width of the 95% interval of the mean (Student t); None below two pairs.
        t_p: two-sided p-value of the paired t-test; None if all differences are equal.
        flip_p: two-sided p-value of the exact sign-flip test; None above `MAX_FLIPPED` pairs.
    """

    values: tuple[float, ...]
    mean: float
    half_width: float | None
    t_p: float | None
    flip_p: float | None

    @property
    def low(self) -> float | None:
        """Lower end of the 95% interval."""
        return None if self.half_width is None else self.mean - self.half_width

    @property
    def high(self) -> float | None:
        """Upper end of the 95% interval."""
        return None if self.half_width is None else self.mean + self.half_width

    @property
    def smallest_flip_p(self) -> float:
        """The smallest p-value that the sign-flip test can give with this many pairs."""
        return 2.0 ** (1 - len(self.values))

    @property
    def detectable(self) -> float | None:
        """The true difference that four of five such comparisons would detect; None if unknown."""
        deviation = standard_deviation(self.values)
        if self.t_p is None or deviation is None:
            return None
        return deviation * detectable_effect(len(self.values))


def paired_difference(differences: Sequence[float]) -> PairedDifference:
    """Describe the differences of pairs.

    Args:
        differences: at least one; they must be independent of one another.

    Raises:
        ValueError: there are no differences.
    """
    return PairedDifference(
        values=tuple(differences),
        mean=mean(differences),
        half_width=confidence_half_width(differences),
        t_p=t_test(differences),
        flip_p=sign_flip_test(differences),
    )


def t_test(differences: Sequence[float]) -> float | None:
    """Return the two-sided p-value of a mean of zero, by Student's t with n - 1 degrees of freedom.

    Returns:
        The p-value; None if there are fewer than two differences, or all are equal.
    """
    deviation = standard_deviation(differences)
    if deviation is None or deviation < _ROUNDING:
        return None
    from scipy.special import stdtr

    count = len(differences)
    t = mean(differences) / (deviation / math.sqrt(count))
    return float(2 * stdtr(count - 1, -abs(t)))


def sign_flip_test(differences: Sequence[float]) -> float | None:
    """Return the exact two-sided p-value of differences that are symmetric about zero.

    If neither side is better, each difference could equally have had the other sign. The p-value is
    the share of the 2^n sign patterns whose mean is at least as far from zero as the observed one
    (Fisher's randomisation test).

    Returns:
        The p-value, at least 2^(1 - n); None for no differences or more than `MAX_FLIPPED`.
    """
    if not 0 < len(differences) <= MAX_FLIPPED:
        return None
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    # Rounding must not exclude a pattern that is equally extreme in exact arithmetic.
    observed = abs(sums[0]) * (1 - 1e-9)
    return float(np.mean(np.abs(sums) >= observed))


def correct_holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Correct p-values of several tests, so that a single false positive stays unlikely.

    The i-th smallest of m values (counted from 0) is multiplied by m - i, and raised to the largest
    before it (Holm, Scandinavian Journal of Statistics 1979).

    Args:
        p_values: one for each test; None stays None and does not count as a test.
    """
    ordered = sorted((p, i) for i, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for before, (p, i) in enumerate(ordered):
        largest = max(largest, min(1.0, p * (len(ordered) - before)))
        corrected[i] = largest
    return corrected
