"""Mined steps: every mode gives the gradient of separate passes and a loop over views."""

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks.within_pair_step import LiveBytes, backward_baseline, calibrate_batch_norm
from tests.support.tiny import make_config, make_pixels, smoke_protocol
from wpm.losses import build_loss
from wpm.model.convnet import ConvNet
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.views import ViewMasks, ViewSettings
from wpm.reports import FAST, LOW_MEMORY, PLAIN
from wpm.rows import Row
from wpm.training.mined_step import (
    MinedStep,
)
from wpm.training.training import Training

CPU = torch.device("cpu")
MINED = {"embedding_dropout": 0.1, "channel_dropout": 0.2, "sharpness": 32.0}
# Margins such that, at random weights, some pairs and triplets count and some do not.
ROWS: dict[str, dict[str, float]] = {
    "contrastive": {"pos_margin": 0.8, "neg_margin": 0.45},
    "triplet": {"margin": -0.4},
    "margin": {"margin": -0.15, "beta": 0.6, "metric_loss_lr": 1e-3},
    "multi_similarity": {"alpha": 2.0, "beta": 40.0, "base": 0.5},
}
LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
# From model, loss, images and masks to the value of the loss; leaves gradients.
Backward = Callable[[EmbeddingModel, nn.Module, Tensor, ViewMasks], Tensor]


class OfViews(nn.Module):
    """A loss that is any function of the views."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, views: Tensor, classes: Tensor) -> Tensor:
        return self._function(views)


def make_step(model: EmbeddingModel, loss: nn.Module) -> MinedStep:
    views = ViewSettings(1, 1, 0.0, 0.0)  # not used: the tests draw the masks themselves
    return MinedStep(model, loss, views, torch.Generator())


def fast(model: EmbeddingModel, loss: nn.Module, images: Tensor, masks: ViewMasks) -> Tensor:
    return make_step(model, loss).backward_fast(images, LABELS, masks)


def low_memory(model: EmbeddingModel, loss: nn.Module, images: Tensor, masks: ViewMasks) -> Tensor:
    return make_step(model, loss).backward_low_memory(images, LABELS, masks)


def baseline(model: EmbeddingModel, loss: nn.Module, images: Tensor, masks: ViewMasks) -> Tensor:
    return backward_baseline(model, images, masks, lambda views: loss(views, LABELS))


def make_batch(
    trunk: str, side: int, dtype: torch.dtype, passes: int = 3
) -> tuple[EmbeddingModel, Tensor, ViewMasks]:
    protocol = dataclasses.replace(smoke_protocol(), trunk=trunk)
    model = build_model(protocol, 3, seed=1).to(dtype).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(LABELS), 3, side, side, generator=generator, dtype=dtype)
    calibrate_batch_norm(model, images)
    masks = model.sample_masks(images, ViewSettings(passes, 2, 0.2, 0.1), generator)
    return model, images, masks


def gradients_of(
    backward: Backward, row: str, model: EmbeddingModel, images: Tensor, masks: ViewMasks
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss, and the gradients of trunk, embedder and the loss's own parameters."""
    model = copy.deepcopy(model)
    parameters = {**ROWS[row], **MINED}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dim = model.embedder.out_features
        loss = build_loss(Row(row, "wpm"), parameters, num_classes=3, embedding_dim=dim)
    loss = loss.to(images.dtype)
    value = backward(model, loss, images, masks)
    every = [*model.parameters(), *loss.parameters()]
    return value, [torch.zeros_like(p) if p.grad is None else p.grad for p in every]


def check(backward: Backward, row: str, batch: tuple, tolerance: float) -> None:  # type: ignore[type-arg]
    expected, reference = gradients_of(baseline, row, *batch)
    value, gradients = gradients_of(backward, row, *batch)
    torch.testing.assert_close(value, expected, rtol=tolerance, atol=0)
    for gradient, right in zip(gradients, reference, strict=True):
        assert float(right.norm()) > 0, "a parameter that nothing is proved about"
        assert float((gradient - right).norm()) <= tolerance * float(right.norm())


both = pytest.mark.parametrize("backward", [fast, low_memory])


@both
@pytest.mark.parametrize("row", ROWS)
def test_gradient_is_the_baselines_in_float64(row: str, backward: Backward) -> None:
    check(backward, row, make_batch("convnet", 16, torch.float64), tolerance=1e-10)


@both
@pytest.mark.parametrize("row", ROWS)
def test_gradient_is_the_baselines_on_bninception(row: str, backward: Backward) -> None:
    check(backward, row, make_batch("bninception", 64, torch.float32, passes=2), tolerance=1e-3)


