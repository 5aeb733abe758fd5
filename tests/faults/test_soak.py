"""The drill of a day in small, in its smallest form."""

import os
import random

import pytest

from tests.commands import Launcher
from tests.faults.soak import Drill, check, describe_memory, soak

pytestmark = pytest.mark.slow


def test_search_bears_what_is_killed_on_its_way(launcher: Launcher) -> None:
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    print(f"seed {seed}")
    tally = soak(launcher, Drill(60, faults=4, gap_s=(0.2, 1.5)), random.Random(seed))
    print(dict(tally.faults), check(launcher, tally, 60), describe_memory(tally.memory))
    assert tally.faults.total() >= 2
