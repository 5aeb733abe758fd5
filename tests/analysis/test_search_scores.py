"""Which scores of several searches count, and which runs of two rows pair."""

import pytest

from analysis.numbers.search_scores import independent_scores, pair_scores


def test_runs_pair_by_search_and_seed() -> None:
    first = {1: {1000: 0.5, 1001: 0.6}, 2: {2000: 0.4}, 3: {3000: 0.1}}
    second = {1: {1000: 0.7, 1002: 0.9}, 2: {2000: 0.3, 2001: 0.8}, 4: {4000: 0.2}}
    found = pair_scores(first, second)
    assert found == {1: {1000: pytest.approx(0.2)}, 2: {2000: pytest.approx(-0.1)}}


def test_search_without_a_common_run_has_no_pair() -> None:
    assert pair_scores({1: {1000: 0.5}}, {1: {1001: 0.5}}) == {}
    assert pair_scores({}, {1: {1000: 0.5}}) == {}


def test_each_of_several_searches_counts_once() -> None:
    assert independent_scores([[1.0, 2.0], [], [5.0]]) == [1.5, 5.0]


def test_runs_of_a_single_search_count_each() -> None:
    assert independent_scores([[], [1.0, 2.0]]) == [1.0, 2.0]
    assert independent_scores([]) == []