@pytest.mark.parametrize(("passes", "groups"), [(1, [6, 6, 6]), (2, [12, 6]), (3, [18])])
def test_passes_in_groups_have_the_same_gradient(
    passes: int, groups: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images, masks = make_batch("convnet", 16, torch.float64)
    monkeypatch.setattr(
        "wpm.model.embedding._CPU_ELEMENTS", passes * model.run_stem(images).numel()
    )
    sizes: list[int] = []
    body = ConvNet.body

    def count(trunk: ConvNet, features: Tensor) -> Tensor:
        sizes.append(len(features))
        return body(trunk, features)

    with monkeypatch.context() as counted:
        counted.setattr(ConvNet, "body", count)
        gradients_of(fast, "contrastive", model, images, masks)
    assert sizes == groups
    check(fast, "contrastive", (model, images, masks), tolerance=1e-10)


def test_images_without_a_gradient_change_nothing() -> None:
    model, images, masks = make_batch("convnet", 16, torch.float64)
    used = torch.zeros(3, 1, len(LABELS), 1, dtype=torch.float64)
    used[0], used[2, 0, 1:3] = 1, 1  # all of pass 0, pass 1 not at all, two images of pass 2
    loss = OfViews(lambda views: (views.view(3, 2, len(LABELS), -1) * used).pow(2).sum())
    low_memory(model, loss, images, masks)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    fast(model, loss, images, masks)
    for low, parameter in zip(gradients, model.parameters(), strict=True):
        torch.testing.assert_close(low, parameter.grad)


def test_batch_without_gradient_leaves_zeros_in_both() -> None:
    model, images, masks = make_batch("convnet", 16, torch.float64)
    for backward in (fast, low_memory):
        backward(model, OfViews(lambda views: 0 * views.sum()), images, masks)
        assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("trunk", ["torchvision:mobilenet_v2", "torchvision:efficientnet_b0"])
def test_trunk_with_dropout_of_its_own_runs_again_as_before(trunk: str) -> None:
    check(low_memory, "contrastive", make_batch(trunk, 64, torch.float64), 1e-5)


@pytest.mark.slow
def test_low_memory_holds_little_more_than_a_plain_step() -> None:
    model, images, masks = make_batch("bninception", 96, torch.float32, passes=8)
    peaks = {}
    for backward in (fast, low_memory):
        model.zero_grad()
        with LiveBytes() as fast_or_low:
            backward(model, OfViews(lambda views: views.pow(2).sum()), images, masks)
        peaks[backward] = fast_or_low.peak
    model.zero_grad()
    with LiveBytes() as plain:
        model(images).pow(2).sum().backward()
    # The sums over the passes before are held beside a pass: at this size as large as the pass.
    gradients = sum(p.grad.nbytes for p in model.parameters() if p.grad is not None)
    assert peaks[low_memory] <= 1.25 * plain.peak + gradients
    assert peaks[fast] > 3 * plain.peak


# In training


def out_of_memory(*args: object) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory")


def no_engine(*args: object) -> Tensor:
    raise RuntimeError("GET was unable to find an engine to execute this computation")


def illegal_access(*args: object) -> Tensor:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def train(tmp_path: Path, epochs: int = 2, row: str = "contrastive+wpm") -> Training:
    training = Training(make_config(row, (0,)), make_pixels(tmp_path), CPU)
    for _ in range(epochs):
        training.run_epoch()
    return training


@pytest.mark.parametrize("failure", [out_of_memory, no_engine])
def test_step_that_does_not_fit_is_taken_again_in_low_memory(
    failure: Callable[..., Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitting = train(tmp_path).folds[0]
    assert fitting.step_mode == FAST
    with monkeypatch.context() as patch:
        patch.setattr(MinedStep, "backward_fast", failure)
        tight = train(tmp_path).folds[0]
    assert tight.step_mode == LOW_MEMORY
    assert fitting.report is not None
    assert tight.report is not None
    assert tight.report.step_mode == LOW_MEMORY
    assert tight.report.loss == pytest.approx(fitting.report.loss, rel=1e-4)
    for name, value in tight.model.state_dict().items():
        torch.testing.assert_close(value, fitting.model.state_dict()[name], rtol=1e-2, atol=1e-4)


def test_other_errors_of_a_gpu_are_not_taken_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MinedStep, "backward_fast", illegal_access)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        train(tmp_path)


def test_gradients_of_a_failed_attempt_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_halfway(step: MinedStep, *args: object) -> Tensor:
        for parameter in step.model.parameters():
            parameter.grad = torch.full_like(parameter, 1e6)
        return out_of_memory()

    right = train(tmp_path, epochs=1).folds[0]
    monkeypatch.setattr(MinedStep, "backward_fast", fail_halfway)
    wrong = train(tmp_path, epochs=1).folds[0]
    for name, value in wrong.model.state_dict().items():
        torch.testing.assert_close(value, right.model.state_dict()[name], rtol=1e-2, atol=1e-4)


def test_resumed_training_keeps_its_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(MinedStep, "backward_fast", out_of_memory)
        state = train(tmp_path, epochs=1).state_dict()
    resumed = train(tmp_path, epochs=0)
    resumed.load_state_dict(state)
    assert resumed.folds[0].step_mode == LOW_MEMORY


def test_row_without_mining_takes_plain_steps(tmp_path: Path) -> None:
    report = train(tmp_path, epochs=1, row="contrastive").folds[0].report
    assert report is not None
    assert report.step_mode == PLAIN


def test_plain_step_out_of_memory_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = train(tmp_path, epochs=0, row="contrastive")
    monkeypatch.setattr(training.folds[0].model.trunk, "body", out_of_memory)
    with pytest.raises(torch.OutOfMemoryError):
        training.run_epoch()
