"""Trunk and embedder, and the stochastic views that within-pair mining compares."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from wpm.errors import UserError
from wpm.model.trunk import Trunk
from wpm.model.trunks import RANDOM_WEIGHTS, find_source
from wpm.model.views import ViewMasks, draw_mask
from wpm.precision import autocast
from wpm.protocols import Protocol

# Of the first convolution's output, as many go through the trunk at a time on a CPU: 64 images of
# BN-Inception at 227 px; more are slower (benchmarks/within_pair_step.py --ungrouped).
_CPU_ELEMENTS = 2**26


class EmbeddingModel(nn.Module):
    """A trunk and a linear embedder."""

    def __init__(self, trunk: Trunk, embedding_dim: int, precision: str = "float32") -> None:
        """Join a trunk and a new embedder.

        Args:
            trunk: see `Trunk`.
            embedding_dim: D of the embeddings.
            precision: of a protocol; with "bf16" both run in bfloat16, with float32 weights.
        """
        super().__init__()
        self._precision = precision
        self.trunk = trunk
        self.embedder = nn.Linear(trunk.feature_dim, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed without dropout.

        Args:
            images: (B, C, H, W) float, as the trunk's `input_spec` says.

        Returns:
            (B, D) embeddings, not normalised.
        """
        with autocast(self._precision, images.device):
            embeddings: Tensor = self.embedder(self.trunk.body(self.trunk.stem(images)))
        return embeddings.to(images.dtype)

    def make_views(self, images: Tensor, masks: ViewMasks) -> Tensor:
        """Embed a batch under every mask.

        The first convolution runs once; all T passes are one forward over T x B images.

        Args:
            images: (B, C, H, W) float.
            masks: T trunk passes, K embedding masks each.

        Returns:
            (T * K, B, D) views, not normalised; view v is pass v // K, mask v % K.
        """
        embeddings = self.embed_passes(self.run_stem(images), masks.channel)
        return self.mask_embeddings(embeddings, masks)

    def run_stem(self, images: Tensor) -> Tensor:
        """(B, C, H, W) images to the first convolution's output, where channels are dropped."""
        with autocast(self._precision, images.device):
            return self.trunk.stem(images)

    def embed_passes(self, features: Tensor, channel: Tensor) -> Tensor:
        """Embed images with some of their channels dropped.

        Args:
            features: (B, S, H', W') from `run_stem`.
            channel: (P, B, S) factors of P passes.

        Returns:
            (P, B, D) embeddings, not normalised.
        """
        passes = len(channel)
        if features.device.type == "cpu":
            passes = max(1, _CPU_ELEMENTS // features.numel())
        groups = [self._embed_group(features, group) for group in channel.split(passes)]
        return groups[0] if len(groups) == 1 else torch.cat(groups)

    def _embed_group(self, features: Tensor, channel: Tensor) -> Tensor:
        with autocast(self._precision, features.device):
            dropped = features * channel[:, :, :, None, None]
            embeddings: Tensor = self.embedder(self.trunk.body(dropped.flatten(0, 1)))
        return embeddings.view(*channel.shape[:2], -1).to(channel.dtype)

    def mask_embeddings(self, embeddings: Tensor, masks: ViewMasks) -> Tensor:
        """(T, B, D) embeddings of all passes to (T * K, B, D) views."""
        return (embeddings[:, None] * masks.embedding).flatten(0, 1)

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
            channel=draw_mask(
                (trunk_passes, batch, stem_channels), channel_dropout, images, generator
            ),
            embedding=draw_mask(
                (trunk_passes, embedding_masks, batch, dim), embedding_dropout, images, generator
            ),
        )


def build_model(
    protocol: Protocol, channels: int, seed: int, weights: str = RANDOM_WEIGHTS
) -> EmbeddingModel:
    """Build a model: weights drawn from a seed, those of the trunk read from a file if given.

    Args:
        protocol: names the trunk and the embedding size.
        channels: of the images, 1 or 3.
        seed: of the weights.
        weights: file of the trunk's weights, or "random".

    Raises:
        UserError: unknown trunk, or a file that does not fit it.
    """
    source = find_source(protocol.trunk)
    # Layers draw from the global generator: fork it so that nobody else's numbers move.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = source.build(protocol.trunk, channels)
        model = EmbeddingModel(trunk, protocol.embedding_dim, protocol.precision)
    if weights != RANDOM_WEIGHTS and source.needs_weights:
        source.load_weights(model.trunk, Path(weights))
    return model


def check_model(protocol: Protocol, weights: str = RANDOM_WEIGHTS) -> None:
    """Build a model and show it a blank image, so that not every trial has to fail at it.

    Args:
        protocol: names the trunk and the crop.
        weights: file of the trunk's weights, or "random".

    Raises:
        UserError: `build_model` refuses it, or the trunk needs larger images.
    """
    model, side = build_model(protocol, 3, 0, weights).eval(), protocol.crop
    try:
        with torch.no_grad():
            model(torch.zeros(1, 3, side, side))
    except RuntimeError as error:
        raise UserError(
            f"trunk {protocol.trunk} does not take the {side} px crops of protocol {protocol.name} "
            f"({str(error).splitlines()[0]}); choose another trunk or protocol"
        ) from error


def freeze_batch_norm(model: nn.Module) -> None:
    """Keep batch-norm layers in evaluation mode: call after every `model.train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


EVALUATION_BATCH = 256


def concatenate_embeddings(embeddings: Sequence[Tensor]) -> Tensor:
    """Join the unit-norm embeddings of several models, and normalise the whole.

    Args:
        embeddings: M tensors (N, D), one a model.

    Returns:
        (N, M * D) unit-norm embeddings.
    """
    return normalize(torch.cat([normalize(e, dim=1) for e in embeddings], dim=1), dim=1)
