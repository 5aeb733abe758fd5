"""The published protocol on miniature images: its optimiser steps, weights, and one run."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tests.support.tiny import CONTRASTIVE, MINED
from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.model.bninception import BNInception, load_bninception_weights
from wpm.model.embedding import build_model
from wpm.model.trunks import TRUNKS
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.rows import Row
from wpm.splits import class_disjoint_splits
from wpm.training.config import TrainingConfig
from wpm.training.fold import FoldTraining
from wpm.training.training import Training

CPU = torch.device("cpu")
MINI = {"resize": 40, "crop": 36, "classes_per_batch": 2, "images_per_class": 2}


def mini_mlrc(**changes: float) -> Protocol:
    return dataclasses.replace(find_protocol("mlrc", "cub200"), **{**MINI, **changes})  # type: ignore[arg-type]


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    """Write images like colour photographs, some of them greyscale, none square."""
    rng = np.random.default_rng(0)
    for label in range(16):
        folder = tmp_path / "images" / f"{label:03d}.bird"
        folder.mkdir(parents=True)
        for number in range(3):
            shape = (48, 60, 3) if number else (60, 48)
            Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(
                folder / f"{number}.jpg"
            )
    index = load_index(DataSource("folder", tmp_path / "images", tmp_path))
    splits = class_disjoint_splits(index.labels)
    return Pixels(build_pixel_cache(index.subset(splits.trainval_classes), 40, tmp_path))


def plain_contrastive(embeddings: Tensor, labels: Tensor) -> Tensor:
    """Mean of d over positive pairs plus mean of (1 - d) over negative pairs; zeros excluded."""
    unit = embeddings / embeddings.norm(dim=1, keepdim=True)
    distance = (unit[:, None] - unit[None]).pow(2).sum(dim=2).clamp(min=1e-30).sqrt()
    same = labels[:, None] == labels
    other = ~same
    same = same & ~torch.eye(len(labels), dtype=torch.bool)
    positive, negative = distance[same].relu(), (1 - distance[other]).relu()
    loss: Tensor = positive[positive > 0].mean() + negative[negative > 0].mean()
    return loss


def test_ten_optimiser_steps_equal_a_plain_loop(pixels: Pixels) -> None:
    rate, decay, momentum, smoothing, epsilon = 1e-6, 1e-4, 0.9, 0.99, 1e-8
    protocol = mini_mlrc(iterations_per_epoch=10, learning_rate=rate)
    config = TrainingConfig(Row("contrastive"), protocol, CONTRASTIVE, 0, (0,))
    training = Training(config, pixels, CPU)
    twin: FoldTraining = Training(config, pixels, CPU).folds[0]
    model = twin.model
    start = {name: p.detach().clone() for name, p in model.named_parameters()}
    frozen = {name: b.clone() for name, b in model.named_buffers()}
    model.eval()  # frozen batch norm
    squares = {name: torch.zeros_like(p) for name, p in start.items()}
    velocity = {name: torch.zeros_like(p) for name, p in start.items()}
    for _ in range(10):
        indices = twin.draw_batch()
        images, labels = twin._batches.training_batch(indices, twin._batch_generator)
        gradients = torch.autograd.grad(
            plain_contrastive(model(images), labels), list(model.parameters())
        )
        with torch.no_grad():
            for (name, p), raw in zip(model.named_parameters(), gradients, strict=True):
                gradient: Tensor = raw + decay * p
                squares[name].mul_(smoothing).add_((1 - smoothing) * gradient**2)
                velocity[name].mul_(momentum).add_(gradient / (squares[name].sqrt() + epsilon))
                p.sub_(rate * velocity[name])
    training.folds[0].train_epoch(1)
    theirs = dict(model.named_parameters())
    off = moved = torch.zeros(())
    for name, p in training.folds[0].model.named_parameters():
        off = off + (p.detach() - theirs[name].detach()).pow(2).sum()
        moved = moved + (p.detach() - start[name]).pow(2).sum()
    # Relative to the way all weights went together: RMSprop divides by |gradient|, so that single
    # weights whose gradient is all rounding go their own way in float32.
    assert off.sqrt() < 1e-2 * moved.sqrt()
    assert moved > 0
    for name, buffer in training.folds[0].model.named_buffers():
        assert torch.equal(buffer, frozen[name]), f"{name} moved: batch norm is not frozen"


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm"])
def test_a_run_of_bninception_trains_and_validates(pixels: Pixels, row: str) -> None:
    protocol = mini_mlrc(
        iterations_per_epoch=1, max_epochs=2, trunk_passes=2, embedding_masks=2, folds=4
    )
    parameters = {**CONTRASTIVE, **(MINED if row.endswith("+wpm") else {})}
    config = TrainingConfig(Row.parse(row), protocol, parameters, 0, (0, 3))
    training = Training(config, pixels, CPU)
    assert training.run_epoch() is None, "CUB is validated every other epoch"
    report = training.run_epoch()
    assert report is not None
    assert 0 < report.best_map_at_r <= 1
    assert training.finished


def test_trunk_takes_three_channels_of_bgr_minus_mean(pixels: Pixels) -> None:
    protocol = mini_mlrc()
    fold = Training(TrainingConfig(Row("triplet"), protocol, {"margin": 0.1}, 0, (0,)), pixels, CPU)
    batches = fold.folds[0]._batches
    batch, _ = batches.evaluation_batch(torch.tensor([1]))
    raw = pixels.image(1).permute(2, 0, 1)
    top, left = (raw.shape[1] - 36 + 1) // 2, (raw.shape[2] - 36 + 1) // 2
    crop = raw[:, top : top + 36, left : left + 36].float()
    expected = crop.flip(0) - torch.tensor([104.0, 117.0, 128.0])[:, None, None]
    assert (batch[0] - expected).abs().max() <= 1e-3


def test_weights_file_is_loaded_into_the_trunk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = BNInception()
    torch.save(saved.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UserError, match="SHA-256"):
        build_model(mini_mlrc(), 3, 0, str(tmp_path / "weights.pth"))

    def load(trunk: BNInception, path: Path) -> None:
        load_bninception_weights(trunk, path, expected_sha256_prefix=None)

    monkeypatch.setattr(TRUNKS["bninception"], "load_weights", load)
    built = build_model(mini_mlrc(), 3, 0, str(tmp_path / "weights.pth"))
    for name, value in built.trunk.state_dict().items():
        assert torch.equal(value, saved.state_dict()[name])
