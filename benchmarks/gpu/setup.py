"""What the stages train on: a model with sensible statistics, a batch, a cache of photographs."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.image_data import make_photographs
from benchmarks.within_pair_step import (
    CHANNEL_DROPOUT,
    EMBEDDING_DROPOUT,
    calibrate_batch_norm,
)
from wpm.data.class_folders import index_class_folders
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.layout import place
from wpm.model.views import ViewMasks, ViewSettings
from wpm.protocols import Protocol

# At random weights all images are near one another: with these margins some pairs of either kind
# cost something and some do not.
POS_MARGIN, NEG_MARGIN = 0.1, 0.8


@dataclass(frozen=True)
class Batch:
    """A model and the input of one step, on a device; images are channels last, as crops are."""

    model: EmbeddingModel
    images: Tensor
    classes: Tensor
    masks: ViewMasks


def view_settings(protocol: Protocol) -> ViewSettings:
    """Return the protocol's views with dropouts near the published ones."""
    return ViewSettings(
        protocol.trunk_passes, protocol.embedding_masks, CHANNEL_DROPOUT, EMBEDDING_DROPOUT
    )


def make_batch(protocol: Protocol, device: torch.device) -> Batch:
    """Build a model, one batch and its masks: the same numbers on every device."""
    generator = torch.Generator().manual_seed(0)
    side = protocol.crop
    images = torch.randn(protocol.batch_size(), 3, side, side, generator=generator)
    classes = torch.arange(protocol.classes_per_batch)
    classes = classes.repeat_interleave(protocol.images_per_class)
    model = build_model(protocol, 3, seed=0).train()
    masks = model.sample_masks(images, view_settings(protocol), generator)
    calibrate_batch_norm(model, images)  # on the CPU: the statistics are those of every device
    return Batch(
        place(model, device),
        images.to(device, memory_format=torch.channels_last),
        classes.to(device),
        ViewMasks(masks.channel.to(device), masks.embedding.to(device)),
    )


def make_photograph_cache(root: Path, protocol: Protocol, images: int) -> Pixels:
    """Decode photographs made here: shapes and noise, of 500 x 375 pixels."""
    folder = make_photographs(root / "photographs", images)
    index = index_class_folders("folder", folder, channels=3)
    return Pixels(build_pixel_cache(index, protocol.resize, root / "work"))


def make_patterned_cache(root: Path, resize: int, classes: int = 16, images: int = 6) -> Pixels:
    """Decode images whose classes can be learnt: a pattern a class, and much noise.

    They are the trainval half; the other half has an image a class, so that it can be told apart.
    """
    rng = np.random.default_rng(0)
    side = resize + 8
    for label in range(2 * classes):
        pattern = rng.integers(0, 256, (4, 4, 3))
        folder = root / "patterns" / f"class_{label:03d}"
        folder.mkdir(parents=True)
        for number in range(images if label < classes else 1):
            blocks = np.kron(pattern, np.ones((-(-side // 4), -(-side // 4), 1)))[:side, :side]
            noisy = blocks + rng.normal(0, 120, blocks.shape)
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    index = index_class_folders("folder", root / "patterns", channels=3)
    trainval = index.subset(range(classes))
    return Pixels(build_pixel_cache(trainval, resize, root / "work"))


@contextmanager
def share_of_memory(fraction: float) -> Iterator[None]:
    """Keep this process to a share of the GPU's memory."""
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(fraction)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
