"""The row without training: what PCA is fitted on, and what comes out of it."""

from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from tests.support.tiny import make_image_folder, make_plan, smoke_protocol
from wpm.data.index import DataSource
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.jobs.pretrained import reduce_features, score_pretrained
from wpm.jobs.start import start_job
from wpm.records import Chosen, read_finals
from wpm.rows import TABLE_ROWS, Row
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import record_plan

CPU = torch.device("cpu")


def test_pca_keeps_distances_from_the_mean_of_what_it_was_fitted_on() -> None:
    generator = torch.Generator().manual_seed(0)
    fitted_on = torch.randn(40, 6, generator=generator) * torch.arange(1, 7) + 5
    features = torch.randn(9, 6, generator=generator) + 5
    reduced = reduce_features(fitted_on, features, 6)
    expected = normalize(features - fitted_on.mean(dim=0), dim=1)
    torch.testing.assert_close(torch.cdist(reduced, reduced), torch.cdist(expected, expected))


def test_pca_keeps_the_directions_of_most_variance() -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.tensor([0.01, 3.0, 0.01, 2.0])
    fitted_on = torch.randn(400, 4, generator=generator) * scale
    features = torch.randn(9, 4, generator=generator)
    reduced = reduce_features(fitted_on, features, 2)
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
    assert len((plan.place.folder / "test_access.jsonl").read_text().splitlines()) == 1


def make_images(tmp_path: Path) -> Path:
    root = tmp_path / "images"
    return root if root.exists() else make_image_folder(root)


def test_row_heads_the_table_and_cannot_be_mined() -> None:
    assert TABLE_ROWS[0] == "pretrained"
    assert len(TABLE_ROWS) == 19
    assert not Row.parse("pretrained").is_trained
    assert Row.parse("contrastive").is_trained
