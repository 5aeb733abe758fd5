"""The gradient of a loss at what the model put out, in IEEE float32 whatever the trunk uses."""

import torch
from torch import Tensor, nn

from wpm.precision import float32_products


def backward_to_outputs(loss: nn.Module, outputs: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a loss, and its gradient up to the model's outputs.

    A protocol's precision is about trunk and embedder. The loss multiplies matrices of embeddings
    as well, and in tf32 the distances of near images would lose most of their digits. So it ends
    its own backward pass here, in float32, before the trunk begins with its.

    Args:
        loss: called with the outputs and the classes; its own parameters get their gradients here.
        outputs: embeddings or views; their graph is left alone.
        classes: (B,) class numbers, as the loss expects them.

    Returns:
        The loss, a scalar without a graph, and its gradient with respect to `outputs`.
    """
    leaf = outputs.detach().requires_grad_()
    with float32_products("float32"):
        value: Tensor = loss(leaf, classes)
        value.backward()
    gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return value.detach(), gradient
