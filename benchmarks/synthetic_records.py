"""Write many invented records of searches and final runs, to test the analysis on their number."""

import dataclasses
import math
import random
from pathlib import Path
from typing import Any

from wpm.files import write_json
from wpm.procedure import PROCEDURE
from wpm.protocol_files import find_protocol
from wpm.records import (
    Chosen,
    Outcome,
    ScoredRun,
    StudyPlace,
    TrainingFolder,
    TrialState,
    finals_folder,
    provenance,
    write_final,
    write_run_result,
    write_study,
)
from wpm.rows import Row
from wpm.spaces import SearchSpace, known_losses, load_space, nothing_to_mine
from wpm.training.config import TrainingConfig

_STATES = (
    TrialState.COMPLETE,
    TrialState.COMPLETE,
    TrialState.PRUNED,
    TrialState.PRUNED,
    TrialState.PRUNED,
    TrialState.FAILED,
)  # about as often as in a search


def write_studies(
    root: Path, studies: int, trials: int, *, runs: int = 0, with_reports: bool = False
) -> list[StudyPlace]:
    """Write studies of different rows; when no rows are left, start again with another data set.

    The same arguments write the same scores.

    Args:
        root: the run folder.
        studies: number of studies.
        trials: number of trials in each.
        runs: number of final runs of the best configuration.
        with_reports: write the history of every trial too; it is most of the size of a study.
    """
    rng = random.Random(0)
    rows = _known_rows()
    places = []
    for i in range(studies):
        place = StudyPlace(root, f"set{i // len(rows)}", "small", Row.parse(rows[i % len(rows)]))
        _write_study(place, trials, runs, with_reports, rng)
        places.append(place)
    return places


def _known_rows() -> list[str]:
    """Return every row that has a searched parameter; a twin follows its plain row."""
    rows = []
    for loss in known_losses():
        rows += [loss] if nothing_to_mine(loss) else [loss, f"{loss}+wpm"]
    return [row for row in rows if load_space(Row.parse(row)).searched]


def _write_study(
    place: StudyPlace, trials: int, runs: int, with_reports: bool, rng: random.Random
) -> None:
    space = load_space(place.row)
    protocol = find_protocol("small", "omniglot")
    origin = provenance()
    identity = {
        "row": str(place.row),
        "searched": {name: dataclasses.asdict(r) for name, r in space.searched.items()},
        "fixed": dict(space.fixed),
        "protocol": dataclasses.asdict(protocol),
        "images": {"pixels": f"{place.dataset}-28px"},
        "seed": 0,
        "early_stopping": True,
        "weights": "random",
        "procedure": PROCEDURE,
    }
    write_study(place, {"identity": identity, "trials": trials, "provenance": origin})
    best: tuple[float, int, dict[str, float]] = (-1.0, 0, {})
    for number in range(trials):
        parameters = _draw(space, rng)
        state = rng.choice(_STATES)
        score = rng.betavariate(4, 6)
        config = TrainingConfig(place.row, protocol, parameters, 0, tuple(range(4)))
        folder = TrainingFolder(place.trial_folder(number))
        folder.write_identity(
            {"number": number, "parameters": parameters, "config": config.to_json(),
             "provenance": origin}
        )  # fmt: skip
        epochs = 20 if state == TrialState.COMPLETE else 5
        if with_reports:
            reports = [_report(epoch, score, rng) for epoch in range(1, epochs + 1)]
            content = {"reports": reports, "epoch": epochs, "checkpoint": None}
            write_json(folder.folder / "reports.json", content)
        folder.write_result(_result(state, score, epochs, rng))
        if state == TrialState.COMPLETE and score > best[0]:
            best = (score, number, parameters)
    if runs and best[2]:
        _write_finals(place, best, runs, rng)


def _write_finals(
    place: StudyPlace, best: tuple[float, int, dict[str, float]], runs: int, rng: random.Random
) -> None:
    score, number, parameters = best
    folder = finals_folder(place, parameters)
    write_final(place, parameters, Chosen(trial=number, score=score))
    for seed in range(1000, 1000 + runs):
        for fold in range(4):
            training = TrainingFolder(folder / f"seed-{seed}" / f"fold-{fold}")
            training.write_identity({"number": fold, "parameters": parameters})
            training.write_result(_result(TrialState.COMPLETE, rng.gauss(score, 0.02), 20, rng))
        test = rng.gauss(score, 0.02)
        scores = {"precision_at_1": test + 0.3, "r_precision": test + 0.1, "map_at_r": test}
        write_run_result(folder / f"seed-{seed}", ScoredRun(seed, scores, scores, 1, 100, 10))


def _draw(space: SearchSpace, rng: random.Random) -> dict[str, float]:
    values = {}
    for name, searched in space.searched.items():
        if searched.scale == "log":
            values[name] = math.exp(rng.uniform(math.log(searched.low), math.log(searched.high)))
        else:
            values[name] = rng.uniform(searched.low, searched.high)
    return space.complete(values)


def _result(state: TrialState, score: float, epochs: int, rng: random.Random) -> Outcome:
    return Outcome(
        state=state,
        reason="" if state == TrialState.COMPLETE else f"{state} at epoch {epochs}",
        score=score,
        epochs=epochs,
        fold_scores=tuple(rng.gauss(score, 0.05) for _ in range(4)),
        best_epochs=(epochs,) * 4,
        training_seconds=1.2 * epochs,
        validation_seconds=0.1 * epochs,
        ended="2026-01-01T00:00:00+00:00",
    )


def _report(epoch: int, score: float, rng: random.Random) -> dict[str, Any]:
    reached = score * (1 - 0.8**epoch)
    fold = {
        "loss": 1 / epoch,
        "precision_at_1": min(1.0, reached + 0.3),
        "r_precision": min(1.0, reached + 0.1),
        "map_at_r": reached,
        "best_map_at_r": reached,
        "best_epoch": epoch,
        "stopped": False,
        "training_seconds": 0.3 * epoch,
        "validation_seconds": 0.025 * epoch,
        "images_per_second": rng.gauss(4000, 100),
    }
    folds = [{"fold": k, **fold} for k in range(4)]
    return {"epoch": epoch, "best_map_at_r": reached, "folds": folds}
