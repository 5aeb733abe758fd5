"""The losses: a row of the results table and its parameters become a module to train with.

A row is a loss, alone or behind a miner (`wpm.miners`). Alone, the loss gets (B, D) embeddings and
measures pairs itself; behind a miner it gets (V, B, D) views and reads mined pairs.

You come here from `wpm.model.embedding`, where views come from. Read next: `wpm.training.fold`,
where model and loss are trained.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from pytorch_metric_learning.regularizers import BaseRegularizer, ZeroMeanRegularizer
from torch import Tensor, nn

from wpm.errors import UserError
from wpm.miners import Parameters, find_miner
from wpm.rows import Row

_ROOT_FLOOR = 1e-5  # added under the root of SoftTriple's distances, as in its authors' code
_PROBABILITY_FLOOR = 1e-20  # added to NT-Xent's probabilities
_COSINE_MARGIN = 1e-7  # ArcFace's cosines stay this far from -1 and 1


class PlainLoss(nn.Module):
    """A loss without within-pair mining; a threshold miner, if any, picks pairs in front of it."""

    def __init__(
        self, base_loss: BaseMetricLossFunction, threshold_miner: BaseMiner | None = None
    ) -> None:
        super().__init__()
        self.base_loss = base_loss
        self.threshold_miner = threshold_miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of (B, D) embeddings with (B,) labels."""
        pairs = self.threshold_miner(embeddings, labels) if self.threshold_miner else None
        loss: Tensor = self.base_loss(embeddings, labels, pairs)
        return loss


class UnitZeroMeanRegularizer(ZeroMeanRegularizer):
    """Mean of |sum of the dimensions| over unit-norm embeddings, as published settings weigh it.

    The library's regulariser sees embeddings before they are normalised. The version with which
    the published settings were searched saw them afterwards, as the distances of the loss do.
    """

    def compute_loss(self, embeddings: Tensor) -> dict[str, Any]:
        """Compute the loss of each of (B, D) embeddings, in the library's form."""
        loss: dict[str, Any] = super().compute_loss(F.normalize(embeddings, dim=1))
        return loss


class PublishedNTXentLoss(losses.NTXentLoss):
    """NT-Xent as it was when the published temperatures were searched: -log(p + 1e-20).

    The library now adds the smallest normal number, 1.2e-38 in float32. The floor bounds loss and
    gradient of a pair whose probability p is tiny, so it matters at temperatures below 0.0025.

    References:
        pytorch-metric-learning 0.9.88, losses/ntxent_loss.py.
    """

    def _compute_loss(
        self, pos_pairs: Tensor, neg_pairs: Tensor, indices_tuple: tuple[Tensor, ...]
    ) -> dict[str, Any]:
        result: dict[str, Any] = super()._compute_loss(pos_pairs, neg_pairs, indices_tuple)
        found = result["loss"]
        if torch.is_tensor(found["losses"]):  # else there is no pair, and the loss is the number 0
            found["losses"] = -torch.log(torch.exp(-found["losses"]) + _PROBABILITY_FLOOR)
        return result


class PublishedArcFaceLoss(losses.ArcFaceLoss):
    """ArcFace as it was when the published settings were searched: cos(angle + margin) throughout.

    The library now lets the logit fall further where angle + margin passes 180 degrees, which
    concerns margins of 80 degrees and more.

    References:
        pytorch-metric-learning 0.9.88, losses/arcface_loss.py.
    """

    def get_angles(self, cosine_of_target_classes: Tensor) -> Tensor:
        """Return the angles in radians, kept off 0 and 180 degrees, where acos has no slope."""
        limit = 1 - _COSINE_MARGIN
        angles: Tensor = super().get_angles(cosine_of_target_classes.clamp(-limit, limit))
        return angles

    def modify_cosine_of_target_classes(self, cosine_of_target_classes: Tensor) -> Tensor:
        """Return the cosine of every angle enlarged by the margin."""
        return torch.cos(self.get_angles(cosine_of_target_classes) + self.margin)


class CenterSpreadRegularizer(BaseRegularizer):
    """Mean distance between the centres of a class, as the published settings weigh it.

    The library's SparseCentersRegularizer differs in three ways. It is half as large, since it
    divides by twice the number of pairs. It adds nothing under the root, whose gradient is infinite
    where two centres meet. And it masks all centres against all, which takes 7 GB for the classes
    of a fold of SOP.

    Args:
        centers_per_class: K > 1; the centres of a class lie one after another.
    """

    def __init__(self, centers_per_class: int) -> None:
        super().__init__()
        self.centers_per_class = centers_per_class

    def compute_loss(self, weights: Tensor) -> dict[str, Any]:
        """Compute the distance of every pair of (C * K, D) centres, in the library's form."""
        count = self.centers_per_class
        centers = F.normalize(weights, dim=1).unflatten(0, (-1, count))
        first, second = torch.triu_indices(count, count, offset=1, device=weights.device)
        similarities = (centers @ centers.transpose(1, 2))[:, first, second].flatten()
        return {
            "loss": {
                "losses": torch.sqrt(2 + _ROOT_FLOOR - 2 * similarities),
                "indices": torch.arange(len(similarities), device=weights.device),
                "reduction_type": "element",
            }
        }


