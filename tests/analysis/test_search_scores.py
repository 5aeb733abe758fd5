"""Which scores of several searches count as measurements of their own."""

from analysis.numbers.search_scores import independent_scores


def test_each_of_several_searches_counts_once() -> None:
    assert independent_scores([[1.0, 2.0], [], [5.0]]) == [1.5, 5.0]


def test_runs_of_a_single_search_count_each() -> None:
    assert independent_scores([[], [1.0, 2.0]]) == [1.0, 2.0]
    assert independent_scores([]) == []
