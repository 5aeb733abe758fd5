"""The trunk multiplies in the protocol's precision, everything else exactly."""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.support.tiny import make_config, make_pixels, smoke_protocol
from wpm.data.crops import resize_crops
from wpm.precision import float32_products
from wpm.training.loss_gradient import backward_to_outputs
from wpm.training.training import Training

aten = torch.ops.aten
DISTANCES = {
    aten._euclidean_dist.default,
    aten._cdist_forward.default,
    aten._cdist_backward.default,
}
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}
PRODUCTS = {aten.bmm.default, aten.mm.default, aten.addmm.default}


class PrecisionOf(TorchDispatchMode):
    """Notes the precision of every operation."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Any, set[str]] = defaultdict(set)

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.seen[operation].add(torch.backends.cuda.matmul.fp32_precision)
        return operation(*args, **(kwargs or {}))

    def of(self, operations: set[Any]) -> set[str]:
        return {precision for name in operations for precision in self.seen[name]}


@pytest.mark.parametrize("mode", ["plain", "fast", "low_memory"])
def test_loss_is_exact_where_the_trunk_multiplies_in_tf32(tmp_path: Path, mode: str) -> None:
    protocol = dataclasses.replace(smoke_protocol(iterations_per_epoch=1), precision="tf32")
    row = "contrastive" if mode == "plain" else "contrastive+wpm"
    config = dataclasses.replace(make_config(row, (0,)), protocol=protocol)
    training = Training(config, make_pixels(tmp_path), torch.device("cpu"))
    fold = training.folds[0]
    if mode == "low_memory":
        fold._step.mode = mode
    with float32_products("tf32"), PrecisionOf() as precision:
        fold.train_epoch(1)
    assert precision.of(DISTANCES) == {"ieee"}
    assert precision.of(CONVOLUTIONS) == {"tf32"}
    assert "tf32" in precision.of(PRODUCTS), "the embedder's"
    assert precision.seen[aten.convolution_backward.default], "the backward pass was seen"


def test_crops_are_exact_where_the_trunk_multiplies_in_tf32() -> None:
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    with float32_products("tf32"), PrecisionOf() as precision:
        resize_crops(images, torch.tensor([[0, 0, 8, 8]] * 2), 4, torch.tensor([False, True]))
    assert precision.of(PRODUCTS) == {"ieee"}


class Weighted(nn.Module):
    """A loss with a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(3.0))

    def forward(self, outputs: Tensor, classes: Tensor) -> Tensor:
        return self.weight * outputs[classes].square().sum()


def test_gradients_of_outputs_and_of_the_loss_by_hand() -> None:
    loss, outputs = Weighted(), torch.tensor([1.0, 2.0, 4.0], requires_grad=True)
    value, gradient = backward_to_outputs(loss, 2 * outputs, torch.tensor([0, 1]))
    assert float(value) == 3 * (4 + 16)
    assert not value.requires_grad
    assert gradient.tolist() == [12.0, 24.0, 0.0]
    assert loss.weight.grad is not None
    assert float(loss.weight.grad) == 20
    assert outputs.grad is None, "the model's own pass comes later"


def test_loss_that_reads_no_output_has_a_zero_gradient_there() -> None:
    loss = Weighted()
    loss.forward = lambda outputs, classes: loss.weight * 2  # type: ignore[method-assign]
    _, gradient = backward_to_outputs(loss, torch.ones(2), torch.tensor([0]))
    assert gradient.tolist() == [0.0, 0.0]
