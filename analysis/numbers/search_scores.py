"""Scores of several searches: which of them are independent measurements."""

from collections.abc import Sequence

from analysis.numbers.means import mean


def independent_scores(scores: Sequence[Sequence[float]]) -> list[float]:
    """Return what counts as one measurement each: the mean of each search, or one search's runs.

    The runs of a search share its configuration, so they say nothing about another search.
    Student's t over the means of searches holds another search and another seed, however large the
    one spread is beside the other; docs/statistics.md compares it with other intervals.

    Args:
        scores: for each search, the scores of its runs. Searches without a run are left out.
    """
    searches = [runs for runs in scores if runs]
    if len(searches) == 1:
        return [*searches[0]]
    return [mean(runs) for runs in searches]
