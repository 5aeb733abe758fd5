"""Correlation of two scores, with an interval. docs/statistics.md says why this one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST = 3  # number of points; two points always lie on a line
_QUANTILE = 1.959964  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient.

    Attributes:
        value: in [-1, 1]; None if there are fewer than `SMALLEST` points, or a score is constant.
        low: lower end of its 95% interval; None for three points, or if all lie on a line.
        high: upper end of the interval.
        points: number of points.
    """

    value: float | None
    low: float | None
    high: float | None
    points: int


def correlate(first: Sequence[float], second: Sequence[float], *, ranks: bool) -> Correlation:
    """Return the correlation of paired values, with an interval by Fisher's transformation.

    The interval is tanh(artanh r ± 1.96 s) with s^2 = 1 / (n - 3) for values (Fisher 1921) and
    s^2 = (1 + r^2 / 2) / (n - 3) for ranks (Bonett and Wright, Psychometrika 2000).

    Args:
        first: one score of every point.
        second: another score of the same points.
        ranks: correlate the ranks (Spearman) instead of the values (Pearson). Equal values have
            the mean of their ranks.
    """
    count = len(first)
    if count < SMALLEST or min(np.ptp(first), np.ptp(second)) == 0:
        return Correlation(None, None, None, count)
    points = np.array([first, second], dtype=float)
    if ranks:
        from scipy.stats import rankdata  # imported here, because the import is slow

        points = rankdata(points, axis=1)
    value = float(np.clip(np.corrcoef(points)[0, 1], -1, 1))
    if count == SMALLEST or 1 - abs(value) < 1e-12:
        return Correlation(value, None, None, count)
    variance = (1 + value**2 / 2 if ranks else 1.0) / (count - 3)
    width = _QUANTILE * math.sqrt(variance)
    low, high = (math.tanh(math.atanh(value) + side * width) for side in (-1, 1))
    return Correlation(value, low, high, count)
