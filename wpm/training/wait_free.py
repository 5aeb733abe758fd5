"""Rewrite losses so that a step never makes the CPU wait for the GPU, nor changes its shapes.

pytorch-metric-learning asks the GPU for numbers in every step: which pairs there are (`nonzero`),
which losses are above zero (a boolean index), whether a divisor is zero. Each question empties the
GPU's queue, and a CUDA graph cannot hold it. But the pairs of a batch follow from its labels, which
the CPU has drawn, and the other questions have answers of fixed shape. The rewritten loss has equal
values and gradients.

docs/performance.md says which rows are rewritten. The others keep the library's form.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from pytorch_metric_learning.losses import (
    BaseMetricLossFunction,
    ContrastiveLoss,
    GenericPairLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    SignalToNoiseRatioContrastiveLoss,
    TripletMarginLoss,
)
from pytorch_metric_learning.reducers import DivisorReducer, ThresholdReducer
from pytorch_metric_learning.utils.loss_and_miner_utils import (
    get_all_pairs_indices,
    get_all_triplets_indices,
)
from torch import Tensor, nn

from wpm.data.crops import to_device
from wpm.losses import PlainLoss, PublishedNTXentLoss, PublishedSoftTripleLoss
from wpm.within_pair import WithinPairLoss

_KNOWN_PACKAGES = {"pytorch_metric_learning", "torch", "wpm"}
_REPLAYABLE = (
    ContrastiveLoss,
    LiftedStructureLoss,
    MarginLoss,
    MultiSimilarityLoss,
    NormalizedSoftmaxLoss,
    PublishedNTXentLoss,
    PublishedSoftTripleLoss,
    SignalToNoiseRatioContrastiveLoss,
    TripletMarginLoss,
)
_PATTERNS = 32  # batches with a class twice have many patterns, of which few come again


class BatchPairs(nn.Module):
    """Lists the pairs or triplets of a batch, in the place of a threshold miner.

    Labels come to a loss on the GPU. Here they come from the CPU, before the step.
    """

    def __init__(self, loss: BaseMetricLossFunction) -> None:
        """List what a loss takes.

        Args:
            loss: one that `takes_lists`.
        """
        super().__init__()
        self.distance = None  # miners have one, which within-pair mining replaces for a while
        is_triplets = isinstance(loss, TripletMarginLoss | MarginLoss)
        self._list = get_all_triplets_indices if is_triplets else get_all_pairs_indices
        self._known: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self._lists: tuple[Tensor, ...] = ()

    def set_labels(self, labels: Tensor, device: torch.device) -> None:
        """List the pairs of the next batch.

        Args:
            labels: (B,) on the CPU.
            device: of the embeddings.
        """
        # Pairs follow from which labels are equal, so most batches share their lists.
        pattern = labels.unique(return_inverse=True)[1]
        first = (pattern[:, None] == pattern).int().argmax(dim=1)
        key = first.numpy().tobytes()
        if key not in self._known:
            self._known[key] = tuple(to_device(index, device) for index in self._list(labels))
            if len(self._known) > _PATTERNS:
                self._known.popitem(last=False)
        self._known.move_to_end(key)
        self._lists = self._known[key]

    def forward(self, embeddings: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        """Return the lists of this batch, as pytorch-metric-learning's miners do."""
        return self._lists


def is_replayable(loss: nn.Module) -> bool:
    """Whether a loss computes by kernels alone, so that a captured step may stand for it.

    A replay runs no Python: a loss of the user's own that counts its steps would stand still.
    So only classes are captured whose code is known.

    Args:
        loss: from `wpm.losses.build_loss`.
    """
    assert isinstance(loss, PlainLoss | WithinPairLoss)
    packages = {type(module).__module__.partition(".")[0] for module in loss.modules()}
    return type(loss.base_loss) in _REPLAYABLE and packages <= _KNOWN_PACKAGES


def takes_lists(loss: nn.Module) -> bool:
    """Whether a loss reads all pairs, or all triplets, from lists that it may be given."""
    if isinstance(loss, TripletMarginLoss | MarginLoss):
        return bool(loss.triplets_per_anchor == "all")
    return isinstance(loss, GenericPairLoss)


def remove_waits(loss: nn.Module) -> BatchPairs | None:
    """Rewrite a row's loss in place.

    Args:
        loss: from `wpm.losses.build_loss`.

    Returns:
        What has to know the labels of a batch before its step; None where the loss keeps the
        library's form. That is the case for losses with a threshold miner, whose pairs depend on
        the embeddings, and for losses that take no lists of pairs.
    """
    assert isinstance(loss, PlainLoss | WithinPairLoss)
    base_loss = loss.base_loss
    if loss.threshold_miner is not None or not takes_lists(base_loss):
        return None
    _replace_reducers(base_loss)
    if isinstance(base_loss, GenericPairLoss) and base_loss.loss_method == base_loss.mat_based_loss:
        base_loss.loss_method = partial(_masked_loss, base_loss)
    pairs = BatchPairs(base_loss)
    loss.threshold_miner = pairs
    return pairs


def _masked_loss(loss: GenericPairLoss, mat: Tensor, pairs: tuple[Tensor, ...]) -> Any:
    """Do what the library's `mat_based_loss` does, which copies a number from the CPU."""
    first, positive, second, negative = pairs
    one, none = torch.ones_like(mat[0, 0]), torch.zeros_like(mat)
    positives = none.index_put((first, positive), one)
    negatives = none.index_put((second, negative), one)
    return loss._compute_loss(mat, positives, negatives)


def _replace_reducers(module: nn.Module) -> None:
    for name, child in list(module.named_children()):
        if type(child) is DivisorReducer:
            setattr(module, name, _WaitFreeDivisor())
        elif isinstance(child, ThresholdReducer) and child.low is not None and child.high is None:
            setattr(module, name, _WaitFreeThreshold(low=child.low))
        else:
            _replace_reducers(child)


class _WaitFreeThreshold(ThresholdReducer):
    """Mean of the losses above a threshold, by a sum and a count; zero where there is none."""

    def element_reduction_helper(self, losses: Tensor, embeddings: Tensor) -> Tensor:
        above = losses > self.low
        # `where` and not a product: a loss that is left out may be infinite.
        kept = torch.where(above, losses, torch.zeros_like(losses))
        mean: Tensor = kept.sum() / above.sum().clamp(min=1)
        return mean


class _WaitFreeDivisor(DivisorReducer):
    """Sum of the losses over a number; zero where the number is."""

    def sum_and_divide(self, losses: Tensor, embeddings: Tensor, divisor: Tensor) -> Tensor:
        total, nothing = losses.sum(), divisor == 0
        divided = total / torch.where(nothing, torch.ones_like(divisor), divisor)
        return torch.where(nothing, torch.zeros_like(divided), divided)
