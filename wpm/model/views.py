"""Channel and embedding masks: what makes the views of an image differ."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewMasks:
    """Dropout masks of one batch, already scaled by 1 / (1 - p).

    Attributes:
        channel: (T, B, S) one factor a pass, image and channel of the first convolution.
        embedding: (T, K, B, D) one factor a pass, mask, image and embedding dimension.
    """

    channel: Tensor
    embedding: Tensor


def draw_mask(
    shape: tuple[int, ...], dropout: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    """Draw a dropout mask, scaled by 1 / (1 - dropout), with device and type of `like`."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")
    kept = torch.rand(shape, generator=generator, device=generator.device) >= dropout
    return kept.to(device=like.device, dtype=like.dtype) / (1 - dropout)
