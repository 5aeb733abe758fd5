"""Build the optimisers of a training: of trunk and embedder, and of a loss's own parameters."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Adam, Optimizer, RMSprop

from wpm.errors import UserError
from wpm.model.embedding import EmbeddingModel
from wpm.protocols import Protocol
from wpm.rows import Row

_RMSPROP_MOMENTUM = 0.9  # the published protocol's, for weights and loss parameters alike


def build_optimizers(
    row: Row,
    protocol: Protocol,
    parameters: Mapping[str, float],
    model: EmbeddingModel,
    loss: nn.Module,
    *,
    capturable: bool = False,
) -> list[Optimizer]:
    """Build one optimiser for the weights, and one for the loss's own parameters if it has any.

    Args:
        row: for messages.
        protocol: names the optimiser, its rate and its weight decay.
        parameters: of the row; the rate of the loss's own parameters is among them.
        model: trunk and embedder.
        loss: of the row.
        capturable: keep the numbers of steps on the GPU, so that steps can be captured.

    Raises:
        UserError: the row lacks the learning rate of its loss.
    """
    optimizers: list[Optimizer]
    if protocol.optimizer == "adam":
        optimizers = [
            Adam(
                model.parameters(),
                lr=protocol.learning_rate,
                weight_decay=protocol.weight_decay,
                capturable=capturable,
            )
        ]
    else:  # "rmsprop": a protocol has no third
        optimizers = [
            RMSprop(
                model.parameters(),
                lr=protocol.learning_rate,
                weight_decay=protocol.weight_decay,
                momentum=_RMSPROP_MOMENTUM,
                capturable=capturable,
            )
        ]
    own = list(loss.parameters())
    if own:
        if "metric_loss_lr" not in parameters:
            raise UserError(f"row {row} needs a value for metric_loss_lr, the rate of its loss")
        optimizers.append(
            RMSprop(
                own,
                lr=parameters["metric_loss_lr"],
                weight_decay=parameters.get("metric_loss_weight_decay", protocol.loss_weight_decay),
                momentum=_RMSPROP_MOMENTUM,
                capturable=capturable,
            )
        )
    return optimizers


def load_optimizer(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Resume an optimiser, on whichever device the saved one was.

    A saved state also says whether it could be captured, and torch would take that over: a training
    that was begun on a CPU could then not be captured on a GPU.
    """
    groups = [
        {**group, "capturable": own["capturable"]}
        for group, own in zip(saved["param_groups"], optimizer.param_groups, strict=True)
    ]
    optimizer.load_state_dict({**saved, "param_groups": groups})
