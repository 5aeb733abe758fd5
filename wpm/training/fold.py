"""Train one configuration on one fold: steps, validations, and the best model so far.

This is the last of four files that teach the method, after `wpm.within_pair`,
`wpm.model.embedding` and `wpm.losses`. A fold draws a batch, asks a step for the gradient, lets
the optimisers move, and after some epochs scores the validation classes. It knows nothing of
searches, disks or clusters.

Beside it: `wpm.training.fold_parts` builds what a fold trains with, `wpm.training.mined_step`
computes a gradient from views, `wpm.training.plain_step` one without them, and
`wpm.training.training` runs the folds of a configuration in lockstep.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wpm.data.batches import BatchMaker, ClassBalancedSampler
from wpm.data.pixels import Pixels
from wpm.model.embedding import freeze_batch_norm
from wpm.reports import FoldReport
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.splits import Fold
from wpm.training.config import TrainingConfig
from wpm.training.evaluate import count_coinciding, embed_images
from wpm.training.fold_parts import (
    batch_shape,
    build_step,
    build_steps,
    choose_images,
    derive_seeds,
    number_classes,
    place_loss,
    place_model,
)
from wpm.training.optimizers import build_optimizers, load_optimizer
from wpm.training.patience import is_patience_over
from wpm.training.snapshot import map_tensors
from wpm.training.steps import GraphBackend

# From this share of coinciding embeddings on, a validation has collapsed. Below it scores say by
# themselves how bad the model is.
COLLAPSED_SHARE = 0.95


class DivergedError(Exception):
    """A loss, or the embeddings after it, became NaN or infinite."""


class CollapsedError(DivergedError):
    """The embeddings of (nearly) all images coincide, so that no image can be found by them."""


def never_pause() -> bool:
    """Return False: train the epoch to its end."""
    return False


class FoldTraining:
    """One fold: its model, optimisers, randomness, and the best model so far."""

    def __init__(
        self,
        config: TrainingConfig,
        position: int,
        fold: Fold,
        pixels: Pixels,
        device: torch.device,
        backend: GraphBackend | None = None,
        *,
        keep_model: bool = True,
    ) -> None:
        """Prepare epoch 0.

        Args:
            config: what to train.
            position: of the fold; with the seed it fixes weights, batches and masks.
            fold: classes to train and validate on.
            pixels: decoded trainval images.
            device: where to train.
            backend: captures steps; None where the device has no graphs.
            keep_model: whether to keep the weights of the best validation.
        """
        self.position = position
        self._keep_model = keep_model
        self._protocol = config.protocol
        seeds = derive_seeds(config.seed, position)
        self._batch_generator = torch.Generator().manual_seed(seeds.batches)
        # Masks are drawn where they are used, so that no step waits for a copy of them.
        self._mask_generator = torch.Generator(device).manual_seed(seeds.masks)
        self._mask_seed = seeds.masks
        self.model = place_model(config, pixels.channels, seeds.weights, device)
        self.loss = place_loss(config, len(fold.train_classes), seeds.loss, device)
        self._step = build_step(config, self.model, self.loss, self._mask_generator)
        self.optimizers = build_optimizers(
            config.row,
            config.protocol,
            config.parameters,
            self.model,
            self.loss,
            capturable=device.type == "cuda",
        )
        self._class_numbers = number_classes(fold, len(pixels.class_names)).to(device)
        self._labels = pixels.labels
        train_indices, self._val_indices = choose_images(fold, pixels)
        self._sampler = self._build_sampler(config, pixels, train_indices)
        self._batches = BatchMaker(pixels, config.protocol, self.model.trunk.input_spec, device)
        self._val_labels = pixels.labels[self._val_indices].to(device)
        # From here on: what training changes.
        self.best_model: dict[str, Tensor] = {}
        self.report: FoldReport | None = None
        self.epoch = 0
        self.iteration = 0
        self._loss_sum = torch.zeros((), device=device)
        self._last_loss = math.nan
        self._training_seconds = 0.0
        self._validation_seconds = 0.0
        self._images = 0
        self._steps = build_steps(
            config, self._step, self.loss, self.optimizers, self._loss_sum, backend
        )
        self._untrained_map_at_r: float | None = None

    def _build_sampler(
        self, config: TrainingConfig, pixels: Pixels, candidates: Tensor
    ) -> ClassBalancedSampler:
        """Sample batches of the row's shape where it sets one, else of the protocol's."""
        shape = batch_shape(config)
        return ClassBalancedSampler(
            pixels.labels,
            candidates,
            classes_per_batch=shape.classes,
            images_per_class=shape.images_per_class,
            generator=self._batch_generator,
        )

    def train_epoch(self, epoch: int, pause: Callable[[], bool] = never_pause) -> bool:
        """Take the optimiser steps that this epoch still lacks.

        Args:
            epoch: number of this epoch, from 1, for messages.
            pause: called before every step; True leaves the remaining steps to another call.

        Returns:
            Whether the epoch is complete.

        Raises:
            DivergedError: the loss is not finite.
        """
        start = time.perf_counter()
        self.model.train()
        freeze_batch_norm(self.model)
        while self.iteration < self._protocol.iterations_per_epoch and not pause():
            indices = self.draw_batch()
            images, labels = self._batches.training_batch(indices, self._batch_generator)
            self._steps.take(images, self._class_numbers[labels], self._labels[indices])
            self._images += len(indices)
            self.iteration += 1
        loss_sum = self._loss_sum.item()  # waits for the device, whose work belongs to the time
        self._training_seconds += time.perf_counter() - start
        if self.iteration < self._protocol.iterations_per_epoch:
            return False
        self._last_loss = loss_sum / self.iteration
        self.iteration = 0
        self._loss_sum.zero_()
        if not math.isfinite(self._last_loss):
            raise DivergedError(
                f"loss of fold {self.position} is {self._last_loss} in epoch {epoch}"
            )
        return True

    def draw_batch(self) -> Tensor:
        """Return (B,) positions of the next batch."""
        return self._sampler.draw()

    def validate_untrained(self) -> None:
        """Score the validation classes before the first step, for patience alone.

        The model of epoch 0 is neither reported nor kept, however good it is.

        Raises:
            DivergedError: the embeddings are not finite.
        """
        if self._untrained_map_at_r is None:
            self._untrained_map_at_r = self._score(epoch=0).map_at_r

    def _score(self, epoch: int) -> RetrievalScores:
        start = time.perf_counter()
        embeddings = embed_images(self.model, self._batches, self._val_indices)
        if not bool(torch.isfinite(embeddings).all()):
            raise DivergedError(
                f"embeddings of fold {self.position} are not finite in epoch {epoch}"
            )
        coinciding = count_coinciding(embeddings)
        # An untrained network may still learn to tell images apart.
        if epoch > 0 and coinciding >= COLLAPSED_SHARE * len(embeddings):
            raise CollapsedError(
                f"embeddings of fold {self.position} collapsed in epoch {epoch}: those of "
                f"{coinciding} of {len(embeddings)} validation images coincide"
            )
        scores = retrieval_scores(embeddings, self._val_labels)
        self._validation_seconds += time.perf_counter() - start
        return scores

    def validate(self, epoch: int) -> None:
        """Score the validation classes, and keep the model if it is the best so far.

        Args:
            epoch: epochs trained so far.

        Raises:
            DivergedError: the embeddings are not finite.
            CollapsedError: nearly all of them coincide.
        """
        scores = self._score(epoch)
        before = self.report
        is_best = before is None or scores.map_at_r > before.best_map_at_r
        if is_best and self._keep_model:
            self.best_model = {
                name: value.detach().to("cpu", copy=True)
                for name, value in self.model.state_dict().items()
            }
        best = scores.map_at_r if is_best or before is None else before.best_map_at_r
        best_epoch = epoch if is_best or before is None else before.best_epoch
        self.report = FoldReport(
            fold=self.position,
            loss=self._last_loss,
            precision_at_1=scores.precision_at_1,
            r_precision=scores.r_precision,
            map_at_r=scores.map_at_r,
            best_map_at_r=best,
            best_epoch=best_epoch,
            stopped=is_patience_over(
                epoch, best_epoch, best, self._untrained_map_at_r, self._protocol.patience
            ),
            training_seconds=self._training_seconds,
            validation_seconds=self._validation_seconds,
            images_per_second=self._images / self._training_seconds,
            step_mode=self.step_mode,
            replayed=self._steps.replays,
            untrained_map_at_r=self._untrained_map_at_r,
        )

    @property
    def step_mode(self) -> str:
        """How steps get their gradient: "plain", "fast" or "low_memory"."""
        return self._step.mode

    @property
    def best_model_name(self) -> str:
        """A name of the best model that no other model of this training has."""
        return f"{self.position}-{0 if self.report is None else self.report.best_epoch}"

    @property
    def stopped(self) -> bool:
        """Whether the fold's patience has run out."""
        return self.report is not None and self.report.stopped

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "loss": self.loss.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "batch_generator": self._batch_generator.get_state(),
            "deck": self._sampler.deck,
            "mask_generator": self._mask_generator.get_state(),
            "mask_device": self._mask_generator.device.type,
            "report": None if self.report is None else dataclasses.asdict(self.report),
            "epoch": self.epoch,
            "iteration": self.iteration,
            "loss_sum": self._loss_sum,
            "last_loss": self._last_loss,
            "training_seconds": self._training_seconds,
            "validation_seconds": self._validation_seconds,
            "images": self._images,
            "untrained_map_at_r": self._untrained_map_at_r,
            "step_mode": self.step_mode,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken."""
        # A snapshot's tensors are parts of one that holds the complete state. An optimiser on the
        # CPU would keep that one, and a generator crashes at a part.
        state = map_tensors(dict(state), torch.clone)
        self.model.load_state_dict(state["model"])
        self.loss.load_state_dict(state["loss"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            load_optimizer(optimizer, saved)
        self._batch_generator.set_state(state["batch_generator"].cpu())
        self._sampler.deck = state["deck"].cpu()
        if state["mask_device"] == self._mask_generator.device.type:
            self._mask_generator.set_state(state["mask_generator"].cpu())
        else:  # the state means nothing to another kind of device, so begin a stream of its own
            mixed = np.random.SeedSequence((self._mask_seed, state["epoch"], state["iteration"]))
            self._mask_generator.manual_seed(int(mixed.generate_state(1)[0]))
        self.best_model = {}  # `Training` puts back what the checkpoint has
        self.report = None if state["report"] is None else FoldReport(**state["report"])
        self.epoch = state["epoch"]
        self.iteration = state["iteration"]
        self._loss_sum.copy_(state["loss_sum"])
        self._last_loss = state["last_loss"]
        self._training_seconds = state["training_seconds"]
        self._validation_seconds = state["validation_seconds"]
        self._images = state["images"]
        self._untrained_map_at_r = state["untrained_map_at_r"]
        self._step.mode = state["step_mode"]
