"""The row without training: what PCA is fitted on, and what comes out of it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import normalize

from tests.support.tiny import make_image_folder, make_plan, smoke_protocol
from wpm.data.index import DataSource
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.jobs.pretrained import (
    reduce_features,
    score_pretrained,
    score_reduced,
    standardise_and_reduce,
)
from wpm.jobs.start import start_job
from wpm.records import Chosen, read_finals
from wpm.retrieval import retrieval_scores
from wpm.rows import TABLE_ROWS, Reduction, Row
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import record_plan

CPU = torch.device("cpu")


def test_pca_keeps_distances_from_the_mean_of_what_it_was_fitted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    fitted_on = torch.randn(40, 6, generator=generator) * torch.arange(1, 7) + 5
    features = torch.randn(9, 6, generator=generator) + 5
    reduced = reduce_features(fitted_on, features, 6)
    expected = features - fitted_on.mean(dim=0)
    torch.testing.assert_close(torch.cdist(reduced, reduced), torch.cdist(expected, expected))


def test_pca_keeps_the_directions_of_most_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.01, 3.0, 0.01, 2.0])
    fitted_on = torch.randn(400, 4, generator=generator) * scale
    features = torch.randn(9, 4, generator=generator)
    reduced = normalize(reduce_features(fitted_on, features, 2), dim=1)
    expected = normalize((features - fitted_on.mean(dim=0))[:, [1, 3]], dim=1)
    torch.testing.assert_close(
        torch.cdist(reduced, reduced), torch.cdist(expected, expected), atol=0.02, rtol=0
    )


def test_test_images_do_not_move_the_projection() -> None:
    generator = torch.Generator().manual_seed(0)
    fitted_on, features = (
        torch.randn(40, 6, generator=generator),
        torch.randn(9, 6, generator=generator),
    )
    together, alone = (
        reduce_features(fitted_on, features[:count], 3)[0] for count in (len(features), 1)
    )
    torch.testing.assert_close(together, alone)


def in_plain_loops(features: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    """Standardise, then project on the largest eigenvectors of the covariance, then unit length."""
    count, width = features.shape
    standard = np.empty_like(features)
    for j in range(width):
        mean = sum(features[:, j]) / count
        variance = sum((x - mean) ** 2 for x in features[:, j]) / count
        for i in range(count):
            standard[i, j] = (features[i, j] - mean) / (variance**0.5 if variance else 1.0)
    covariance = np.zeros((width, width))
    for row in standard:
        for a in range(width):
            for b in range(width):
                covariance[a, b] += row[a] * row[b] / count
    vectors = np.linalg.eigh(covariance).eigenvectors[:, ::-1][:, :dim]
    reduced = np.empty((count, dim))
    for i in range(count):
        for k in range(dim):
            reduced[i, k] = sum(standard[i, j] * vectors[j, k] for j in range(width))
        reduced[i] /= sum(reduced[i] ** 2) ** 0.5
    return reduced


def stretched(count: int = 30, width: int = 7) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    features = torch.randn(count, width, generator=generator) @ torch.randn(width, width)
    features = features * torch.logspace(-2, 2, width) + 5
    features[:, 2] = 0.5  # a feature that never fires has no spread to divide by
    return features


def test_reduction_of_the_originals_equals_plain_loops() -> None:
    features = stretched()
    reduced = normalize(standardise_and_reduce(features, 4), dim=1)
    expected = torch.from_numpy(in_plain_loops(features.double().numpy(), 4)).float()
    # Components have no sign, so compare what all neighbours are found by.
    torch.testing.assert_close(reduced @ reduced.T, expected @ expected.T, atol=1e-5, rtol=0)


def test_ensemble_of_one_trunk_is_its_unit_features() -> None:
    unit = normalize(stretched(), dim=1)
    ensemble = torch.cat([unit] * 4, dim=1)  # the folds of the untrained row share one trunk
    one, four = (normalize(standardise_and_reduce(each, 4), dim=1) for each in (unit, ensemble))
    torch.testing.assert_close(one @ one.T, four @ four.T, atol=1e-5, rtol=0)


def test_reductions_differ_in_what_they_see() -> None:
    generator = torch.Generator().manual_seed(0)
    fitted_on, features = stretched(), stretched() + torch.randn(30, 7, generator=generator)
    labels = torch.arange(30) % 5
    found = {
        reduction: score_reduced(reduction, features, labels, (2, 4), CPU, fitted_on)
        for reduction in Reduction
    }
    assert found[Reduction.TRAINVAL][1] == retrieval_scores(
        reduce_features(fitted_on, features, 4), labels
    )
    assert found[Reduction.RAW][0] == retrieval_scores(standardise_and_reduce(features, 2), labels)
    assert found[Reduction.UNIT][1] == retrieval_scores(
        standardise_and_reduce(normalize(features, dim=1), 4), labels
    )
    assert len({scores[1].map_at_r for scores in found.values()}) == 3


def test_too_few_images_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    pixels = Pixels(plan.pixel_cache)
    protocol = smoke_protocol(embedding_dim=16)  # 4 folds: 64 dimensions, from 32 images
    with pytest.raises(UserError, match=r"PCA to 64 dimensions .* there are 32 images"):
        score_pretrained(protocol, "random", pixels, pixels, CPU)


def test_row_is_tested_once_without_training(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, row="pretrained", embedding_dim=4)
    record_plan(plan, trials=0)
    retrain = FinalPlan(
        place=plan.place,
        protocol=plan.protocol,
        parameters={},
        chosen=Chosen(),
        source=DataSource("folder", make_images(tmp_path), tmp_path / "work"),
        pixel_cache=plan.pixel_cache,
        runs=1,
    )
    with FinalRunsWork([retrain], lambda line: None) as source:
        work = source.next_work()
        assert work is not None
        assert work.payload["kind"] == "test"
        step = start_job(work.payload).step()
        source.on_ended(work, step)
        assert source.exhausted
    (final,), _ = read_finals(plan.place)
    (result,) = final.tested
    assert result.concatenated != result.separated
    assert 0 < result.concatenated["map_at_r"] <= 1
    assert set(result.reductions) == {"raw", "unit"}
    assert 0 < result.reductions["raw"]["separated"]["map_at_r"] <= 1
    assert len((plan.place.folder / "test_access.jsonl").read_text().splitlines()) == 1


def make_images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    return root if root.exists() else make_image_folder(root)


def test_row_heads_the_table_and_cannot_be_mined() -> None:
    assert TABLE_ROWS[0] == "pretrained"
    assert len(TABLE_ROWS) == 19
    assert not Row.parse("pretrained").is_trained
    assert Row.parse("contrastive").is_trained
