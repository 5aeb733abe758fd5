"""Build what one fold trains with: its seeds, model, loss, step and class numbers."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wpm.data.pixels import Pixels
from wpm.losses import build_loss
from wpm.miners import find_miner
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.layout import place
from wpm.model.views import ViewSettings
from wpm.splits import Fold
from wpm.training.config import TrainingConfig
from wpm.training.mined_step import MinedStep
from wpm.training.plain_step import PlainStep
from wpm.training.steps import (
    BatchShape,
    EagerSteps,
    GraphBackend,
    GraphedSteps,
    has_fixed_shapes,
)
from wpm.training.wait_free import is_replayable, remove_waits


class FoldSeeds(NamedTuple):
    """Independent streams of randomness for one fold.

    Since they are independent, a row and its twin see the same weights and batches, although only
    one of them draws masks.
    """

    weights: int
    batches: int
    masks: int
    loss: int


def derive_seeds(base: int, position: int) -> FoldSeeds:
    """Derive a fold's seeds from its position, whichever other folds are trained beside it."""
    numbers = np.random.SeedSequence((base, position)).generate_state(4)
    return FoldSeeds(*(int(number) for number in numbers))


def place_model(
    config: TrainingConfig, channels: int, seed: int, device: torch.device
) -> EmbeddingModel:
    """Build a fold's model on a device.

    Args:
        config: names trunk, weights file and embedding size.
        channels: of the images, 1 or 3.
        seed: of the weights that no file sets.
        device: where to train.
    """
    return place(build_model(config.protocol, channels, seed, config.weights), device)


def place_loss(
    config: TrainingConfig, num_classes: int, seed: int, device: torch.device
) -> nn.Module:
    """Build a fold's loss, with the miner before it if the row has one, on a device.

    Args:
        config: names row, parameters and embedding size.
        num_classes: C, the fold's training classes.
        seed: of the loss's own parameters, such as proxies.
        device: where to train.
    """
    # Losses draw proxies from the global generator: fork it so that nobody else's numbers change.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        loss = build_loss(
            config.row,
            config.parameters,
            num_classes=num_classes,
            embedding_dim=config.protocol.embedding_dim,
            description=config.loss,
        )
    return loss.to(device)


def build_step(
    config: TrainingConfig, model: EmbeddingModel, loss: nn.Module, masks: torch.Generator
) -> PlainStep | MinedStep:
    """Choose how a row gets its gradient: from views where it has a miner, else from embeddings.

    Args:
        config: names the row, and how many views there are and how much they differ.
        model: trunk and embedder.
        loss: of the row.
        masks: source of the views' masks.
    """
    miner = find_miner(config.row)
    if miner is None:
        return PlainStep(model, loss)
    dropouts = miner.view_dropouts(config.parameters)
    views = ViewSettings(
        trunk_passes=config.protocol.trunk_passes,
        embedding_masks=config.protocol.embedding_masks,
        channel_dropout=dropouts.channel,
        embedding_dropout=dropouts.embedding,
    )
    return MinedStep(model, loss, views, masks)


def build_steps(
    config: TrainingConfig,
    step: PlainStep | MinedStep,
    loss: nn.Module,
    optimizers: Sequence[Optimizer],
    loss_sum: Tensor,
    backend: GraphBackend | None,
) -> EagerSteps | GraphedSteps:
    """Choose how steps are taken: kernel by kernel, or from a graph where that is faster.

    Args:
        config: says how large batches are, and how many views there are.
        step: computes gradients.
        loss: of the row; where there are graphs it is rewritten to ask the device nothing.
        optimizers: apply the gradients.
        loss_sum: scalar to which every step adds its loss.
        backend: captures steps; None where the device has no graphs.
    """
    if backend is None or not is_replayable(loss):
        return EagerSteps(step, optimizers, loss_sum)
    shape, protocol = batch_shape(config), config.protocol
    views = protocol.trunk_passes * protocol.embedding_masks
    batch = (shape.classes * shape.images_per_class, protocol.embedding_dim)
    eager = EagerSteps(step, optimizers, loss_sum, remove_waits(loss))
    outputs = (views, *batch) if isinstance(step, MinedStep) else batch
    labels = torch.arange(shape.classes).repeat_interleave(shape.images_per_class)
    if not has_fixed_shapes(loss, outputs, labels):
        return eager
    return GraphedSteps(eager, backend, shape)


def batch_shape(config: TrainingConfig) -> BatchShape:
    """Return the shape of batches: the row's where it sets one, else the protocol's."""
    protocol, parameters = config.protocol, config.parameters
    return BatchShape(
        classes=int(parameters.get("classes_per_batch", protocol.classes_per_batch)),
        images_per_class=int(parameters.get("images_per_class", protocol.images_per_class)),
    )


def choose_images(fold: Fold, pixels: Pixels) -> tuple[Tensor, Tensor]:
    """Return the positions of the images to train on, and of those to validate on.

    Where a fold names its validation images, it trains on all others.
    """
    if not fold.val_images:
        return pixels.indices_of(fold.train_classes), pixels.indices_of(fold.val_classes)
    validates = torch.zeros(len(pixels), dtype=torch.bool)
    validates[torch.tensor(fold.val_images)] = True
    return torch.nonzero(~validates).flatten(), torch.nonzero(validates).flatten()


def number_classes(fold: Fold, total: int) -> Tensor:
    """Return (total,) numbers 0 to C - 1 of the fold's training labels in order; -1 elsewhere.

    This is the third numbering of classes, and each has its reason. The place of a class's name
    among all sorted names decides which half and folds it is in (`wpm.splits`). Its label, stored
    with every image, is that same place, and never changes: so a cache of half the classes can be
    checked for test classes. Losses with a proxy, weight or beta per class look it up in a table
    of the fold's C training classes, so they need numbers without gaps.
    """
    numbers = torch.full((total,), -1)
    numbers[torch.tensor(sorted(fold.train_classes))] = torch.arange(len(fold.train_classes))
    return numbers
