"""Landscapes on which searches are tried, and what a search on them is judged by."""

import numpy as np
import pytest

from benchmarks import search_landscape, search_samplers
from benchmarks.search_landscape import Landscape
from benchmarks.search_replay import RecordedStudy, Rule, read_studies
from benchmarks.search_samplers import Setting, published_points, search
from benchmarks.search_smooth import DATASETS, ROWS, TRIALS, SmoothLandscape
from benchmarks.search_smooth import search as search_smooth
from wpm.protocols import NO_STOPPING
from wpm.rows import Row
from wpm.spaces import load_space


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> RecordedStudy:
    monkeypatch.setattr(search_landscape, "_CANDIDATES", 64)
    return read_studies()[0]


def test_trees_reproduce_what_was_recorded_and_know_the_best(study: RecordedStudy) -> None:
    landscape = Landscape(study, "trees")
    for parameters, curves in zip(study.parameters, study.curves, strict=True):
        assert landscape.score(parameters) == pytest.approx(curves.end, abs=2e-3)
        trained = landscape.train(parameters, np.random.default_rng(0))
        assert np.shape(trained.values) == (4, 20)
        assert (np.diff(trained.values, axis=1) >= 0).all()
    assert landscape.best >= max(curves.end for curves in study.curves) - 2e-3


def test_search_is_judged_by_the_true_score_of_its_choice(
    study: RecordedStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search_samplers, "TRIALS", 8)
    landscape = Landscape(study, "process")
    whole = search(landscape, Setting("random", Rule(NO_STOPPING)), seed=0)
    assert (whole.complete, whole.epochs) == (8, 1.0)
    assert whole.at_cost[0] == 1.0, "nothing is complete after a tenth of the epochs"
    saved = search(landscape, Setting("curves", Rule(first_folds=1, grace=4, factor=4), True), 0)
    assert saved.complete < 8
    assert saved.epochs < 0.7
    assert saved.regret <= saved.at_cost[1] <= 1


def test_published_points_are_those_of_all_data_sets(study: RecordedStudy) -> None:
    points = published_points(Landscape(study, "trees"))
    assert len(points) == 3
    assert all(set(point) == set(study.searched) for point in points)


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("dataset", DATASETS)
def test_smooth_landscape_peaks_at_the_published_point(row: str, dataset: str) -> None:
    landscape = SmoothLandscape(row, dataset)
    published = load_space(Row(row)).find_published(dataset).parameters
    assert landscape.score({name: published[name] for name in ROWS[row]}) == 1
    assert all(landscape.score(point) < 1 for point in landscape.others)


def test_smooth_search_counts_its_trials() -> None:
    trials, _ = search_smooth("random", False, "contrastive", "cub200", 0)
    assert 1 <= trials <= TRIALS + 1
