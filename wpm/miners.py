"""The miners: modules between a batch and a loss that judge each pair by many views of it.

A new miner needs one entry in `MINERS` and one file `search_spaces/NAME.toml`; then every loss that
compares images with one another has a row `LOSS+NAME`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wpm.errors import UserError
from wpm.rows import Row

if TYPE_CHECKING:  # torch is slow to import, and whoever reads search spaces needs names only
    from pytorch_metric_learning.losses import BaseMetricLossFunction
    from pytorch_metric_learning.miners import BaseMiner
    from torch import nn

WITHIN_PAIR = "wpm"

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class ViewDropouts:
    """How much the views of an image differ from one another.

    Attributes:
        channel: probability of dropping a channel of the first convolution, in [0, 1).
        embedding: probability of dropping an embedding dimension, in [0, 1).
    """

    channel: float
    embedding: float


def read_dropouts(parameters: Parameters) -> ViewDropouts:
    """Read the dropouts from the parameters that are named after them."""
    return ViewDropouts(parameters["channel_dropout"], parameters["embedding_dropout"])


@dataclass(frozen=True)
class Miner:
    """What the rows of one miner share.

    Attributes:
        parameters: names of the miner's own parameters; its file in `search_spaces` sets exactly
            these.
        wrap_loss: puts the miner before a loss and the loss's threshold miner, if it has one.
            The module that it returns is called with (V, B, D) views and (B,) labels.
        view_dropouts: chooses how the views are made.
    """

    parameters: tuple[str, ...]
    wrap_loss: "Callable[[BaseMetricLossFunction, BaseMiner | None, Parameters], nn.Module]"
    view_dropouts: Callable[[Parameters], ViewDropouts] = read_dropouts


def _mine_within_pairs(
    base_loss: "BaseMetricLossFunction",
    threshold_miner: "BaseMiner | None",
    parameters: Parameters,
) -> "nn.Module":
    from wpm.within_pair import WithinPairLoss

    return WithinPairLoss(
        base_loss, sharpness=parameters["sharpness"], threshold_miner=threshold_miner
    )


MINERS = {
    WITHIN_PAIR: Miner(
        parameters=("embedding_dropout", "channel_dropout", "sharpness"),
        wrap_loss=_mine_within_pairs,
    ),
}


def find_miner(row: Row) -> Miner | None:
    """Return the miner of a row, or None where the loss stands alone.

    Raises:
        UserError: there is no miner of that name; the message lists the choices.
    """
    if row.miner is None:
        return None
    if row.miner not in MINERS:
        raise UserError(f"row {row}: unknown miner {row.miner!r}; choose from {', '.join(MINERS)}")
    return MINERS[row.miner]
