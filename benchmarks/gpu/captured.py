"""A prototype of steps captured as CUDA graphs: contrastive, with and without mining.

A graph replays kernels of fixed shapes without asking the CPU, so the loss may not look for pairs
by `nonzero`, nor ask the GPU how many there are. The labels of a batch follow one pattern, so masks
of all pairs do as well.
"""

from collections.abc import Callable

import torch
from pytorch_metric_learning.distances import LpDistance
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks
from wpm.training.loss_gradient import backward_to_outputs
from wpm.within_pair import WithinPairLoss

_WARM_UP = 3  # steps, in which cuDNN and the allocator settle; torch's advice


class FixedShapeContrastive(nn.Module):
    """pytorch-metric-learning's ContrastiveLoss without a shape that depends on the data.

    Losses of pairs are averaged over those above zero, of positive and of negative pairs apart, as
    the library's default reducer does. `WithinPairLoss` takes it as its base loss.
    """

    def __init__(self, pos_margin: float, neg_margin: float) -> None:
        """Set the margins.

        Args:
            pos_margin: distance below which a positive pair costs nothing.
            neg_margin: distance above which a negative pair costs nothing.
        """
        super().__init__()
        self.distance = LpDistance()
        self._margins = pos_margin, neg_margin

    def forward(self, embeddings: Tensor, labels: Tensor, pairs: None = None) -> Tensor:
        """Return the loss of (B, D) embeddings with (B,) labels, over all pairs."""
        distances = self.distance(embeddings)
        same = labels[:, None] == labels
        apart = ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
        positive = torch.relu(distances - self._margins[0]) * (same & apart)
        negative = torch.relu(self._margins[1] - distances) * ~same
        return _mean_above_zero(positive) + _mean_above_zero(negative)


def _mean_above_zero(losses: Tensor) -> Tensor:
    return losses.sum() / (losses > 0).sum().clamp(min=1)


def make_losses(pos_margin: float, neg_margin: float, sharpness: float) -> dict[str, nn.Module]:
    """Return the loss of plain steps, and that of mined ones."""
    return {
        "plain": FixedShapeContrastive(pos_margin, neg_margin),
        "mined": WithinPairLoss(FixedShapeContrastive(pos_margin, neg_margin), sharpness=sharpness),
    }


def make_capturable_optimizer(model: nn.Module, lr: float) -> Optimizer:
    """Return the published protocol's optimiser, with step counters on the GPU."""
    parameters = list(model.parameters())
    return RMSprop(parameters, lr=lr, weight_decay=1e-4, momentum=0.9, capturable=True)


def make_backward(
    model: EmbeddingModel, loss: nn.Module, images: Tensor, classes: Tensor, masks: ViewMasks | None
) -> Callable[[], Tensor]:
    """Return a function that computes all gradients anew, over inputs that stay where they are.

    Args:
        model: trunk and embedder.
        loss: one of `make_losses`.
        images: (B, C, H, W) float.
        classes: (B,) class numbers.
        masks: of a mined step, None for a plain one.
    """

    def backward() -> Tensor:
        outputs = model(images) if masks is None else model.make_views(images, masks)
        value, gradient = backward_to_outputs(loss, outputs, classes)
        outputs.backward(gradient)
        return value

    return backward


class CapturedStep:
    """Backward pass and optimiser step, captured once and replayed at every call.

    The gradients are those of the last replay, in tensors that belong to the graph.
    """

    def __init__(
        self, model: nn.Module, backward: Callable[[], Tensor], optimizer: Optimizer | None
    ) -> None:
        """Take a few real steps on a stream beside, then capture one without running it.

        Args:
            model: whose gradients `backward` computes.
            backward: asks the GPU nothing, and has no shape that depends on data.
            optimizer: capturable; None to capture the backward pass alone.
        """

        def step() -> Tensor:
            loss = backward()
            if optimizer is not None:
                optimizer.step()
            return loss

        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(_WARM_UP):
                model.zero_grad(set_to_none=True)
                step()
        torch.cuda.current_stream().wait_stream(beside)
        model.zero_grad(set_to_none=True)  # so that the graph owns the gradients it writes
        self._graph = torch.cuda.CUDAGraph()
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # its copies of weights would not be refreshed
        try:
            # Page-locked memory that another thread allocates must not break the capture.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._loss = step()
        finally:
            torch.set_autocast_cache_enabled(cached)

    def __call__(self) -> Tensor:
        """Replay the step; the loss is a tensor of the graph, overwritten by the next call."""
        self._graph.replay()
        return self._loss
