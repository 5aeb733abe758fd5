"""What makes the views of an image differ: dropout masks on channels and on embeddings."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewSettings:
    """How many views a batch gets, and how much they differ: V = T * K.

    Attributes:
        trunk_passes: T, passes through the trunk, each with channels of its own dropped.
        embedding_masks: K, masks on the embeddings of each pass.
        channel_dropout: probability of dropping a channel of the first convolution, in [0, 1).
        embedding_dropout: probability of dropping an embedding dimension, in [0, 1).
    """

    trunk_passes: int
    embedding_masks: int
    channel_dropout: float
    embedding_dropout: float


@dataclass(frozen=True)
class ViewMasks:
    """Dropout masks of one batch; what is kept is already scaled by 1 / (1 - p).

    Attributes:
        channel: (T, B, S), a factor for every pass, image and channel of the first convolution.
        embedding: (T, K, B, D), a factor for every pass, mask, image and embedding dimension.
    """

    channel: Tensor
    embedding: Tensor


def draw_mask(
    shape: tuple[int, ...], dropout: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw a dropout mask: 0 with probability `dropout`, else 1 / (1 - dropout).

    Args:
        shape: of the mask.
        dropout: in [0, 1).
        like: tensor whose device and type the mask gets.
        generator: source of randomness, on any device.

    Raises:
        ValueError: `dropout` is outside its range.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")
    kept = torch.rand(shape, generator=generator, device=generator.device) >= dropout
    return kept.to(device=like.device, dtype=like.dtype) / (1 - dropout)
