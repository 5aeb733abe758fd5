"""How test scores vary between searches and training seeds, and which difference that hides.

docs/statistics.md says what the numbers mean, and where they end.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_POWER = 0.8  # share of comparisons that shall find the difference
_CONFIDENCE = 0.95
_MOST_SEARCHES = 200  # nobody runs more; the search for a number ends here

RunScores = Mapping[int, Mapping[int, float]]  # by the number of the search, then by the run's seed


def pair_scores(first: RunScores, second: RunScores) -> dict[int, dict[int, float]]:
    """Return second minus first for every run of every search that both rows have.

    Runs of one number and seed share weights and batches, and searches of one number share the
    first points that they sample.
    """
    differences = {
        search: {
            run: second[search][run] - first[search][run]
            for run in sorted(first[search].keys() & second[search].keys())
        }
        for search in sorted(first.keys() & second.keys())
    }
    return {search: runs for search, runs in differences.items() if runs}


@dataclass(frozen=True)
class VarianceSplit:
    """The spread of scores, split into that of searches and that of training seeds.

    A score is modelled as mean + search + seed: each search adds a random number that all of its
    runs share, and each run adds one of its own.

    Attributes:
        searches: number of searches.
        runs: number of runs of all searches together.
        search_sd: standard deviation of what a search adds; 0 if the searches differ no more than
            their seeds explain; None if there is one search, or no search with two runs.
        seed_sd: standard deviation of what a run adds; None if no search has two runs.
    """

    searches: int
    runs: int
    search_sd: float | None
    seed_sd: float | None

    def mean_sd(self, runs: int) -> float | None:
        """Return the standard deviation of the mean score of a search with some runs."""
        if self.search_sd is None or self.seed_sd is None:
            return None
        return math.sqrt(self.search_sd**2 + self.seed_sd**2 / runs)


def split_variance(scores: Sequence[Sequence[float]]) -> VarianceSplit:
    """Split the variance of scores by the one-way analysis of variance.

    The estimates are those of Henderson's first method (Biometrics 1953): the mean squares within
    and between searches are set equal to what is expected of them. With as many runs in every
    search and a positive estimate this is also what REML gives. The estimate for searches can come
    out below 0, and is then 0.

    Args:
        scores: for each search, the scores of its runs. Searches may have different numbers of
            runs; those without a run are ignored.
    """
    groups = [group for group in scores if group]
    searches, runs = len(groups), sum(map(len, groups))
    if runs == searches:
        return VarianceSplit(searches, runs, None, None)
    means = [math.fsum(group) / len(group) for group in groups]
    within = math.fsum(
        (score - mean) ** 2 for group, mean in zip(groups, means, strict=True) for score in group
    ) / (runs - searches)
    if searches < 2:
        return VarianceSplit(searches, runs, None, math.sqrt(within))
    centre = math.fsum(score for group in groups for score in group) / runs
    between = math.fsum(
        len(group) * (mean - centre) ** 2 for group, mean in zip(groups, means, strict=True)
    ) / (searches - 1)
    size = (runs - math.fsum(len(group) ** 2 for group in groups) / runs) / (searches - 1)
    search = max(0.0, (between - within) / size)
    return VarianceSplit(searches, runs, math.sqrt(search), math.sqrt(within))


def detectable_effect(count: int, power: float = _POWER, confidence: float = _CONFIDENCE) -> float:
    """Return the true mean that a t-test tells from zero with probability `power`.

    Args:
        count: number of independent values, at least 2.
        confidence: 1 minus the significance level of the test.

    Returns:
        The mean, in standard deviations of the values (noncentral t distribution).
    """
    # Imported here, because a ranking needs no quantile and starts faster without it.
    from scipy.special import nctdtrinc, stdtrit

    quantile = stdtrit(count - 1, (1 + confidence) / 2)
    return float(nctdtrinc(count - 1, 1 - power, quantile) / math.sqrt(count))


def detectable_difference(mean_sd: float, searches: int) -> float:
    """Return the difference of two rows that 4 of 5 comparisons with some searches would find.

    Args:
        mean_sd: standard deviation, over searches, of the difference of the rows' means.
        searches: number of searches of each row, at least 2.
    """
    return mean_sd * detectable_effect(searches)


def needed_searches(difference: float, mean_sd: float) -> int | None:
    """Return the smallest number of searches with which 4 of 5 comparisons find a difference.

    Args:
        difference: true difference of two rows, above 0.
        mean_sd: standard deviation, over searches, of the difference of the rows' means.

    Returns:
        The number, at least 2, since one search says nothing about another; None if even 200
        searches do not find the difference.
    """
    return next(
        (
            count
            for count in range(2, _MOST_SEARCHES + 1)
            if detectable_difference(mean_sd, count) <= difference
        ),
        None,
    )


def spread_factors(searches: int, confidence: float = _CONFIDENCE) -> tuple[float, float]:
    """Return how many times smaller and larger a true spread can be than that of a few searches.

    Args:
        searches: number of searches that the standard deviation was estimated from, at least 2.

    Returns:
        The ends of the interval of the true standard deviation (chi-squared distribution), in
        multiples of the estimate.
    """
    from scipy.special import chdtri

    freedom = searches - 1
    ends = [float(chdtri(freedom, side)) for side in ((1 - confidence) / 2, (1 + confidence) / 2)]
    return math.sqrt(freedom / ends[0]), math.sqrt(freedom / ends[1])
