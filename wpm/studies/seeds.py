"""The seeds of searches, of their trials and of final runs, which never meet by accident.

    search s                   --seed + s - 1, of its sampler and of its trials
    its trials, each with one  (that seed + 1) * 1,000,000 + the trial's number
    its final runs             1000 s, 1000 s + 1, ...

Twins have the same seeds in searches of one number, so that their runs can be paired.
"""

RUNS_PER_SEARCH = 1000  # more final runs of one search would take the seeds of the next
_SEEDS_PER_STUDY = 1_000_000
# The final runs of this search and all before have seeds below those of trials.
MAX_SEARCHES = _SEEDS_PER_STUDY // RUNS_PER_SEARCH - 1


def search_seed(seed: int, search: int) -> int:
    """Return the seed of a search: of its sampler, and of its trials unless each has its own.

    Args:
        seed: what the user gave as `--seed`.
        search: number of the search, from 1.
    """
    return seed + search - 1


def new_trial_seed(seed: int, number: int) -> int:
    """Return the seed of a trial that has one of its own.

    Args:
        seed: of the search.
        number: of the trial, from 0.
    """
    return (seed + 1) * _SEEDS_PER_STUDY + number


def final_seed(search: int, run: int) -> int:
    """Return the seed of a final run.

    Args:
        search: number of the search whose configuration is trained again, from 1.
        run: number of the run, from 0 and below `RUNS_PER_SEARCH`.
    """
    return RUNS_PER_SEARCH * search + run
