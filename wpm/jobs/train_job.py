"""Work that a worker does, a step at a time: train a configuration, resumable after any kill."""

import logging
import platform
import time
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save

from wpm.data.pixels import Pixels
from wpm.errors import DamagedFileError, FormatError, StorageError, UserError, storage_error
from wpm.files import hold_lock
from wpm.jobs.failures import describe_failure
from wpm.jobs.job import InterruptedJobError, StepResult, choose_device
from wpm.records import TrainingFolder, TrialState, model_file, provenance, summarise
from wpm.records.curves import CurveFile
from wpm.records.training_log import log_training
from wpm.training.config import TrainingConfig
from wpm.training.reports import Report
from wpm.training.training import Training

# A worker that outlived its launch ends within one step; its successor waits that long for it.
_ORPHAN_WAIT_S = 300.0
# Longer epochs are saved in their middle: a checkpoint of the published protocol has about 700 MB.
_UNSAVED_S = 600.0
_log = logging.getLogger(__name__)


class TrainJob:
    """Trains one configuration in its folder, and goes on from its checkpoint if there is one."""

    def __init__(
        self,
        folder: Path,
        pixels: Path,
        config: TrainingConfig,
        export: bool,
        gpus: float = 0.0,
    ) -> None:
        """Take possession of the folder.

        Args:
            folder: of the training; holds trial.json already.
            pixels: cache of trainval images.
            config: what to train.
            export: whether to keep the best models' weights.
            gpus: GPUs, or the share of one, that the work was given; for the record.

        Raises:
            UserError: another process trains here, or something on disk is damaged.
        """
        if not (folder / "trial.json").exists():  # else the lock's folder would be made here
            raise UserError(
                f"{folder}: not visible on {platform.node()}; mount the run folder there, at the "
                "same path"
            )
        self._folder = TrainingFolder(folder)
        self._pixels, self._config, self._export = pixels, config, export
        self._gpus = gpus
        self._training: Training | None = None
        self._reports: list[dict[str, Any]] = []
        self._saved_at = time.monotonic()
        self._saved_position: tuple[int, int] | None = None
        self._interrupted = False
        self._held = ExitStack()
        self._held.enter_context(
            hold_lock(folder / "lock", wait_s=_ORPHAN_WAIT_S, what=f"training {folder}")
        )
        self._held.enter_context(log_training(folder))
        self._curves = CurveFile(folder)
        self._held.callback(self._curves.close)

    def step(self) -> StepResult:
        """Train to the next validation; the first step after a resume only reports the history.

        A checkpoint is written after every epoch, in the middle of long ones, and when interrupted.
        What goes wrong ends the training as failed, by name.

        Raises:
            UserError: of the disk, not of the configuration: something on it cannot be read or
                written, is damaged, or was written by another version. The training has not
                ended, and goes on when that is mended.
            InterruptedJobError: interrupted; another job in the same folder goes on.
        """
        result: Mapping[str, Any] | None = self._folder.finish_result()
        if result is None:
            try:
                result = self._advance()
            except (DamagedFileError, StorageError, FormatError, InterruptedJobError):
                raise  # of the disk or the machine, not of the configuration: another try may do
            except OSError as error:
                raise storage_error(Path(error.filename or self._folder.folder), error) from error
            except Exception as error:
                self._folder.write_log(traceback.format_exc())
                result = self._end(TrialState.FAILED, reason=describe_failure(error))
        return StepResult(self._reports, result)

    def interrupt(self) -> None:
        """Save after the current optimiser step, or validation, and end the step."""
        self._interrupted = True

    def _advance(self) -> Mapping[str, Any] | None:
        if self._training is None:
            self._training = Training(self._config, Pixels(self._pixels), choose_device())
            self._reports, state = self._folder.read_progress()
            self._curves.restart(self._reports)
            _log.info("%s on %s", "started" if state is None else "goes on", platform.node())
            if state is not None:
                self._load(self._training, state)
                self._saved_position = self._training.position
                if self._reports and not self._training.finished:
                    return None
        training = self._training
        while not training.finished:
            if self._interrupted:  # and saved, in the last turn
                raise InterruptedJobError
            epoch = training.epoch
            report = training.run_epoch(self._must_save)
            if report is not None:
                self._reports = [*self._reports, {**report.to_json(), "gpus": self._gpus}]
            self._save(training)
            if training.epoch > epoch:
                self._tell(training.epoch, report)
            if report is not None and not training.finished:
                return None
        return self._end(TrialState.COMPLETE, reason="", **self._keep_models(training))

    def _load(self, training: Training, state: Mapping[str, Any]) -> None:
        try:
            training.load_state_dict(state)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            writer = state.get("wpm", "another version")
            raise self._folder.unusable_checkpoint(writer, error) from error

    def _keep_models(self, training: Training) -> dict[str, Any]:
        """Write the best models, if they are wanted; return what the result says of them."""
        if not self._export:
            return {}
        digests = {}
        for fold in training.folds:
            data = save({k: v.contiguous() for k, v in fold.best_model.items()})
            name = model_file(fold.position)
            digests[name] = self._folder.write_model(name, data)
        return {"models": digests}

    def _must_save(self) -> bool:
        return self._interrupted or time.monotonic() - self._saved_at > _UNSAVED_S

    def _save(self, training: Training) -> None:
        if training.position != self._saved_position:
            self._folder.write_progress(self._reports, training.state_dict())
            self._saved_position = training.position
        self._saved_at = time.monotonic()

    def _tell(self, epoch: int, report: Report | None) -> None:
        """Log an epoch, and draw it where it ended with a validation."""
        if report is None:
            _log.info("epoch %d: trained", epoch)
            return
        self._curves.add(self._reports[-1])
        folds = ", ".join(
            f"fold {fold.fold} loss {fold.loss:.4g} MAP@R {fold.map_at_r:.4f}"
            + (" (patience over)" if fold.stopped else "")
            for fold in report.folds
        )
        _log.info("epoch %d: best MAP@R %.4f; %s", epoch, report.best_map_at_r, folds)

    def _end(self, state: TrialState, reason: str, **more: Any) -> Mapping[str, Any]:
        result = {**summarise(state, reason, self._reports), **more}
        self._folder.write_result(result)
        _log.log(
            logging.ERROR if state == TrialState.FAILED else logging.INFO, "%s %s", state, reason
        )
        return result

    def close(self) -> None:
        """Let the folder go."""
        self._held.close()


def training_payload(
    folder: Path, pixels: Path, config: TrainingConfig, *, export: bool
) -> dict[str, Any]:
    """Describe a training in plain JSON types, for a worker anywhere."""
    return {
        "kind": "train",
        "folder": str(folder),
        "pixels": str(pixels),
        "config": config.to_json(),
        "export": export,
    }


def identify(number: int, config: TrainingConfig, **more: Any) -> dict[str, Any]:
    """Return the content of trial.json."""
    return {
        "number": number,
        "parameters": dict(config.parameters),
        "config": config.to_json(),
        "provenance": provenance(),
        **more,
    }
