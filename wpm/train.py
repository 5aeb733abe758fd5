"""Train one configuration on its folds, in lockstep; knows nothing of Ray, disks or searches."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer, RMSprop

from wpm.batches import BatchMaker, ClassBalancedSampler
from wpm.config import Protocol, Row, TrainingConfig
from wpm.errors import UserError
from wpm.evaluate import embed_images
from wpm.losses import build_loss
from wpm.model import EmbeddingModel, build_model, freeze_batch_norm
from wpm.pixels import Pixels
from wpm.precision import float32_products
from wpm.retrieval import retrieval_scores
from wpm.splits import Fold, class_disjoint_splits
from wpm.steps import FAST, LOW_MEMORY, PLAIN, backward_fast, backward_low_memory

_RMSPROP_MOMENTUM = 0.9  # of the published protocol, for weights and loss parameters alike


class DivergedError(Exception):
    """A loss, or the embeddings after it, became NaN or infinite."""


def _never() -> bool:
    return False


@dataclass(frozen=True)
class FoldReport:
    """What one fold did up to a validation.

    Attributes:
        fold: its position among the protocol's folds.
        loss: mean training loss of the last epoch trained.
        precision_at_1: at the last validation.
        r_precision: at the last validation.
        map_at_r: at the last validation.
        best_map_at_r: best of all validations so far.
        best_epoch: epoch of that best.
        stopped: whether the fold's patience has run out.
        training_seconds: in total.
        validation_seconds: in total.
        images_per_second: of training, in total.
        step_mode: how steps get their gradient, see `wpm.steps`: "fast" until a step does not fit
            the GPU's memory, then "low_memory"; "plain" without within-pair mining.
    """

    fold: int
    loss: float
    precision_at_1: float
    r_precision: float
    map_at_r: float
    best_map_at_r: float
    best_epoch: int
    stopped: bool
    training_seconds: float
    validation_seconds: float
    images_per_second: float
    step_mode: str = PLAIN


@dataclass(frozen=True)
class Report:
    """What a validation of all folds found.

    Attributes:
        epoch: epochs trained.
        best_map_at_r: mean over the folds of each fold's best validation MAP@R so far.
        folds: one report a fold.
    """

    epoch: int
    best_map_at_r: float
    folds: tuple[FoldReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)


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
        self._optimizers = _build_optimizers(row, protocol, parameters, self.model, self._loss)
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

    def train_epoch(self, epoch: int, pause: Callable[[], bool] = _never) -> bool:
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


class Training:
    """One configuration on its folds, an epoch at a time."""

    def __init__(self, config: TrainingConfig, pixels: Pixels, device: torch.device) -> None:
        """Prepare all folds at epoch 0.

        Args:
            config: what to train.
            pixels: decoded trainval images, and no others.
            device: where to train.

        Raises:
            UserError: the configuration does not fit the images.
        """
        folds = _folds_of(pixels, config.protocol.folds)
        self.epoch = 0
        self._config = config
        self.folds = [FoldTraining(config, k, folds[k], pixels, device) for k in config.folds]

    @property
    def finished(self) -> bool:
        """Whether every fold's patience, or the number of epochs, has run out."""
        return self.epoch >= self._config.protocol.max_epochs or all(f.stopped for f in self.folds)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs that all folds have completed, and optimiser steps of the one under way."""
        steps = self._config.protocol.iterations_per_epoch
        ahead = [fold for fold in self.folds if fold.epoch > self.epoch]
        return self.epoch, len(ahead) * steps + sum(fold.iteration for fold in self.folds)

    def run_epoch(self, pause: Callable[[], bool] = _never) -> Report | None:
        """Train every fold that goes on for one epoch; validate when it is time.

        Args:
            pause: asked before every optimiser step whether to return in the middle of the epoch.
                The next call, here or after `load_state_dict`, goes on with that step.

        Returns:
            A report if this epoch ended with a validation.

        Raises:
            DivergedError: a fold's loss or embeddings are not finite.
        """
        protocol = self._config.protocol
        epoch = self.epoch + 1
        is_validation = epoch % protocol.validation_interval == 0 or epoch == protocol.max_epochs
        with float32_products(protocol.precision):
            for fold in self.folds:
                if fold.stopped or fold.epoch == epoch:
                    continue
                if not fold.train_epoch(epoch, pause):
                    return None
                if is_validation:
                    fold.validate(epoch)
                fold.epoch = epoch
        self.epoch = epoch
        if not is_validation:
            return None
        reports = tuple(fold.report for fold in self.folds if fold.report is not None)
        mean = sum(report.best_map_at_r for report in reports) / len(reports)
        return Report(epoch=epoch, best_map_at_r=mean, folds=reports)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on."""
        epoch, iteration = self.position
        folds = [fold.state_dict() for fold in self.folds]
        return {"epoch": epoch, "iteration": iteration, "folds": folds}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.epoch = state["epoch"]
        for fold, saved in zip(self.folds, state["folds"], strict=True):
            fold.load_state_dict({**_EARLIER, "epoch": self.epoch, **saved})


# What checkpoints of earlier versions lack: they were written between epochs only.
_EARLIER: Mapping[str, Any] = {"iteration": 0, "loss_sum": torch.zeros(())}


def _folds_of(pixels: Pixels, folds: int) -> tuple[Fold, ...]:
    """Split by the names of all classes, of which the cache holds the trainval half only."""
    splits = class_disjoint_splits(range(len(pixels.class_names)), folds)
    if set(pixels.labels.tolist()) & set(splits.test_classes):
        raise UserError(
            f"{pixels.folder} holds images of test classes; training must not see them: "
            "build the cache from trainval images"
        )
    return splits.folds


def _number_classes(fold: Fold, total: int) -> Tensor:
    """Return (total,) numbers 0 to C - 1 of the fold's training labels in order; -1 elsewhere.

    Losses with a proxy, weight or beta a class look it up by label.
    """
    numbers = torch.full((total,), -1)
    numbers[torch.tensor(sorted(fold.train_classes))] = torch.arange(len(fold.train_classes))
    return numbers


def _build_optimizers(
    row: Row,
    protocol: Protocol,
    parameters: Mapping[str, float],
    model: EmbeddingModel,
    loss: nn.Module,
) -> list[Optimizer]:
    """One optimiser for the weights, one for the loss's own parameters where it has any."""
    optimizers: list[Optimizer]
    if protocol.optimizer == "adam":
        optimizers = [
            Adam(model.parameters(), lr=protocol.learning_rate, weight_decay=protocol.weight_decay)
        ]
    elif protocol.optimizer == "rmsprop":
        optimizers = [
            RMSprop(
                model.parameters(),
                lr=protocol.learning_rate,
                weight_decay=protocol.weight_decay,
                momentum=_RMSPROP_MOMENTUM,
            )
        ]
    else:
        raise UserError(f"unknown optimizer {protocol.optimizer!r}; choose from adam, rmsprop")
    own = list(loss.parameters())
    if own:
        if "metric_loss_lr" not in parameters:
            raise UserError(f"row {row} needs a value for metric_loss_lr, the rate of its loss")
        optimizers.append(
            RMSprop(
                own,
                lr=parameters["metric_loss_lr"],
                weight_decay=parameters.get("metric_loss_weight_decay", protocol.loss_weight_decay),
                momentum=_RMSPROP_MOMENTUM,
            )
        )
    return optimizers
