"""Stored searches with ranges, parameters and learning curves, as the search writes them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.trials import fold_report
from wpm.files import write_json
from wpm.procedure import PROCEDURE
from wpm.records import (
    Outcome,
    StudyPlace,
    TrainingFolder,
    TrialState,
    read_study,
    write_study,
)
from wpm.reports import Report
from wpm.rows import Row

RANGES: Mapping[str, Mapping[str, Any]] = {
    "margin": {"low": -0.2, "high": 1.8, "scale": "linear", "type": "float"},
    "lr": {"low": 1e-4, "high": 1e-1, "scale": "log", "type": "float"},
    "bins": {"low": 2, "high": 10, "scale": "linear", "type": "int"},
}
PROTOCOL = {
    "embedding_dim": 16, "folds": 2, "trunk": "convnet", "precision": "float32",
    "grace_epochs": 5, "reduction_factor": 3, "max_epochs": 20,
}  # fmt: skip
PROVENANCE = {
    "wpm": "0.1.0", "commit": "0123abc", "python": "3.11.7", "machine": "here", "cores": 2,
    "libraries": {"torch": "2.14.1", "optuna": "5.0.0"}, "started": "2026-01-02T03:04:05+00:00",
}  # fmt: skip


def draw_parameters(
    count: int, ranges: Mapping[str, Mapping[str, Any]] = RANGES, seed: int = 0
) -> list[dict[str, float]]:
    """Return random parameters, uniform on the searched scales."""
    rng = np.random.default_rng(seed)

    def draw(bounds: Mapping[str, Any]) -> float:
        low, high = bounds["low"], bounds["high"]
        if bounds["scale"] == "log":
            return float(np.exp(rng.uniform(np.log(low), np.log(high))))
        if bounds["type"] == "int":
            return int(rng.integers(low, high + 1))
        return float(rng.uniform(low, high))

    return [{name: draw(bounds) for name, bounds in ranges.items()} for _ in range(count)]


def write_course(
    place: StudyPlace,
    number: int,
    parameters: Mapping[str, float],
    score: float | None,
    state: TrialState | None = TrialState.COMPLETE,
    *,
    epochs: int = 20,
    reason: str = "",
) -> None:
    """Write a trial that came to `score`, half of it at its first validation; no state: it runs."""
    folder = TrainingFolder(place.trial_folder(number))
    minute = f"2026-01-02T03:{number % 60:02d}"
    started = {**PROVENANCE, "started": f"{minute}:05+00:00"}
    folder.write_identity({"number": number, "parameters": dict(parameters), "provenance": started})
    reports = [] if score is None else [_report(e, epochs, score) for e in range(1, epochs + 1)]
    content = {
        "reports": [report.to_json() for report in reports],
        "epoch": len(reports),
        "checkpoint": None,
    }
    write_json(folder.folder / "reports.json", content)
    if state is not None:
        folder.write_result(
            Outcome(
                state=state,
                reason=reason,
                score=score,
                epochs=len(reports),
                fold_scores=() if score is None else (score - 0.01, score + 0.01),
                best_epochs=(len(reports), len(reports)),
                training_seconds=54.0,
                validation_seconds=6.0,
                ended=f"{minute}:59+00:00",
            )
        )


def _report(epoch: int, epochs: int, score: float) -> Report:
    reached = score * (0.5 + 0.5 * (epoch - 1) / max(1, epochs - 1))
    folds = (
        fold_report(
            k, best_map_at_r=reached, training_seconds=epoch, validation_seconds=0.1 * epoch
        )
        for k in range(2)
    )
    return Report(epoch, reached, tuple(folds))


def write_search_of_waiting_folds(root: Path, row: str = "contrastive") -> StudyPlace:
    """Write a study whose trials train fold 0 of 2 first.

    Trial 0 is complete, 1 was stopped on fold 0 alone, 2 on the other fold, 3 is running.
    """
    place = write_searched(root, row, trials=0, early_stopping=True)
    study = read_study(place)
    assert study is not None
    study["identity"]["protocol"]["first_folds"] = 1
    length = study["identity"]["protocol"]["max_epochs"]
    ends = {
        0: (2 * length, TrialState.COMPLETE), 1: (5, TrialState.PRUNED),
        2: (length + 3, TrialState.PRUNED), 3: (2, None),
    }  # fmt: skip
    write_study(place, {**study, "trials": len(ends)})
    for number, parameters in enumerate(draw_parameters(len(ends))):
        last, state = ends[number]
        folder = TrainingFolder(place.trial_folder(number))
        folder.write_identity({"number": number, "parameters": parameters})
        reports = [_staged_report(step, length, 0.2 + 0.1 * number) for step in range(1, last + 1)]
        folder.progress.write_reports(reports)
        if state is not None:
            reason = f"stopped at {reports[-1].describe_reached(2, 1)}"
            stopped = state is TrialState.PRUNED
            folder.write_result(Outcome.from_reports(state, reports, reason if stopped else ""))
    return place


def _staged_report(step: int, length: int, score: float) -> Report:
    folds = tuple(
        fold_report(fold, best_map_at_r=score, training_seconds=0.9, validation_seconds=0.1)
        for fold in range(1 if step <= length else 2)
    )
    return Report(step if step <= length else step - length, score, folds, step=step)


def write_searched(
    root: Path,
    row: str = "contrastive+wpm",
    trials: int = 24,
    score: Callable[[Mapping[str, float]], float] = lambda p: 0.5 + 0.2 * p["margin"],
    *,
    stopped: Sequence[int] = (),
    failed: Mapping[int, str] | None = None,
    dataset: str = "omniglot",
    protocol: str = "small",
    ranges: Mapping[str, Mapping[str, Any]] = RANGES,
    search: int = 1,
    **identity: Any,
) -> StudyPlace:
    """Write a study.

    Args:
        root: the run folder.
        row: the study's row.
        trials: how many trials to write.
        score: returns the score of a trial with these parameters.
        stopped: numbers of the trials that were stopped at epoch 5.
        failed: numbers of the trials that failed, with the reason of each.
        dataset: the study's data set.
        protocol: the name of its protocol.
        ranges: the parameters' ranges.
        search: which of the row's searches it is.
        identity: changes to the study's identity.
    """
    place = StudyPlace(root, dataset, protocol, Row.parse(row), search)
    standard = {
        "protocol": PROTOCOL, "images": {"pixels": "abc"}, "early_stopping": bool(stopped),
        "searched": ranges, "fixed": {}, "seed": 0, "weights": "random", "row": row,
        "procedure": PROCEDURE,
    }  # fmt: skip
    content = {"identity": {**standard, **identity}, "trials": trials, "provenance": PROVENANCE}
    write_study(place, content)
    failed = failed or {}
    for number, parameters in enumerate(draw_parameters(trials, ranges)):
        reached = score(parameters)
        if number in failed:
            write_course(place, number, parameters, None, TrialState.FAILED, reason=failed[number])
        elif number in stopped:
            write_course(place, number, parameters, reached, TrialState.PRUNED, epochs=5,
                         reason="stopped at epoch 5")  # fmt: skip
        else:
            write_course(place, number, parameters, reached)
    return place
