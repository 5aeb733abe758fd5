"""Scores of several searches: which of them are independent, and which runs of two rows pair.

Scores are `scores[search][run]`, by the number of the search and the seed of the run.
"""

from collections.abc import Mapping, Sequence

from analysis.numbers.means import mean

Scores = Mapping[int, Mapping[int, float]]


def pair_scores(first: Scores, second: Scores) -> dict[int, dict[int, float]]:
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