def _build_soft_triple(parameters: Parameters, size: Mapping[str, int]) -> BaseMetricLossFunction:
    """Build SoftTriple, without its regulariser where that has no weight or no pair of centres."""
    count = int(parameters["centers_per_class"])
    weight = parameters["reg_weight"]
    return losses.SoftTripleLoss(
        **size,
        centers_per_class=count,
        la=parameters["la"],
        gamma=parameters["gamma"],
        margin=parameters["margin"],
        weight_regularizer=CenterSpreadRegularizer(count) if weight > 0 and count > 1 else None,
        weight_reg_weight=weight,
    )


# To add a loss: an entry here and a file in search_spaces/. The keys of the parameters are the
# published names; `size` holds num_classes and embedding_size for losses with weights of their own.
# Reducers and distances are pytorch-metric-learning's defaults, over all pairs or all triplets.
# docs/rows.md says for every row what is set and why.
_LOSSES: dict[str, Callable[[Parameters, Mapping[str, int]], BaseMetricLossFunction]] = {
    "contrastive": lambda p, size: losses.ContrastiveLoss(
        pos_margin=p["pos_margin"], neg_margin=p["neg_margin"]
    ),
    "triplet": lambda p, size: losses.TripletMarginLoss(margin=p["margin"]),
    "ntxent": lambda p, size: PublishedNTXentLoss(temperature=p["temperature"]),
    "nca": lambda p, size: losses.NCALoss(softmax_scale=p["softmax_scale"]),
    "proxy_nca": lambda p, size: losses.ProxyNCALoss(**size, softmax_scale=p["softmax_scale"]),
    "proxy_anchor": lambda p, size: losses.ProxyAnchorLoss(
        **size, margin=p["margin"], alpha=p["alpha"]
    ),
    "margin": lambda p, size: losses.MarginLoss(
        margin=p["margin"], beta=p["beta"], learn_beta=True
    ),
    "margin_per_class": lambda p, size: losses.MarginLoss(
        margin=p["margin"], beta=p["beta"], learn_beta=True, num_classes=size["num_classes"]
    ),
    "normalized_softmax": lambda p, size: losses.NormalizedSoftmaxLoss(
        **size, temperature=p["temperature"]
    ),
    "cosface": lambda p, size: losses.CosFaceLoss(**size, margin=p["margin"], scale=p["scale"]),
    "arcface": lambda p, size: PublishedArcFaceLoss(**size, margin=p["margin"], scale=p["scale"]),
    "fast_ap": lambda p, size: losses.FastAPLoss(num_bins=int(p["num_bins"])),
    "snr_contrastive": lambda p, size: losses.SignalToNoiseRatioContrastiveLoss(
        pos_margin=p["pos_margin"],
        neg_margin=p["neg_margin"],
        embedding_regularizer=UnitZeroMeanRegularizer(),
        embedding_reg_weight=p["regularizer_weight"],
    ),
    "circle": lambda p, size: losses.CircleLoss(m=p["m"], gamma=p["gamma"]),
    "multi_similarity": lambda p, size: losses.MultiSimilarityLoss(
        alpha=p["alpha"], beta=p["beta"], base=p["base"]
    ),
    "multi_similarity_miner": lambda p, size: losses.MultiSimilarityLoss(
        alpha=p["alpha"], beta=p["beta"], base=p["base"]
    ),
    "soft_triple": _build_soft_triple,
}

# Losses whose pairs or triplets a threshold picks beforehand.
_THRESHOLD_MINERS: dict[str, Callable[[Parameters], BaseMiner]] = {
    "multi_similarity_miner": lambda p: miners.MultiSimilarityMiner(epsilon=p["epsilon"]),
}


def build_loss(
    row: Row, parameters: Parameters, *, num_classes: int, embedding_dim: int
) -> nn.Module:
    """Build a row's loss.

    Proxies, class weights and centres are drawn from the global generator: seed it before.

    Args:
        row: which loss, and which miner before it.
        parameters: values for the loss and for the miner.
        num_classes: training classes C; a loss has one proxy, weight vector or beta for each.
        embedding_dim: D, dimensions of an embedding.

    Returns:
        A module that is called with embeddings (B, D) for a row without a miner, or with views
        (V, B, D) for a row with one, and with labels (B,). The labels must be 0 to C - 1, because
        losses look up their class's proxy, weight vector or beta by them.

    Raises:
        UserError: there is no such loss or miner, or a parameter is missing.
    """
    if row.loss not in _LOSSES:
        raise UserError(f"unknown row {str(row)!r}; choose from {', '.join(sorted(_LOSSES))}")
    miner = find_miner(row)
    size = {"num_classes": num_classes, "embedding_size": embedding_dim}
    try:
        base_loss = _LOSSES[row.loss](parameters, size)
        build_miner = _THRESHOLD_MINERS.get(row.loss)
        threshold_miner = build_miner(parameters) if build_miner else None
        if miner is None:
            return PlainLoss(base_loss, threshold_miner)
        return miner.wrap_loss(base_loss, threshold_miner, parameters)
    except KeyError as error:
        raise UserError(f"row {row} needs a value for {error.args[0]}") from error
