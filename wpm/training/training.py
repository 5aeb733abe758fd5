"""Train one configuration on several folds in lockstep, an epoch at a time.

In lockstep, because a search compares configurations by the mean over their folds, early in
training too. A protocol may let some folds train to their end first: then a configuration that is
stopped early has cost no epoch of the others, and is compared by the same folds as all are.
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
from wpm.training.stages import Stages
from wpm.training.steps import find_backend


class Training:
    """One configuration and the training of each of its folds.

    Attributes:
        step: completed epochs of all folds that train now, counted as `Report.step` is.
        folds: the folds that have begun, in the order of the configuration.
    """

    def __init__(
        self,
        config: TrainingConfig,
        pixels: Pixels,
        device: torch.device,
        *,
        keep_models: bool = True,
    ) -> None:
        """Prepare the folds that train first at epoch 0.

        Args:
            config: what to train.
            pixels: decoded trainval images, and no test images.
            device: where to train.
            keep_models: whether folds keep their best models; trials of a search need none.

        Raises:
            UserError: the configuration does not fit the images.
        """
        self.step = 0
        self.folds: list[FoldTraining] = []
        self._config, self._stages = config, Stages.of(config)
        self._pixels, self._device, self._keep_models = pixels, device, keep_models
        self._splits = _folds_of(pixels, config.protocol.folds)
        self._backend = find_backend(device)  # one for all folds, whose graphs share memory
        self._begin_folds()

    def _begin_folds(self) -> None:
        """Prepare the folds whose turn it is: until then they would only take memory."""
        groups = self._stages.groups[: self.group + 1]
        due = [position for group in groups for position in group]
        for k in due[len(self.folds) :]:
            fold = FoldTraining(
                self._config,
                k,
                self._splits[k],
                self._pixels,
                self._device,
                self._backend,
                keep_model=self._keep_models,
            )
            self.folds.append(fold)

    @property
    def group(self) -> int:
        """Number of the group of folds that trains now, from 0; see `Stages`."""
        return self._stages.group_after(self.step)

    @property
    def epoch(self) -> int:
        """Epochs that all folds which train now have completed."""
        return self.step - self._stages.begin(self.group)

    @property
    def _training_folds(self) -> list[FoldTraining]:
        """The folds that train now; none while they are still to be prepared."""
        positions = self._stages.groups[self.group]
        return [fold for fold in self.folds if fold.position in positions]

    @property
    def finished(self) -> bool:
        """Whether no fold trains on: the epochs, or every fold's patience, have run out."""
        if len(self.folds) < len(self._config.folds):
            return False
        is_over = self.epoch >= self._config.protocol.max_epochs
        return is_over or all(fold.stopped for fold in self._training_folds)

    @property
    def position(self) -> tuple[int, int]:
        """The step, and optimiser steps since."""
        steps = self._config.protocol.iterations_per_epoch
        folds = self._training_folds
        ahead = [fold for fold in folds if fold.epoch > self.epoch]
        return self.step, len(ahead) * steps + sum(fold.iteration for fold in folds)

    def run_epoch(self, pause: Callable[[], bool] = never_pause) -> Report | None:
        """Train every fold that has patience left for one epoch, and validate when it is due.

        Before its first epoch a fold validates the untrained model, if the protocol says so. Folds
        that wait for others begin once the epochs, or the patience, of those have run out.

        Args:
            pause: called before every optimiser step; True returns in the middle of the epoch.
                The next call, here or after `load_state_dict`, resumes with that step.

        Returns:
            A report if this epoch ended with a validation; else None.

        Raises:
            DivergedError: a fold's loss or embeddings are not finite.
        """
        protocol = self._config.protocol
        self._begin_folds()
        epoch = self.epoch + 1
        is_validation = epoch % protocol.validation_interval == 0 or epoch == protocol.max_epochs
        with float32_products(protocol.precision):
            for fold in self._training_folds:
                if fold.stopped or fold.epoch == epoch:
                    continue
                if epoch == 1 and protocol.validate_untrained:
                    fold.validate_untrained()
                if not fold.train_epoch(epoch, pause):
                    return None
                if is_validation:
                    fold.validate(epoch)
                fold.epoch = epoch
        group, has_patience = self.group, not all(fold.stopped for fold in self._training_folds)
        self.step += 1
        if not is_validation:
            return None
        reports = tuple(fold.report for fold in self.folds if fold.report is not None)
        mean = sum(report.best_map_at_r for report in reports) / len(reports)
        report = Report(epoch=epoch, best_map_at_r=mean, folds=reports, step=self.step)
        if group < len(self._stages.groups) - 1 and not has_patience:
            self.step = self._stages.begin(group + 1)
        return report

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next epoch depends on, and the best models under "models".

        The tensors change with the next step, but for those of the models: what a name stands for
        there never changes.
        """
        step, iteration = self.position
        folds = [fold.state_dict() for fold in self.folds]
        models = {fold.best_model_name: fold.best_model for fold in self.folds if fold.best_model}
        return {
            "epoch": self.epoch,
            "step": step,
            "iteration": iteration,
            "folds": folds,
            "models": models,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume where `state_dict` was taken."""
        self.step = state.get("step", state["epoch"])  # checkpoints of before have no step
        models = state["models"]
        if self.epoch > 0 or len(state["folds"]) > len(self.folds):
            self._begin_folds()
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
