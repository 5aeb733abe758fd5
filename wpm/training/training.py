"""Train one configuration on several folds in lockstep, an epoch at a time.

In lockstep, because a search compares configurations by the mean over their folds, early in
training too.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch

from wpm.data.halves import folds_of_split
from wpm.data.parts import Part
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.precision import float32_products
from wpm.reports import Report
from wpm.splits import Fold, class_disjoint_splits
from wpm.training.config import TrainingConfig
from wpm.training.fold import FoldTraining, never_pause
from wpm.training.steps import find_backend


class Training:
    """One configuration and the training of each of its folds.

    Attributes:
        epoch: epochs that all folds have completed.
        folds: the folds, in the order of the configuration.
    """

    def __init__(
        self,
        config: TrainingConfig,
        pixels: Pixels,
        device: torch.device,
        *,
        keep_models: bool = True,
    ) -> None:
        """Prepare all folds at epoch 0.

        Args:
            config: what to train.
            pixels: decoded trainval images, and no test images.
            device: where to train.
            keep_models: whether folds keep their best models; trials of a search need none.

        Raises:
            UserError: the configuration does not fit the images.
        """
        folds = _folds_of(pixels, config.protocol.folds)
        self.epoch = 0
        self._config = config
        backend = find_backend(device)  # one for all folds, whose graphs share memory
        self.folds = [
            FoldTraining(config, k, folds[k], pixels, device, backend, keep_model=keep_models)
            for k in config.folds
        ]

    @property
    def finished(self) -> bool:
        """Whether no fold trains on: the epochs, or every fold's patience, have run out."""
        return self.epoch >= self._config.protocol.max_epochs or all(f.stopped for f in self.folds)

    @property
    def position(self) -> tuple[int, int]:
        """Epochs that all folds have completed, and optimiser steps of the current one."""
        steps = self._config.protocol.iterations_per_epoch
        ahead = [fold for fold in self.folds if fold.epoch > self.epoch]
        return self.epoch, len(ahead) * steps + sum(fold.iteration for fold in self.folds)

    def run_epoch(self, pause: Callable[[], bool] = never_pause) -> Report | None:
        """Train every fold that has patience left for one epoch, and validate when it is due.

        Before its first epoch a fold validates the untrained model, if the protocol says so.

        Args:
            pause: called before every optimiser step; True returns in the middle of the epoch.
                The next call, here or after `load_state_dict`, resumes with that step.

        Returns:
            A report if this epoch ended with a validation; else None.

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
                if epoch == 1 and protocol.validate_untrained:
                    fold.validate_untrained()
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
        """Return everything that the next epoch depends on, and the best models under "models".

        The tensors change with the next step, but for those of the models: what a name stands for
        there never changes.
        """
        epoch, iteration = self.position
        folds = [fold.state_dict() for fold in self.folds]
        models = {fold.best_model_name: fold.best_model for fold in self.folds if fold.best_model}
        return {"epoch": epoch, "iteration": iteration, "folds": folds, "models": models}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken."""
        self.epoch = state["epoch"]
        models = state["models"]
        for fold, saved in zip(self.folds, state["folds"], strict=True):
            fold.load_state_dict(saved)
            if fold.best_model_name in models:
                fold.best_model = dict(models[fold.best_model_name])


def _folds_of(pixels: Pixels, folds: int) -> tuple[Fold, ...]:
    """Split all classes of the data set, although the cache holds only those for trainval.

    A cache of a split that the user gives holds the folds itself, or they are made of its classes.
    """
    if pixels.split is not None:
        if pixels.split.part is not Part.TRAINVAL:
            raise _of_test(pixels)
        return folds_of_split(pixels.labels.tolist(), pixels.split.folds, folds)
    splits = class_disjoint_splits(range(len(pixels.class_names)), folds)
    if set(pixels.labels.tolist()) & set(splits.test_classes):
        raise _of_test(pixels)
    return splits.folds


def _of_test(pixels: Pixels) -> UserError:
    return UserError(
        f"{pixels.folder} holds images of test classes; training must not see them: "
        "build the cache from trainval images"
    )
