"""The model: a trunk and a linear embedder, which make the views that within-pair mining compares.

A view is one possible answer of the network to an image. Two kinds of dropout make views differ:
some channels of the trunk's first convolution are dropped, T times, and some dimensions of each
resulting embedding, K times; that gives V = T * K views of a batch. A model under evaluation drops
nothing and gives one embedding an image.

You come here from `wpm.within_pair`, which picks among these views. Read next: `wpm.losses`, how
a row of the results table becomes a loss.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from wpm.errors import UserError
from wpm.model.trunk import Trunk
from wpm.model.trunks import RANDOM_WEIGHTS, find_source
from wpm.model.views import ViewMasks, ViewSettings, draw_mask
from wpm.precision import autocast
from wpm.protocols import Protocol

# On a CPU, at most this many elements of the first convolution's output go through the trunk at
# once: those of 64 images for BN-Inception at 227 px. More are slower
# (benchmarks/within_pair_step.py --ungrouped).
_CPU_ELEMENTS = 2**26


class EmbeddingModel(nn.Module):
    """A trunk and a linear embedder."""

    def __init__(self, trunk: Trunk, embedding_dim: int, precision: str = "float32") -> None:
        """Add a new embedder to a trunk.

        Args:
            trunk: images to features.
            embedding_dim: D of the embeddings.
            precision: the protocol's; with "bf16" both parts run in bfloat16, with float32 weights.
        """
        super().__init__()
        self.precision = precision
        self.layout: torch.memory_format | None = None
        self.trunk = trunk
        self.embedder = nn.Linear(trunk.feature_dim, embedding_dim)

    def forward(self, images: Tensor) -> Tensor:
        """Embed without dropout.

        Args:
            images: (B, C, H, W) float, as the trunk's `input_spec` says.

        Returns:
            (B, D) embeddings, not normalised.
        """
        features = self.run_stem(images)
        with autocast(self.precision, images.device):
            embeddings: Tensor = self.embedder(self.trunk.body(features))
        return embeddings.to(images.dtype)

    def lay_out(self, layout: torch.memory_format) -> None:
        """Change how the weights lie in memory, and the images from here on.

        Args:
            layout: see `wpm.model.layout`; at first the weights are contiguous, and images stay
                as they come.
        """
        self.layout = layout
        self.to(memory_format=layout)

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
        """Run the first convolution, on whose output channels are dropped.

        Args:
            images: (B, C, H, W) float.

        Returns:
            (B, S, H', W').
        """
        # One channels-last operand would put a convolution's output into that layout as well.
        if self.layout is not None:
            images = images.contiguous(memory_format=self.layout)
        with autocast(self.precision, images.device):
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
        with autocast(self.precision, features.device):
            dropped = features * channel[:, :, :, None, None]
            embeddings: Tensor = self.embedder(self.trunk.body(dropped.flatten(0, 1)))
        return embeddings.view(*channel.shape[:2], -1).to(channel.dtype)

    def mask_embeddings(self, embeddings: Tensor, masks: ViewMasks) -> Tensor:
        """Turn (T, B, D) embeddings of all passes into (T * K, B, D) views."""
        return (embeddings[:, None] * masks.embedding).flatten(0, 1)

    def sample_masks(
        self, images: Tensor, views: ViewSettings, generator: torch.Generator
    ) -> ViewMasks:
        """Draw the masks of one batch.

        Args:
            images: (B, C, H, W) batch that the masks are for.
            views: how many views there are and how much they differ.
            generator: source of randomness, on any device.

        Returns:
            Masks on the images' device.
        """
        batch, passes = len(images), views.trunk_passes
        per_channel = (passes, batch, self.trunk.stem_channels)
        per_dimension = (passes, views.embedding_masks, batch, self.embedder.out_features)
        return ViewMasks(
            channel=draw_mask(per_channel, views.channel_dropout, images, generator),
            embedding=draw_mask(per_dimension, views.embedding_dropout, images, generator),
        )


def build_model(
    protocol: Protocol, channels: int, seed: int, weights: str = RANDOM_WEIGHTS
) -> EmbeddingModel:
    """Build a model with weights drawn from a seed; the trunk's are read from a file if given.

    Args:
        protocol: names the trunk and the embedding size.
        channels: of the images, 1 or 3.
        seed: of the weights.
        weights: file of the trunk's weights, or "random".

    Raises:
        UserError: unknown trunk, or a file that does not fit it.
    """
    source = find_source(protocol.trunk)
    # Layers draw from the global generator: fork it so that nobody else's numbers change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trunk = source.build(protocol.trunk, channels)
        model = EmbeddingModel(trunk, protocol.embedding_dim, protocol.precision)
    if weights != RANDOM_WEIGHTS and source.needs_weights:
        source.load_weights(model.trunk, Path(weights))
    return model


def check_model(protocol: Protocol, weights: str = RANDOM_WEIGHTS) -> None:
    """Try the model on a blank image, so that a bad trunk is refused before any trial starts.

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
    """Put batch-norm layers into evaluation mode; call it after every `model.train()`."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


EVALUATION_BATCH = 256  # images; also of exported models


def concatenate_embeddings(embeddings: Sequence[Tensor]) -> Tensor:
    """Join the unit-norm embeddings of several models, and normalise the result.

    Args:
        embeddings: M tensors (N, D), one a model.

    Returns:
        (N, M * D) unit-norm embeddings.
    """
    return normalize(torch.cat([normalize(e, dim=1) for e in embeddings], dim=1), dim=1)
