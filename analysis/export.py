"""Copy a final run's models out of the records: safetensors, and a small JSON beside each."""

import argparse
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.command_line import build_parser, run_main
from analysis.studies.selection import report_problems, require_study, select_studies
from wpm.cli.parser import at_least
from wpm.errors import UserError
from wpm.files import write_bytes, write_json
from wpm.records import COMPLETE, StudyPlace, TrainingFolder, best_tested, read_finals
from wpm.rows import Row

DESCRIPTION = """Copy the models of a final run out of the records.

For every fold a safetensors file with the weights, and a JSON file with all that is needed to use
them: trunk, embedding size, how images are resized and cropped, where they come from, test scores.
wpm.model.exported.load_exported(FOLDER) gives a callable from images to concatenated embeddings.
"""
EXAMPLES = """  python -m analysis.export --dataset omniglot --row triplet+wpm --out exported
"""


def export_run(place: StudyPlace, run: int, out: Path) -> list[Path]:
    """Copy the fold models of a run.

    Args:
        place: the study.
        run: number of the run, from 1, among those of the best configuration that were tested.
        out: folder to write; must not exist, or be empty.

    Returns:
        The safetensors files.

    Raises:
        UserError: no such run, or the folder is in use.
    """
    if not Row.parse(place.row).trained:
        raise UserError(f"study {place.name} trains no model: there is nothing to export")
    finals, problems = read_finals(place)
    report_problems(problems)
    best = best_tested(finals)
    tested = [] if best is None else best.with_state(COMPLETE)
    if best is None or run > len(tested):
        raise UserError(
            f"study {place.name} has {len(tested)} tested runs, not {run}; make more with "
            "python launch.py --best-only"
        )
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out} is not empty; give --out another folder")
    result = tested[run - 1]
    folder = best.folder / f"seed-{result['seed']}"
    protocol = require_study(place)["identity"]["protocol"]
    sources = [_find_model(folder, fold) for fold in range(protocol["folds"])]
    models: list[tuple[Path, bytes, dict[str, Any]]] = []  # all are read before one is written
    for fold, source in enumerate(sources):
        training = TrainingFolder(folder / f"fold-{fold}")
        weights = training.read_model(source.name)
        identity = training.read_identity()
        target = out / f"fold-{fold}.safetensors"
        content = {
            "dataset": place.dataset,
            "row": place.row,
            "fold": fold,
            "seed": result["seed"],
            "channels": result["channels"],
            "protocol": protocol,
            "parameters": identity["parameters"],
            "test_scores": {key: result[key] for key in ("separated", "concatenated")},
            "provenance": identity["provenance"],
            "sha256": hashlib.sha256(weights).hexdigest(),
        }
        models.append((target, weights, content))
    for target, weights, content in models:
        write_bytes(target, weights)
        write_json(target.with_suffix(".json"), content)
    return [target for target, _, _ in models]


def _find_model(folder: Path, fold: int) -> Path:
    for path in (folder / f"fold-{fold}").glob("*.safetensors"):
        return path
    raise UserError(
        f"{folder}/fold-{fold}: its model is missing; restore it from a backup, or move {folder} "
        "away and give python launch.py --best-only again"
    )


def _export(args: argparse.Namespace) -> None:
    places = select_studies(args)
    if len(places) != 1:
        raise UserError(
            f"{len(places)} studies are selected ({', '.join(p.name for p in places[:4])}); choose "
            "one with --dataset, --row and --protocol"
        )
    for file in export_run(places[0], args.run, args.out):
        print(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.export", DESCRIPTION, EXAMPLES)
    parser.add_argument("--run", type=at_least(1), default=1, help="which tested run [1]")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    return run_main(parser, _export, arguments)


if __name__ == "__main__":
    sys.exit(main())
