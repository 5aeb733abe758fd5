"""Find the final runs of a study's best configuration that were tested, and export their models."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analysis.studies.selection import report_problems, require_study
from wpm.errors import UserError
from wpm.protocols import protocol_from_json
from wpm.records import (
    FinalRecord,
    ScoredRun,
    StudyPlace,
    TrainingFolder,
    best_tested,
    chosen_order,
    read_finals,
)
from wpm.records.exports import ExportedModel, write_export


@dataclass(frozen=True)
class BestRun:
    """A tested final run of a study's best configuration.

    Attributes:
        folder: the folder of the run.
        trial: number of the trial that the configuration comes from; None if it is a published one.
        scores: the run's test scores.
    """

    folder: Path
    trial: int | None
    scores: ScoredRun


def find_best_runs(place: StudyPlace) -> Sequence[BestRun]:
    """Return the tested runs of a study's best configuration, in the order of their seeds.

    Damaged records are named on stderr.
    """
    finals, problems = read_finals(place)
    report_problems(problems)
    best = best_tested(finals)
    if best is None:
        return []
    return [
        BestRun(best.folder / f"seed-{run.seed}", best.chosen.trial, run) for run in best.tested
    ]


def choose_search(places: Sequence[StudyPlace]) -> StudyPlace:
    """Return the search of a row whose tested configuration is the best in validation.

    Damaged records, and the choice if there is one, are named on stderr.

    Args:
        places: the searches of one row, at least one.
    """
    if len(places) == 1:
        return places[0]
    found: list[tuple[FinalRecord, StudyPlace]] = []
    for place in places:
        finals, problems = read_finals(place)
        report_problems(problems)
        best = best_tested(finals)
        if best is not None:
            found.append((best, place))
    if not found:
        return places[0]
    best, place = min(found, key=lambda pair: (chosen_order(pair[0]), pair[1].search))
    report_problems(
        [
            f"{place.row} was searched {len(places)} times; taken is search {place.search}, the "
            f"best in validation of {len(found)} with tested runs ({best.chosen}); --search takes "
            "another"
        ]
    )
    return place


def export_run(place: StudyPlace, number: int, out: Path) -> list[Path]:
    """Copy the fold models of a run out of the records.

    Args:
        number: position of the run, from 1, among the tested runs of the best configuration.
        out: folder to write; it must not exist, or be empty.

    Returns:
        The safetensors files.

    Raises:
        UserError: there is no such run, or the folder is in use.
    """
    if not place.row.is_trained:
        raise UserError(f"study {place.name} trains no model: there is nothing to export")
    runs = find_best_runs(place)
    if number > len(runs):
        raise UserError(
            f"study {place.name} has {len(runs)} tested runs, not {number}; make more with "
            "python launch.py --best-only"
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give --out another folder")
    run = runs[number - 1]
    folds: int = require_study(place)["identity"]["protocol"]["folds"]
    # Read all models before the first is written: if one is missing, nothing is left behind.
    models = [_read_model(place, run, fold) for fold in range(folds)]
    files = [out / f"fold-{fold}.safetensors" for fold in range(folds)]
    for file, (model, weights) in zip(files, models, strict=True):
        write_export(file, model, weights)
    return files


def _read_model(place: StudyPlace, run: BestRun, fold: int) -> tuple[ExportedModel, bytes]:
    source = _find_model(run.folder, fold)
    training = TrainingFolder(source.parent)
    weights = training.read_model(source.name)
    identity = training.read_identity()
    model = ExportedModel(
        dataset=place.dataset,
        row=str(place.row),
        fold=fold,
        seed=run.scores.seed,
        channels=run.scores.channels,
        protocol=protocol_from_json(require_study(place)["identity"]["protocol"]),
        parameters=identity["parameters"],
        test_scores={
            "separated": run.scores.separated,
            "concatenated": run.scores.concatenated,
        },
        provenance=identity["provenance"],
    )
    return model, weights


def _find_model(folder: Path, fold: int) -> Path:
    for path in (folder / f"fold-{fold}").glob("*.safetensors"):
        return path
    raise UserError(
        f"{folder}/fold-{fold}: its model is missing; restore it from a backup, or move {folder} "
        "away and give python launch.py --best-only again"
    )
