"""Trunk and embedder, and the stochastic views that within-pair mining compares."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wpm.config import Protocol
from wpm.errors import UserError


@dataclass(frozen=True)
class InputSpec:
    """How a trunk wants its pixels: `(value / 255 * value_range - mean) / std`, channel by channel.

    Attributes:
        channel_order: "RGB" or "BGR"; of no meaning for one channel.
        value_range: value of a white pixel before the mean is subtracted.
        mean: one number a channel, in `channel_order`.
        std: one number a channel.
    """

    channel_order: str
    value_range: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


class Trunk(nn.Module, ABC):
    """A network whose first convolution stands apart, so that views can start there."""

    feature_dim: int
    stem_channels: int
    input_spec: InputSpec

    @abstractmethod
    def stem(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to the first convolution's output (B, S, H', W')."""

    @abstractmethod
    def body(self, features: Tensor) -> Tensor:
        """(B, S, H', W') to (B, feature_dim)."""


class ConvNet(Trunk):
    """Four small convolutions for small images, trained from scratch.

    Normalises per image (group norm), not per batch: as with the frozen batch norm of a
    pretrained trunk, images do not influence one another, so that T passes over N images are one
    pass over T x N.
    """

    stem_channels = 32
    feature_dim = 64 * 3 * 3

    def __init__(self, channels: int) -> None:
        """Build the layers.

        Args:
            channels: of the input images, 1 or 3.
        """
        super().__init__()
        self.input_spec = InputSpec("RGB", 1.0, (0.5,) * channels, (0.25,) * channels)
        self.first = nn.Conv2d(channels, 32, 3, stride=2, padding=1, bias=False)
        self.rest = nn.Sequential(
            *_normalise(32),
            *_convolve(32, 48),
            nn.MaxPool2d(2),
            *_convolve(48, 64),
            nn.MaxPool2d(2),
            *_convolve(64, 64),
            # Strokes are told apart by where they are: averaging over positions cost 0.1 MAP@R.
            nn.AdaptiveAvgPool2d(3),
            nn.Flatten(),
        )

    def stem(self, images: Tensor) -> Tensor:
        """First convolution, before its normalisation: where channels are dropped."""
        output: Tensor = self.first(images)
        return output

    def body(self, features: Tensor) -> Tensor:
        """Everything after the first convolution, to features (B, 576)."""
        output: Tensor = self.rest(features)
        return output


def _normalise(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.GroupNorm(8, width), nn.ReLU()


def _convolve(width_in: int, width_out: int) -> tuple[nn.Module, ...]:
    return (nn.Conv2d(width_in, width_out, 3, padding=1, bias=False), *_normalise(width_out))


# A trunk is one line here: name -> constructor from the number of image channels.
_TRUNKS: dict[str, Callable[[int], Trunk]] = {
    "convnet": ConvNet,
}


@dataclass(frozen=True)
class ViewMasks:
    """Dropout masks of one batch, already scaled by 1 / (1 - p).

    Attributes:
        channel: (T, B, S) one factor a pass, image and channel of the first convolution.
        embedding: (T, K, B, D) one factor a pass, mask, image and embedding dimension.
    """

    channel: Tensor
    embedding: Tensor


class EmbeddingModel(nn.Module):
    """A trunk and a linear embedder."""

    def __init__(self, trunk: Trunk, embedding_dim: int) -> None:
        """Join a trunk and a new embedder.

        Args:
            trunk: see `Trunk`.
            embedding_dim: D of the embeddings.
        """
        super().__init__()
        self.trunk = trunk
        self.embedder = nn.Linear(trunk.feature_dim, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed without dropout.

        Args:
            images: (B, C, H, W) float, as the trunk's `input_spec` says.

        Returns:
            (B, D) embeddings, not normalised.
        """
        embeddings: Tensor = self.embedder(self.trunk.body(self.trunk.stem(images)))
        return embeddings

    def make_views(self, images: Tensor, masks: ViewMasks) -> Tensor:
        """Embed a batch under every mask.

        The first convolution runs once; all T passes are one forward over T x B images.

        Args:
            images: (B, C, H, W) float.
            masks: T trunk passes, K embedding masks each.

        Returns:
            (T * K, B, D) views, not normalised; view v is pass v // K, mask v % K.
        """
        features = self.trunk.stem(images)
        passes, batch = masks.channel.shape[:2]
        dropped = features * masks.channel[:, :, :, None, None]
        embeddings = self.embedder(self.trunk.body(dropped.flatten(0, 1)))
        views: Tensor = embeddings.view(passes, 1, batch, -1) * masks.embedding
        return views.flatten(0, 1)

    def sample_masks(
        self,
        images: Tensor,
        *,
        trunk_passes: int,
        embedding_masks: int,
        channel_dropout: float,
        embedding_dropout: float,
        generator: torch.Generator,
    ) -> ViewMasks:
        """Draw the masks of one batch.

        Args:
            images: (B, C, H, W) batch that the masks are for.
            trunk_passes: T.
            embedding_masks: K.
            channel_dropout: probability of dropping a channel, in [0, 1).
            embedding_dropout: probability of dropping an embedding dimension, in [0, 1).
            generator: source of randomness, on any device.

        Returns:
            Masks on the images' device.
        """
        batch = len(images)
        stem_channels = self.trunk.stem_channels
        dim = self.embedder.out_features
        return ViewMasks(
            channel=_draw_mask(
                (trunk_passes, batch, stem_channels), channel_dropout, images, generator
            ),
            embedding=_draw_mask(
                (trunk_passes, embedding_masks, batch, dim), embedding_dropout, images, generator
            ),
        )


def _draw_mask(
    shape: tuple[int, ...], dropout: float, like: Tensor, generator: torch.Generator
) -> Tensor:
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}, must be in [0, 1)")
    kept = torch.rand(shape, generator=generator, device=generator.device) >= dropout
    return kept.to(device=like.device, dtype=like.dtype) / (1 - dropout)


def build_model(protocol: Protocol, channels: int, seed: int) -> EmbeddingModel:
    """Build a model with weights drawn from a seed.

    Args:
        protocol: names the trunk and the embedding size.
        channels: of the images, 1 or 3.
        seed: of the weights.

    Raises:
        UserError: unknown trunk.
    """
    if protocol.trunk not in _TRUNKS:
        raise UserError(f"unknown trunk {protocol.trunk!r}; choose from {', '.join(_TRUNKS)}")
    # Layers draw from the global generator: fork it so that nobody else's numbers move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return EmbeddingModel(_TRUNKS[protocol.trunk](channels), protocol.embedding_dim)


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep batch-norm layers in evaluation mode: call after every `model.train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
