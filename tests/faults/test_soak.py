"""The soak drill in its smallest form."""

import os
import random

import pytest

from tests.faults.soak import Drill, check, check_memory, describe_memory, soak
from tests.support.commands import Launcher


@pytest.mark.slow
def test_search_survives_random_kills(launcher: Launcher) -> None:
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    print(f"seed {seed}")
    tally = soak(launcher, Drill(16, faults=2, gap_s=(0.2, 1.5)), random.Random(seed))
    print(dict(tally.faults), check(launcher, tally, 16), describe_memory(tally.memory))
    assert tally.faults.total() >= 2


def test_driver_that_grows_fails_a_long_drill() -> None:
    grows = [(ended, 1e9 + 50_000 * ended) for ended in range(200)]
    with pytest.raises(AssertionError, match="grows by 50000 bytes a trial"):
        check_memory(grows)
    check_memory(grows[:100])  # too few trials for a slope
    check_memory([(ended, 1e9 + 30_000 * ended) for ended in range(200)])
    check_memory([])
