"""The losses: a row of the results table and its parameters become a module to train with.

A row is a loss, alone or behind a miner (`wpm.miners`). Alone, the loss gets (B, D) embeddings and
measures pairs itself; behind a miner it gets (V, B, D) views and reads mined pairs. The row's file
names the classes (`wpm.loss_description`). Classes of our own are here where the library computes
something else than the version with which published settings were searched.

You come here from `wpm.model.embedding`, where views come from. Read next: `wpm.training.fold`,
where model and loss are trained.
"""

from typing import Any

import torch
import torch.nn.functional as F
from pytorch_metric_learning import losses
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from pytorch_metric_learning.regularizers import BaseRegularizer, ZeroMeanRegularizer
from torch import Tensor, nn

from wpm.errors import UserError
from wpm.loss_classes import build_call
from wpm.loss_description import LossDescription
from wpm.miners import Parameters, find_miner
from wpm.rows import Row
from wpm.spaces import known_losses, shipped_loss

_ROOT_FLOOR = 1e-5  # added under the root of SoftTriple's distances, as in its authors' code
_PROBABILITY_FLOOR = 1e-20  # added to NT-Xent's probabilities
_COSINE_MARGIN = 1e-7  # ArcFace's cosines stay this far from -1 and 1


class PlainLoss(nn.Module):
    """A loss without within-pair mining; a threshold miner, if any, picks pairs in front of it."""

    def __init__(
        self, base_loss: BaseMetricLossFunction, threshold_miner: BaseMiner | None = None
    ) -> None:
        """Take a loss that is called with embeddings and labels.

        Args:
            base_loss: of pytorch-metric-learning, or any module that is called in the same way.
            threshold_miner: its pairs or triplets are the loss's third argument; None for all.
        """
        super().__init__()
        self.base_loss = base_loss
        self.threshold_miner = threshold_miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of (B, D) embeddings with (B,) labels."""
        loss: Tensor
        if self.threshold_miner is None:
            loss = self.base_loss(embeddings, labels)
        else:
            loss = self.base_loss(embeddings, labels, self.threshold_miner(embeddings, labels))
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


class PublishedSoftTripleLoss(losses.SoftTripleLoss):
    """SoftTriple with the regulariser that the published settings weigh.

    Args:
        reg_weight: of the mean distance between the centres of a class. There is no regulariser
            where it is 0, or where a class has one centre.
        centers_per_class: K >= 1.
        options: of the library's class.
    """

    def __init__(self, *, reg_weight: float, centers_per_class: int, **options: Any) -> None:
        regularized = reg_weight > 0 and centers_per_class > 1
        super().__init__(
            centers_per_class=centers_per_class,
            weight_regularizer=CenterSpreadRegularizer(centers_per_class) if regularized else None,
            weight_reg_weight=reg_weight,
            **options,
        )


def build_loss(
    row: Row,
    parameters: Parameters,
    *,
    num_classes: int,
    embedding_dim: int,
    description: LossDescription | None = None,
) -> nn.Module:
    """Build a row's loss.

    Proxies, class weights and centres are drawn from the global generator: seed it before.

    Args:
        row: which loss, and which miner before it.
        parameters: values for the loss and for the miner.
        num_classes: training classes C; a loss has one proxy, weight vector or beta for each.
        embedding_dim: D, dimensions of an embedding.
        description: the classes of the loss; None for those that ship under the row's name.

    Returns:
        A module that is called with embeddings (B, D) for a row without a miner, or with views
        (V, B, D) for a row with one, and with labels (B,). The labels must be 0 to C - 1, because
        losses look up their class's proxy, weight vector or beta by them.

    Raises:
        UserError: there is no such loss or miner, or a parameter is missing.
        ValueError: the miner has no meaning for the loss.
    """
    described = description or shipped_loss(row.loss)
    if described is None:
        known = ", ".join(name for name in known_losses() if shipped_loss(name))
        raise UserError(f"unknown row {str(row)!r}; choose from {known}")
    miner = find_miner(row)
    values = {**parameters, "num_classes": num_classes, "embedding_size": embedding_dim}
    for name in described.parameters:
        if name not in values:
            raise UserError(f"row {row} needs a value for {name}")
    base_loss = build_call("loss", described.loss, values, described.modules)
    threshold_miner = (
        None
        if described.miner is None
        else build_call("miner", described.miner, values, described.modules)
    )
    if miner is None:
        return PlainLoss(base_loss, threshold_miner)
    try:
        return miner.wrap_loss(base_loss, threshold_miner, parameters)
    except KeyError as error:
        raise UserError(f"row {row} needs a value for {error.args[0]}") from error
