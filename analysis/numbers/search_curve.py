"""The progress of a search: the best score so far, and the best to expect from fewer trials."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from analysis.numbers.means import confidence_half_width, mean

_RESAMPLES = 1000
_SEED = 0  # fixed, so that the same records give the same interval
ROUND_COUNTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # numbers of trials that tables show
_MOST_COUNTS = 64  # points on one curve, unless the caller chooses them


@dataclass(frozen=True)
class SearchCurve:
    """The best validation score of a search, by the number of trials and by device-hours.

    Attributes:
        best: after each trial, in the order in which they were started, the best score that could
            be chosen; None before there is one in each of the searches.
        hours: after each trial, the device-hours spent so far.
        counts: the numbers of trials for which there is an expectation, rising.
        expected: for each of `counts`, the expected best score of that many trials in random order.
        low: lower ends of the 95% intervals of `expected`.
        high: upper ends of these intervals.
    """

    best: tuple[float | None, ...]
    hours: tuple[float, ...]
    counts: tuple[int, ...]
    expected: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]

    def best_after(self, hours: float) -> float | None:
        """Return the best score within some device-hours; None where there was none to choose."""
        spent = [best for best, cost in zip(self.best, self.hours, strict=True) if cost <= hours]
        return spent[-1] if spent else None


def make_curve(
    scores: Sequence[float],
    complete: Sequence[bool],
    hours: Sequence[float],
    counts: Sequence[int] | None = None,
) -> SearchCurve:
    """Describe the progress of a search.

    Args:
        scores: scores of the trials in the order in which they were started; 0 for a failed trial.
        complete: for each trial, whether it can be chosen. A trial that was stopped early cannot,
            but its score counts in the expectations; without it, a few trials would seem to find
            nothing.
        hours: device-hours of each trial.
        counts: numbers of trials to compute an expectation for, rising; numbers above the number of
            trials are left out. None means every number, or a selection of them if there are many.
    """
    if not scores:
        return SearchCurve((), (), (), (), (), ())
    asked = _spread_counts(len(scores)) if counts is None else counts
    known = tuple(count for count in asked if count <= len(scores))
    weights = _order_weights(len(scores), known)
    values = np.sort(np.array(scores, dtype=float))
    drawn = np.random.default_rng(_SEED).integers(len(values), size=(_RESAMPLES, len(values)))
    resampled = np.sort(values[drawn], axis=1) @ weights.T
    low, high = np.quantile(resampled, (0.025, 0.975), axis=0)
    return SearchCurve(
        best=_best_so_far(scores, complete),
        hours=tuple(accumulate(hours)),
        counts=known,
        expected=tuple((weights @ values).tolist()),
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
    )


def average_curves(curves: Sequence[SearchCurve]) -> SearchCurve:
    """Return the mean progress of several searches, as far as the shortest of them.

    The interval of the expected best is Student's t over the searches, so that it holds another
    search. That of a single search is of its trials.

    Args:
        curves: at least one; all have the same `counts`.
    """
    if len(curves) == 1:
        return curves[0]
    expected = [[*values] for values in zip(*(curve.expected for curve in curves), strict=True)]
    centres = [mean(values) for values in expected]
    widths = [confidence_half_width(values) or 0.0 for values in expected]
    return SearchCurve(
        best=tuple(_mean_of_all(v) for v in zip(*(c.best for c in curves), strict=False)),
        hours=tuple(mean(values) for values in zip(*(c.hours for c in curves), strict=False)),
        counts=curves[0].counts,
        expected=tuple(centres),
        # A score is a fraction; the interval of two searches would often exceed 0 and 1.
        low=tuple(max(0.0, m - w) for m, w in zip(centres, widths, strict=True)),
        high=tuple(min(1.0, m + w) for m, w in zip(centres, widths, strict=True)),
    )


def _best_so_far(scores: Sequence[float], complete: Sequence[bool]) -> tuple[float | None, ...]:
    found: list[float | None] = []
    best = None
    for score, can_be_chosen in zip(scores, complete, strict=True):
        if can_be_chosen:
            best = score if best is None else max(best, score)
        found.append(best)
    return tuple(found)


def _mean_of_all(best: Sequence[float | None]) -> float | None:
    """Return the mean of some searches' best; without one of them it would be no search's score."""
    known = [score for score in best if score is not None]
    return mean(known) if len(known) == len(best) else None


def _spread_counts(total: int) -> list[int]:
    if total <= _MOST_COUNTS:
        return list(range(1, total + 1))
    spread = {round(count) for count in np.geomspace(1, total, _MOST_COUNTS)}
    return sorted(spread | {count for count in ROUND_COUNTS if count < total})


def _order_weights(total: int, counts: Sequence[int]) -> NDArray[Any]:
    """Return the (count, total) probabilities that the i-th smallest value is the best drawn.

    Of the C(N, n) ways to draw n of N values, C(i - 1, n - 1) have the i-th smallest as their
    largest. The expected best is then the mean over all random orders of the trials. This is the
    setting of Dodge et al., Show Your Work, EMNLP 2019, but drawn without replacement.
    """
    from scipy.special import betaln

    rank = np.arange(1, total + 1)
    drawn = np.array(counts)[:, None]
    reached = rank >= drawn
    below = np.where(reached, rank - drawn, 0)
    # log C(a, b) = -log(a + 1) - log B(b + 1, a - b + 1)
    log_ways = -np.log(rank) - betaln(drawn, below + 1)
    log_all = -np.log(total + 1) - betaln(drawn + 1, total - drawn + 1)
    return np.where(reached, np.exp(log_ways - log_all), 0.0)


def best_spread(scores: Sequence[float], count: int) -> float:
    """Return the standard deviation of the best of some scores that are drawn with replacement.

    Drawn without replacement, the best of all would not vary at all, though it does from one
    search to another.

    Args:
        scores: at least one.
        count: how many are drawn.
    """
    values = np.sort(np.array(scores, dtype=float))
    share = np.arange(len(values) + 1) / len(values)
    weights = np.diff(share**count)  # of the i-th smallest being the best
    centre = weights @ values
    return float(np.sqrt(weights @ (values - centre) ** 2))
