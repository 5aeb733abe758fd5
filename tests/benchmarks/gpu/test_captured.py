"""The loss of captured steps: the library's values, and no shape that depends on the data."""

import gc
import weakref
from collections.abc import Callable
from functools import partial

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from benchmarks.gpu import captured
from benchmarks.gpu.captured import CapturedStep, make_losses
from wpm.within_pair import WithinPairLoss

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
VIEWS, DIM, SHARPNESS = 5, 6, 8.0
# Some pairs cost something, all do, none does, and positive ones alone do not.
MARGINS = [(0.6, 0.9), (0.0, 3.0), (3.0, 0.0), (3.0, 0.9)]


def library_loss(kind: str, margins: tuple[float, float]) -> nn.Module:
    loss = ContrastiveLoss(pos_margin=margins[0], neg_margin=margins[1])
    return loss if kind == "plain" else WithinPairLoss(loss, sharpness=SHARPNESS)


def outputs_of(kind: str) -> Tensor:
    shape = (len(LABELS), DIM) if kind == "plain" else (VIEWS, len(LABELS), DIM)
    generator = torch.Generator().manual_seed(0)
    return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("margins", MARGINS)
@pytest.mark.parametrize("kind", ["plain", "mined"])
def test_loss_and_gradient_are_the_librarys(kind: str, margins: tuple[float, float]) -> None:
    values, gradients = [], []
    for loss in (make_losses(*margins, SHARPNESS, LABELS)[kind], library_loss(kind, margins)):
        outputs = outputs_of(kind)
        value = loss(outputs, LABELS)
        value.backward()
        assert outputs.grad is not None
        values.append(value.detach())
        gradients.append(outputs.grad)
    torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-10, atol=1e-12)
    assert bool(gradients[0].any()) == (margins != (3.0, 0.0))


@pytest.mark.parametrize("kind", ["plain", "mined"])
def test_forward_and_backward_need_no_value_of_a_tensor(kind: str) -> None:
    """What fake tensors can run, a graph can capture: they have shapes, and no values."""
    losses = make_losses(0.6, 0.9, SHARPNESS, LABELS)[kind], library_loss(kind, (0.6, 0.9))
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        outputs = mode.from_tensor(outputs_of(kind).detach()).requires_grad_()
        labels = mode.from_tensor(LABELS)
        losses[0](outputs, labels).backward()
        assert outputs.grad is not None
        with pytest.raises(DynamicOutputShapeException):
            losses[1](outputs, labels)


def test_captured_step_keeps_what_its_graph_points_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A graph replays on addresses; memory that was given back there ended the process."""

    class Recorder:
        def warm_up(self, step: Callable[[], None]) -> None:
            step()

        def capture(self, step: Callable[[], None]) -> Callable[[], None]:
            return lambda: None

    monkeypatch.setattr(captured, "CudaGraphs", Recorder)
    model = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    weight = weakref.ref(model.weight)
    step = CapturedStep(model, partial(_backward, model), optimizer)
    del model, optimizer
    gc.collect()
    assert weight() is not None
    del step
    gc.collect()
    assert weight() is None


def _backward(model: nn.Module) -> None:
    model(torch.ones(1, 2)).sum().backward()
