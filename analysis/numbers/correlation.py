"""Correlation of two scores with an interval; pure. docs/statistics.md says why this one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SMALLEST = 3  # points; two always lie on a line
_QUANTILE = 1.959964  # of the normal distribution, 97.5%


@dataclass(frozen=True)
class Correlation:
    """A correlation coefficient.

    Attributes:
        value: in [-1, 1]; None below `SMALLEST` points, or where a score does not vary.
        low: lower end of its 95% interval; None with three points, or where all lie on a line.
        high: upper end.
        points: number of points.
    """

    value: float | None
    low: float | None
    high: float | None
    points: int


def correlate(first: Sequence[float], second: Sequence[float], *, ranks: bool) -> Correlation:
    """Return the correlation of paired values, and an interval by Fisher's transformation.

    The interval is tanh(artanh r ± 1.96 s) with s^2 = 1 / (n - 3) for values (Fisher 1921) and
    s^2 = (1 + r^2 / 2) / (n - 3) for ranks (Bonett and Wright, Psychometrika 2000).

    Args:
        first: a score of every point.
        second: another of the same points.
        ranks: correlate ranks, ties sharing theirs (Spearman), instead of values (Pearson).
    """
    count = len(first)
    if count < SMALLEST or min(np.ptp(first), np.ptp(second)) == 0:
        return Correlation(None, None, None, count)
    points = np.array([first, second], dtype=float)
    if ranks:
        from scipy.stats import rankdata  # here: slow to import

        points = rankdata(points, axis=1)
    value = float(np.clip(np.corrcoef(points)[0, 1], -1, 1))
    if count == SMALLEST or 1 - abs(value) < 1e-12:
        return Correlation(value, None, None, count)
    width = _QUANTILE * math.sqrt((1 + ranks * value**2 / 2) / (count - 3))
    low, high = (math.tanh(math.atanh(value) + side * width) for side in (-1, 1))
    return Correlation(value, low, high, count)
