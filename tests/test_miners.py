"""Miners: a second one is one entry and one file, from the row's name to a step of training."""

import shutil
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from tests.support.tiny import make_pixels, smoke_protocol
from wpm.errors import UserError
from wpm.losses import build_loss
from wpm.miners import MINERS, Miner, Parameters, find_miner, read_dropouts
from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks, ViewSettings
from wpm.reports import FAST
from wpm.rows import Row
from wpm.spaces import SPACES_FOLDER, known_losses, load_space, load_spaces
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

PARAMETERS = {"channel_dropout": 0.25, "embedding_dropout": 0.25}
MEAN_TOML = """
[search.embedding_dropout]
low = 0.1
high = 0.5
[fixed]
channel_dropout = 0.25
[[published]]
parameters = { embedding_dropout = 0.2 }
"""


class MeanOfViews(nn.Module):
    """The plain loss of the mean embedding: no view is harder than another."""

    def __init__(self, base_loss: BaseMetricLossFunction) -> None:
        super().__init__()
        self.base_loss = base_loss

    def forward(self, views: Tensor, labels: Tensor) -> Tensor:
        loss: Tensor = self.base_loss(views.mean(dim=0), labels)
        return loss


def average(
    base_loss: BaseMetricLossFunction, threshold_miner: BaseMiner | None, parameters: Parameters
) -> nn.Module:
    return MeanOfViews(base_loss)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Register a second miner: one entry, and one file beside those that ship."""
    miner = Miner(tuple(PARAMETERS), average, view_dropouts=read_dropouts)
    monkeypatch.setitem(MINERS, "mean", miner)
    shutil.copytree(SPACES_FOLDER, tmp_path / "spaces")
    (tmp_path / "spaces" / "mean.toml").write_text(MEAN_TOML, encoding="utf-8")
    return tmp_path / "spaces"


def test_second_miner_has_rows_and_spaces_beside_the_first(folder: Path) -> None:
    plain, first, second = load_spaces(
        [Row("contrastive"), Row("contrastive", "wpm"), Row.parse("contrastive+mean")], folder
    )
    assert "mean" not in known_losses(folder)
    assert str(second.row) == "contrastive+mean"
    assert second.row.twin == plain.row == first.row.twin
    assert second.searched.keys() - plain.searched.keys() == {"embedding_dropout"}
    assert second.fixed == {"channel_dropout": 0.25}
    assert second.thresholds == {"embedding_dropout": 0.2}
    # Nobody published this row: the point of the loss alone, not that of the other miner.
    assert second.find_published("cub200") == plain.find_published("cub200")
    assert first.find_published("cub200") != plain.find_published("cub200")


def test_refusals_name_the_second_miner_too(folder: Path) -> None:
    with pytest.raises(UserError, match=r"contrastive\[\+wpm\|\+mean\], cosface,"):
        load_space(Row("nonsense"), folder)
    with pytest.raises(UserError, match=r"row cosface\+mean: there is no pair to mine within"):
        load_space(Row("cosface", "mean"), folder)
    with pytest.raises(UserError, match=r"unknown miner 'median'; choose from wpm, mean"):
        load_space(Row("contrastive", "median"), folder)


def test_file_of_a_miner_sets_exactly_its_parameters(folder: Path) -> None:
    (folder / "mean.toml").write_text("[fixed]\nsharpness = 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"mean\.toml sets sharpness; it must set exactly channel"):
        load_space(Row("contrastive", "mean"), folder)


def test_loss_of_the_second_miner_is_built_by_its_entry(folder: Path) -> None:
    row = Row("contrastive", "mean")
    parameters = load_space(row, folder).lowest()
    mined = build_loss(row, parameters, num_classes=2, embedding_dim=3)
    plain = build_loss(Row("contrastive"), parameters, num_classes=2, embedding_dim=3)
    views = torch.randn(5, 4, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(mined(views, labels), plain(views.mean(dim=0), labels))


def test_second_miner_trains_on_its_views(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[ViewSettings] = []
    sample_masks = EmbeddingModel.sample_masks

    def record(
        model: EmbeddingModel, images: Tensor, views: ViewSettings, generator: torch.Generator
    ) -> ViewMasks:
        asked.append(views)
        return sample_masks(model, images, views, generator)

    monkeypatch.setattr(EmbeddingModel, "sample_masks", record)
    row = Row.parse("contrastive+mean")
    config = TrainingConfig(row, smoke_protocol(), load_space(row, folder).lowest(), 0, (0,))
    training = Training(config, make_pixels(tmp_path), torch.device("cpu"))
    before = [weight.detach().clone() for weight in training.folds[0].model.parameters()]
    report = training.run_epoch()
    assert report is not None
    assert report.folds[0].step_mode == FAST
    after = list(training.folds[0].model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert [(v.channel_dropout, v.embedding_dropout) for v in asked] == [(0.25, 0.1)] * 4


def test_row_without_a_miner_has_none() -> None:
    assert find_miner(Row("contrastive")) is None
    assert find_miner(Row("contrastive", "wpm")) is MINERS["wpm"]
