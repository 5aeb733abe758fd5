"""Train one configuration on its folds, in lockstep; knows nothing of Ray, disks or searches."""

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
from wpm.losses import build_loss
from wpm.model.embedding import build_model, freeze_batch_norm
from wpm.reports import FAST, LOW_MEMORY, PLAIN, FoldReport
from wpm.retrieval import retrieval_scores
from wpm.rows import Row
from wpm.splits import Fold
from wpm.training.config import TrainingConfig
from wpm.training.evaluate import embed_images
from wpm.training.mined_step import backward_fast, backward_low_memory
from wpm.training.optimizers import build_optimizers


class DivergedError(Exception):
    """A loss, or the embeddings after it, became NaN or infinite."""


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
    ) -> None:
        """Prepare epoch 0.

        Args:
            config: what to train.
            position: of the fold; with the seed it fixes weights, batches and masks.
            fold: classes to train and validate on.
            pixels: decoded trainval images.
            device: where to train.
        """
        protocol, parameters = config.protocol, config.parameters
        # Independent streams, so that a row and its +wpm twin see the same weights and batches,
        # and a fold does not depend on which others are trained beside it.
        weight_seed, batch_seed, mask_seed, loss_seed = (
            int(s) for s in np.random.SeedSequence((config.seed, position)).generate_state(4)
        )
        row = Row.parse(config.row)
        self.position = position
        self._protocol = protocol
        self._parameters = parameters
        self._mined = row.mined
        self.step_mode = FAST if row.mined else PLAIN
        self._device = device
        model = build_model(protocol, pixels.channels, weight_seed, config.weights)
        self.model = model.to(device)
        self.model.to(memory_format=torch.channels_last)
        # Losses draw proxies from the global generator: fork it so that nobody else's move.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(loss_seed)
            self._loss = build_loss(
                row,
                parameters,
                num_classes=len(fold.train_classes),
                embedding_dim=protocol.embedding_dim,
            ).to(device)
        self._class_numbers = _number_classes(fold, len(pixels.class_names)).to(device)
        self._optimizers = build_optimizers(row, protocol, parameters, self.model, self._loss)
        self._batch_generator = torch.Generator().manual_seed(batch_seed)
        self._mask_generator = torch.Generator().manual_seed(mask_seed)
        classes_per_batch = int(parameters.get("classes_per_batch", protocol.classes_per_batch))
        images_per_class = int(parameters.get("images_per_class", protocol.images_per_class))
        # Rows of one image a class have no pair to keep apart: where classes are few, theirs
        # repeat so that the batch keeps its size. Other rows take all classes there are.
        self._repeat_to = classes_per_batch if images_per_class == 1 else None
        self._sampler = ClassBalancedSampler(
            pixels.labels,
            pixels.indices_of(fold.train_classes),
            classes_per_batch=classes_per_batch,
            images_per_class=images_per_class,
            generator=self._batch_generator,
        )
        self._batches = BatchMaker(pixels, protocol, self.model.trunk.input_spec, device)
        self._val_indices = pixels.indices_of(fold.val_classes)
        self._val_labels = pixels.labels[self._val_indices].to(device)
        self.best_model: dict[str, Tensor] = {}
        self.report: FoldReport | None = None
        self.epoch = 0
        self.iteration = 0
        self._loss_sum = torch.zeros((), device=device)
        self._last_loss = math.nan
        self._training_seconds = 0.0
        self._images = 0

    def train_epoch(self, epoch: int, pause: Callable[[], bool] = never_pause) -> bool:
        """Take the optimiser steps that are left of `iterations_per_epoch`.

        Args:
            epoch: number of this epoch, from 1, for messages.
            pause: asked before every step whether to leave the rest for another call.

        Returns:
            Whether the epoch is complete.

        Raises:
            DivergedError: the loss is not finite.
        """
        start = time.perf_counter()
        self.model.train()
        freeze_batch_norm(self.model)
        while self.iteration < self._protocol.iterations_per_epoch and not pause():
            indices = self._draw_batch()
            images, labels = self._batches.training_batch(indices, self._batch_generator)
            loss = self._backward(images, self._class_numbers[labels])
            for optimizer in self._optimizers:
                optimizer.step()
            self._loss_sum += loss  # stays on the device: reading it would stall the queue
            self._images += len(indices)
            self.iteration += 1
        loss_sum = self._loss_sum.item()  # waits for the device, so it belongs to the time
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

    def _draw_batch(self) -> Tensor:
        """Return (B,) positions, drawn again and again where the batch has to keep its size."""
        indices = self._sampler.draw()
        while len(indices) < (self._repeat_to or 0):
            indices = torch.cat([indices, self._sampler.draw()])
        return indices[: self._repeat_to]

    def _backward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Replace all gradients by those of a batch; return its loss without a graph."""
        self._clear_gradients()
        if not self._mined:
            loss: Tensor = self._loss(self.model(images), classes)
            loss.backward()
            return loss.detach()
        masks = self.model.sample_masks(
            images,
            trunk_passes=self._protocol.trunk_passes,
            embedding_masks=self._protocol.embedding_masks,
            channel_dropout=self._parameters["channel_dropout"],
            embedding_dropout=self._parameters["embedding_dropout"],
            generator=self._mask_generator,
        )

        def loss_of(views: Tensor) -> Tensor:
            loss: Tensor = self._loss(views, classes)
            return loss

        if self.step_mode == FAST:
            try:
                return backward_fast(self.model, images, masks, loss_of)
            except torch.OutOfMemoryError:
                # From now on: the next batch is as large. The same batch again, below.
                self.step_mode = LOW_MEMORY
            self._clear_gradients()
            torch.cuda.empty_cache()  # trials beside this one can use what the attempt had taken
        return backward_low_memory(self.model, images, masks, loss_of)

    def _clear_gradients(self) -> None:
        for optimizer in self._optimizers:
            optimizer.zero_grad(set_to_none=True)

    def validate(self, epoch: int) -> None:
        """Score the validation classes, and keep the model if it is the best so far.

        Args:
            epoch: epochs trained.

        Raises:
            DivergedError: the embeddings are not finite.
        """
        start = time.perf_counter()
        embeddings = embed_images(self.model, self._batches, self._val_indices)
        if not bool(torch.isfinite(embeddings).all()):
            raise DivergedError(
                f"embeddings of fold {self.position} are not finite in epoch {epoch}"
            )
        scores = retrieval_scores(embeddings, self._val_labels)
        before = self.report
        is_best = before is None or scores.map_at_r > before.best_map_at_r
        if is_best:
            self.best_model = {
                name: value.detach().to("cpu", copy=True)
                for name, value in self.model.state_dict().items()
            }
        best_epoch = epoch if is_best or before is None else before.best_epoch
        seconds = time.perf_counter() - start
        self.report = FoldReport(
            fold=self.position,
            loss=self._last_loss,
            precision_at_1=scores.precision_at_1,
            r_precision=scores.r_precision,
            map_at_r=scores.map_at_r,
            best_map_at_r=scores.map_at_r if is_best or before is None else before.best_map_at_r,
            best_epoch=best_epoch,
            stopped=epoch - best_epoch > self._protocol.patience,
            training_seconds=self._training_seconds,
            validation_seconds=seconds + (before.validation_seconds if before else 0.0),
            images_per_second=self._images / self._training_seconds,
            step_mode=self.step_mode,
        )

    @property
    def stopped(self) -> bool:
        """Whether the fold's patience has run out."""
        return self.report is not None and self.report.stopped

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "loss": self._loss.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "batch_generator": self._batch_generator.get_state(),
            "mask_generator": self._mask_generator.get_state(),
            "best_model": self.best_model,
            "report": None if self.report is None else dataclasses.asdict(self.report),
            "epoch": self.epoch,
            "iteration": self.iteration,
            "loss_sum": self._loss_sum,
            "last_loss": self._last_loss,
            "training_seconds": self._training_seconds,
            "images": self._images,
            "step_mode": self.step_mode,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.model.load_state_dict(state["model"])
        self._loss.load_state_dict(state["loss"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self._batch_generator.set_state(state["batch_generator"].cpu())
        self._mask_generator.set_state(state["mask_generator"].cpu())
        self.best_model = state["best_model"]
        self.report = None if state["report"] is None else FoldReport(**state["report"])
        self.epoch = state["epoch"]
        self.iteration = state["iteration"]
        self._loss_sum.copy_(state["loss_sum"])
        self._last_loss = state["last_loss"]
        self._training_seconds = state["training_seconds"]
        self._images = state["images"]
        self.step_mode = state.get("step_mode", self.step_mode)  # not in earlier checkpoints


def _number_classes(fold: Fold, total: int) -> Tensor:
    """Return (total,) numbers 0 to C - 1 of the fold's training labels in order; -1 elsewhere.

    Losses with a proxy, weight or beta a class look it up by label.
    """
    numbers = torch.full((total,), -1)
    numbers[torch.tensor(sorted(fold.train_classes))] = torch.arange(len(fold.train_classes))
    return numbers
