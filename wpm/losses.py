"""Rows of the results table: a name and its parameters become a loss, with or without mining."""

from collections.abc import Callable, Mapping

from pytorch_metric_learning import losses, miners
from pytorch_metric_learning.losses import BaseMetricLossFunction
from pytorch_metric_learning.miners import BaseMiner
from torch import Tensor, nn

from wpm.config import Row
from wpm.errors import UserError
from wpm.within_pair import WithinPairLoss

Parameters = Mapping[str, float]


class PlainLoss(nn.Module):
    """A base loss, and a threshold miner in front of it, on the batch's own embeddings."""

    def __init__(
        self, base_loss: BaseMetricLossFunction, threshold_miner: BaseMiner | None = None
    ) -> None:
        """Join the two.

        Args:
            base_loss: any pytorch-metric-learning loss.
            threshold_miner: picks pairs or triplets; None to use all.
        """
        super().__init__()
        self.base_loss = base_loss
        self.threshold_miner = threshold_miner

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Return the scalar loss of (B, D) embeddings with (B,) labels."""
        pairs = self.threshold_miner(embeddings, labels) if self.threshold_miner else None
        loss: Tensor = self.base_loss(embeddings, labels, pairs)
        return loss


# Adding a loss is one line here and one file in search_spaces/. Keys of the parameters are the
# published names; reducers are pytorch-metric-learning's defaults, all pairs and all triplets.
_LOSSES: dict[str, Callable[[Parameters], BaseMetricLossFunction]] = {
    "contrastive": lambda p: losses.ContrastiveLoss(
        pos_margin=p["pos_margin"], neg_margin=p["neg_margin"]
    ),
    "triplet": lambda p: losses.TripletMarginLoss(margin=p["margin"]),
    "margin": lambda p: losses.MarginLoss(margin=p["margin"], beta=p["beta"], learn_beta=True),
    "multi_similarity": lambda p: losses.MultiSimilarityLoss(
        alpha=p["alpha"], beta=p["beta"], base=p["base"]
    ),
    "multi_similarity_miner": lambda p: losses.MultiSimilarityLoss(
        alpha=p["alpha"], beta=p["beta"], base=p["base"]
    ),
}

# Rows that pick pairs by a threshold before the loss.
_THRESHOLD_MINERS: dict[str, Callable[[Parameters], BaseMiner]] = {
    "multi_similarity_miner": lambda p: miners.MultiSimilarityMiner(epsilon=p["epsilon"]),
}


def build_loss(row: Row, parameters: Parameters) -> PlainLoss | WithinPairLoss:
    """Build a row's loss.

    Args:
        row: loss name, mined or not.
        parameters: the row's parameters; with mining, also `sharpness`.

    Returns:
        A module called with embeddings (B, D) for a plain row, or views (V, B, D) for a mined
        one, and labels (B,).

    Raises:
        UserError: no such row, or a parameter is missing.
    """
    if row.loss not in _LOSSES:
        raise UserError(f"unknown row {str(row)!r}; choose from {', '.join(sorted(_LOSSES))}")
    try:
        base_loss = _LOSSES[row.loss](parameters)
        build_miner = _THRESHOLD_MINERS.get(row.loss)
        threshold_miner = build_miner(parameters) if build_miner else None
        if row.mined:
            return WithinPairLoss(
                base_loss, sharpness=parameters["sharpness"], threshold_miner=threshold_miner
            )
    except KeyError as error:
        raise UserError(f"row {row} needs a value for {error.args[0]}") from error
    return PlainLoss(base_loss, threshold_miner)
