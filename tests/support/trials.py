"""Trials of a study with invented learning curves: nothing is trained."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from wpm.jobs.work import Decision
from wpm.records import Outcome, TrainingFolder, TrialState
from wpm.reports import FoldReport, Report
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study

EPOCHS = 9  # of an invented training; its rungs are epochs 1, 3 and 9


def fold_report(fold: int = 0, **changes: Any) -> FoldReport:
    """Return the report of a fold that is all the same but for some values."""
    standard: dict[str, Any] = {
        "loss": 1.0, "precision_at_1": 0.5, "r_precision": 0.5, "map_at_r": 0.5,
        "best_map_at_r": 0.5, "best_epoch": 1, "stopped": False, "training_seconds": 1.0,
        "validation_seconds": 0.5, "images_per_second": 100.0,
    }  # fmt: skip
    return FoldReport(fold=fold, **{**standard, **changes})


def report(epoch: int, value: float) -> Report:
    return Report(epoch, value, (fold_report(best_map_at_r=value, best_epoch=epoch),))


def curve(quality: float, epochs: int = EPOCHS) -> list[Report]:
    return [report(e, quality * e / EPOCHS) for e in range(1, epochs + 1)]


def outcome(
    score: float | None, state: TrialState = TrialState.COMPLETE, **changes: Any
) -> Outcome:
    """Return how a training of one fold ended."""
    standard: dict[str, Any] = {
        "reason": "", "epochs": 9, "fold_scores": () if score is None else (score,),
        "training_seconds": 9.0, "validation_seconds": 4.5, "ended": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    return Outcome(state=state, score=score, **{**standard, **changes})


def run_trial(study: Study, quality: Callable[[int], float]) -> int | None:
    """Run one trial as a worker and its driver do; return its number."""
    asked = study.ask()
    if asked is None:
        return None
    number, payload = asked
    folder = TrainingFolder(Path(payload["folder"]))
    reports: list[Report] = []
    for step in curve(quality(number)):
        reports.append(step)
        folder.write_progress(reports, {"epoch": step.epoch})
        if study.report(number, reports) is Decision.STOP:
            study.record_stopped(number, reports)
            return number
    result = Outcome.from_reports(TrialState.COMPLETE, reports)
    folder.write_result(result)
    study.record_ended(number, result, reports)
    return number


@contextlib.contextmanager
def killed_launch(plan: StudyPlan) -> Iterator[Study]:
    """Yield a study whose launch is then killed."""
    study = Study(plan)
    yield study
    study._stack.close()  # The system releases the lock of a dead process.


def stored_trials(plan: StudyPlan) -> list[FrozenTrial]:
    """Return a study's trials as Optuna alone reads them from the study's file."""
    storage = JournalStorage(JournalFileBackend(str(plan.place.journal)))
    return optuna.load_study(study_name=plan.place.name, storage=storage).trials


def states(study: Study) -> list[OptunaState]:
    return [trial.state for trial in stored_trials(study.plan)]
