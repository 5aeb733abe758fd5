"""Trials of a study with invented learning curves: nothing is trained."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from optuna.trial import TrialState as OptunaState

from wpm.records import TrainingFolder, TrialState, summarise
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study

EPOCHS = 9  # of the invented trainings: rungs at 1, 3 and 9


def report(epoch: int, value: float) -> dict[str, Any]:
    fold = {
        "best_map_at_r": value,
        "best_epoch": epoch,
        "training_seconds": 1.0,
        "validation_seconds": 0.5,
    }
    return {"epoch": epoch, "best_map_at_r": value, "folds": [fold]}


def curve(quality: float, epochs: int = EPOCHS) -> list[dict[str, Any]]:
    return [report(e, quality * e / EPOCHS) for e in range(1, epochs + 1)]


def run_trial(study: Study, quality: Callable[[int], float]) -> int | None:
    """Run one trial as a worker and its driver would; return its number."""
    asked = study.ask()
    if asked is None:
        return None
    number, payload = asked
    folder = TrainingFolder(Path(payload["folder"]))
    reports: list[dict[str, Any]] = []
    for step in curve(quality(number)):
        reports.append(step)
        folder.write_progress(reports, {"epoch": step["epoch"]})
        if study.report(number, reports):
            study.tell_stopped(number, reports)
            return number
    result = summarise(TrialState.COMPLETE, "", reports)
    folder.write_result(result)
    study.record_ended(number, result, reports)
    return number


@contextlib.contextmanager
def killed_launch(plan: StudyPlan) -> Iterator[Study]:
    """Yield a study whose launch then vanishes without a word."""
    study = Study(plan)
    yield study
    study._held.close()  # what the system does with a dead process's lock


def states(study: Study) -> list[OptunaState]:
    return [t.state for t in study._study.get_trials(deepcopy=False)]
