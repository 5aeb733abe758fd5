"""The job that trains a configuration; it can be resumed after any kill."""

import dataclasses
import logging
import platform
import traceback
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save

from wpm.data.pixels import Pixels
from wpm.errors import DamagedFileError, FormatError, StorageError, UserError, storage_error
from wpm.files import hold_lock
from wpm.jobs.failures import describe_failure, is_broken_gpu
from wpm.jobs.job import BrokenGpuError, InterruptedJobError, StepResult, choose_device
from wpm.jobs.saving import Saver
from wpm.records import Outcome, TrainingFolder, TrialState, model_file
from wpm.records.curves import CurveFile
from wpm.records.training_log import log_training
from wpm.reports import Report
from wpm.training.config import TrainingConfig
from wpm.training.fold import DivergedError
from wpm.training.stages import Stages
from wpm.training.training import Training

# A worker that outlived its launch ends within one step; its successor waits that long for it.
_ORPHAN_WAIT_S = 300.0
_log = logging.getLogger(__name__)


class TrainJob:
    """Trains one configuration in its folder, from its checkpoint on if there is one."""

    def __init__(
        self,
        folder: Path,
        pixel_cache: Path,
        config: TrainingConfig,
        export: bool,
        gpus: float = 0.0,
    ) -> None:
        """Lock the folder.

        Args:
            folder: records of the training; trial.json is there already.
            pixel_cache: folder of the decoded trainval images.
            config: what to train.
            export: whether to keep the best models' weights.
            gpus: GPUs, or the share of one, that the work was given; 0 trains on the CPU.

        Raises:
            UserError: another process trains here, or something on disk is damaged.
        """
        # Checked first: the lock would create the folder on a node that does not see the disk.
        if not (folder / "trial.json").exists():
            raise UserError(
                f"{folder}: not visible on {platform.node()}; mount the run folder there, at the "
                "same path"
            )
        self._folder = TrainingFolder(folder)
        self._pixel_cache, self._config, self._export = pixel_cache, config, export
        self._gpus = gpus
        self._stages = Stages.of(config)
        self._training: Training | None = None
        self._saver: Saver | None = None
        self._reports: tuple[Report, ...] = ()
        self._interrupted = False
        self._can_continue = False  # between two steps, and not after an error
        self._stack = ExitStack()
        self._stack.enter_context(
            hold_lock(folder / "lock", wait_s=_ORPHAN_WAIT_S, what=f"training {folder}")
        )
        self._stack.enter_context(log_training(folder))
        self._curves = CurveFile(folder)
        self._stack.callback(self._curves.close)

    def step(self) -> StepResult:
        """Train to the next validation; the first step after a resume only reports the history.

        The history is saved before it is reported. Checkpoints are written meanwhile, see
        `wpm.jobs.saving`, and when interrupted. None is begun after a validation before the next
        step: the driver may end the training there.
        Numbers that are not finite end it as DIVERGED, and an error in the training itself as
        FAILED, with the reason in its record.

        Raises:
            UserError: of the disk, not of the configuration: a file cannot be read or written, is
                damaged, or was written by another version. The training has not ended, and can
                be resumed once that is fixed.
            InterruptedJobError: interrupted; another job in the same folder resumes the training.
            BrokenGpuError: the GPU failed under this process; a job in another process resumes the
                training.
        """
        self._can_continue = False
        result, is_history = self._folder.finish_result(), False
        if result is None:
            try:
                is_history = self._training is None and self._start()
                result = None if is_history else self._advance()
            except (DamagedFileError, StorageError, FormatError, InterruptedJobError):
                raise  # of the disk or the machine, not of the configuration: another try may do
            except OSError as error:
                raise storage_error(Path(error.filename or self._folder.folder), error) from error
            except DivergedError as error:
                result = self._end(TrialState.DIVERGED, reason=str(error))
            except Exception as error:
                self._folder.write_log(traceback.format_exc())
                if is_broken_gpu(error):
                    raise BrokenGpuError(describe_failure(error)) from error
                result = self._end(TrialState.FAILED, reason=describe_failure(error))
        self._can_continue = result is None
        return StepResult(self._reports, result, is_history)

    def interrupt(self) -> None:
        """Save after the current optimiser step, or validation, and end the step."""
        self._interrupted = True

    def _start(self) -> bool:
        """Build the training and load its checkpoint; return whether to report the history."""
        device = choose_device(self._gpus)
        training = Training(
            self._config, Pixels(self._pixel_cache), device, keep_models=self._export
        )
        self._reports, state = self._folder.read_progress()
        self._curves.restart(self._reports)
        _log.info("%s on %s", "started" if state is None else "resumed", platform.node())
        if state is not None:
            self._load(training, state)
        spent = self._reports[-1].saving_seconds if self._reports else None
        self._saver = Saver(self._folder.progress, training, spent or 0.0)
        self._training = training
        # The last report comes with the result: the driver must not end a training for it.
        return bool(self._reports) and not self._stages.is_last(self._reports[-1])

    def _advance(self) -> Outcome | None:
        training, saver = self._training, self._saver
        assert training is not None
        assert saver is not None
        while not training.finished:
            if self._save_if_interrupted(saver):
                raise InterruptedJobError
            if saver.is_due():
                saver.save_aside()
            step, group = training.step, training.group
            report = training.run_epoch(lambda: self._interrupted or saver.is_due())
            is_new = report is not None and self._add(report, saver)
            if training.step > step:
                epoch = training.epoch if report is None else report.epoch
                self._log_epoch(epoch, report if is_new else None)
            if training.group > group:
                begin = ", ".join(map(str, self._stages.groups[training.group]))
                _log.info("the first folds have finished, these begin: %s", begin)
            if is_new and not training.finished:
                self._save_if_interrupted(saver)  # the machine may not last to the next step
                return None
        return self._end(TrialState.COMPLETE, models=self._keep_models(training))

    def _save_if_interrupted(self, saver: Saver) -> bool:
        if self._interrupted:
            saver.save_now()
        return self._interrupted

    def _add(self, report: Report, saver: Saver) -> bool:
        """Add a report to the history; return False if it is there, from before a kill.

        What was reported once stays: on a GPU the same steps may end in other last digits.
        """
        if self._reports and report.step <= self._reports[-1].step:
            return False
        report = dataclasses.replace(report, gpus=self._gpus, saving_seconds=saver.seconds)
        self._reports = (*self._reports, report)
        saver.save_reports(self._reports)
        return True

    def _load(self, training: Training, state: Mapping[str, Any]) -> None:
        try:
            training.load_state_dict(state)
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            writer = state.get("wpm", "another version")
            raise self._folder.progress.unusable(writer, error) from error

    def _keep_models(self, training: Training) -> dict[str, str]:
        """Write the best models if they are to be kept; return their checksums by file name."""
        if not self._export:
            return {}
        digests = {}
        for fold in training.folds:
            data = save({k: v.contiguous() for k, v in fold.best_model.items()})
            name = model_file(fold.position)
            digests[name] = self._folder.write_model(name, data)
        return digests

    def _log_epoch(self, epoch: int, report: Report | None) -> None:
        """Log an epoch, and draw it where it ended with a validation."""
        if report is None:
            _log.info("epoch %d: trained", epoch)
            return
        self._curves.add(self._reports[-1])
        trained = self._stages.groups[self._stages.group_of(report)]
        folds = ", ".join(
            f"fold {fold.fold} loss {fold.loss:.4g} MAP@R {fold.map_at_r:.4f}"
            + (" (patience over)" if fold.stopped else "")
            for fold in report.folds
            if fold.fold in trained
        )
        _log.info("epoch %d: best MAP@R %.4f; %s", epoch, report.best_map_at_r, folds)

    def _end(
        self, state: TrialState, reason: str = "", models: Mapping[str, str] | None = None
    ) -> Outcome:
        if self._saver is not None:
            self._saver.close()
        result = Outcome.from_reports(state, self._reports, reason, models)
        self._folder.write_result(result)
        level = logging.INFO if state is TrialState.COMPLETE else logging.ERROR
        _log.log(level, "%s %s", state, reason)
        return result

    def close(self) -> None:
        """Release the folder; save first what is not saved, unless the training has ended.

        It has not where the work is suspended, for a budget; it has where the driver stopped it.
        """
        with self._stack:
            if self._saver is None:
                return
            try:
                if self._can_continue and not self._folder.has_ended:
                    self._saver.save_now()
                self._saver.close()
                self._folder.finish_result()  # deletes what was written until the driver stopped it
            except StorageError as error:
                _log.warning("the last checkpoint counts: %s", error)
            self._can_continue = False
