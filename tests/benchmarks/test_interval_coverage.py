"""Intervals over searches hold a known truth as often as they say; others do not."""

import numpy as np
import pytest

from benchmarks.interval_coverage import World, measure

STUDIES = 2000  # the share of 95% then varies by 0.005


@pytest.mark.parametrize("runs", [(3,) * 3, (5,) * 3, (4,) * 4, (5,) * 5, (5, 4, 3, 2, 1)])
@pytest.mark.parametrize("ratio", [0.0, 1.0, 4.0])
def test_interval_over_search_means_holds_the_truth(runs: tuple[int, ...], ratio: float) -> None:
    share, _ = measure(World(runs, ratio), "search means", STUDIES)
    assert 0.93 <= share <= 0.97


def test_intervals_that_are_not_used_miss_the_truth_too_often() -> None:
    world = World((5,) * 3, 2.0)
    assert measure(world, "all runs", STUDIES)[0] < 0.65
    assert measure(world, "bootstrap", 300)[0] < 0.85


def test_interval_without_pairing_is_too_wide_for_twins_that_share_much() -> None:
    world = World((5,) * 3, 1.0, search_shared=0.8, seed_shared=0.5)
    share, width = measure(world, "unpaired", STUDIES)
    assert share > 0.97
    assert width > measure(world, "search means", STUDIES)[1]


def test_world_has_the_spreads_that_it_names() -> None:
    world = World((4, 2), ratio=2.0, search_shared=0.5, seed_shared=0.25)
    scores = world.draw(20_000, np.random.default_rng(0))
    assert scores.shape == (2, 20_000, 2, 4)
    assert np.isnan(scores[:, :, 1, 2:]).all()
    assert not np.isnan(scores[:, :, 0]).any()
    assert scores[0, :, 0, 0].std() == pytest.approx(5**0.5, rel=0.03)
    # What a search adds has variance 4, half of it shared; what a seed adds 1, a quarter shared.
    shared = np.cov(scores[0, :, 0, 0], scores[1, :, 0, 0])[0, 1]
    assert shared == pytest.approx(4 * 0.5 + 0.25, rel=0.05)
    other_run = np.cov(scores[0, :, 0, 0], scores[1, :, 0, 1])[0, 1]
    assert other_run == pytest.approx(4 * 0.5, rel=0.07)
