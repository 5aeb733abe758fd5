"""Seeds of searches, trials and final runs: equal where they should be, and nowhere else."""

from wpm.studies.seeds import (
    MAX_SEARCHES,
    RUNS_PER_SEARCH,
    final_seed,
    new_trial_seed,
    search_seed,
)


def test_first_search_has_the_seeds_of_before() -> None:
    assert search_seed(seed=7, search=1) == 7
    assert [final_seed(1, run) for run in range(2)] == [1000, 1001]
    assert new_trial_seed(seed=0, number=5) == 1_000_005


def test_further_search_searches_as_another_seed_does() -> None:
    assert search_seed(seed=0, search=3) == search_seed(seed=2, search=1) == 2


def test_no_final_run_has_the_seed_of_another_or_of_a_trial() -> None:
    searches = (1, 2, 3, MAX_SEARCHES)
    runs = [final_seed(s, run) for s in searches for run in range(RUNS_PER_SEARCH)]
    assert len(set(runs)) == len(runs)
    assert min(runs) == 1000
    assert max(runs) < min(new_trial_seed(search_seed(0, s), 0) for s in searches)
