"""Embed the test images with the best models, so that the report can show what they retrieve."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from analysis.command_line import build_parser, run_main
from analysis.studies.embeddings import folder_of, write_embedded
from analysis.studies.selection import report_problems, require_study, select_studies
from wpm.errors import UserError
from wpm.protocols import protocol_from_json
from wpm.records import COMPLETE, StudyPlace, best_tested, read_finals
from wpm.rows import Row

DESCRIPTION = """Embed the test images with the models of each study's best configuration.

Of the configurations with tested final runs the best in validation, its first run. Writes
embeddings, labels and thumbnails to OUT/DATASET/PROTOCOL/ROW, which python -m analysis.report
--embeddings OUT shows. As test images are opened, a line in the study's test_access.jsonl says so;
they must be those that the run was tested on.
"""
EXAMPLES = """  python -m analysis.embed --dataset omniglot
  python -m analysis.embed --dataset folder --data-root DIR --row triplet+wpm --out embeddings
"""


def choose_run(place: StudyPlace) -> tuple[Path, dict[str, Any], dict[str, Any]] | None:
    """Return a study's best tested run.

    Returns:
        Its folder, its result.json and where its configuration comes from; None without one.
    """
    finals, problems = read_finals(place)
    report_problems(problems)
    best = best_tested(finals)
    if best is None:
        return None
    result = best.with_state(COMPLETE)[0]
    return best.folder / f"seed-{result['seed']}", result, dict(best.content["chosen"])


def embed_study(
    place: StudyPlace, out: Path, data_root: Path | None, work_root: Path
) -> Path | None:
    """Embed the test images of a study.

    Args:
        place: the study.
        out: folder of all embeddings.
        data_root: the user's images, None for the default place.
        work_root: folder of decoded and unpacked images.

    Returns:
        The folder that was written; None where the study has no model to embed with.

    Raises:
        UserError: the images are not those that the run was tested on, or a model is missing.
    """
    run = choose_run(place) if Row.parse(place.row).trained else None
    if run is None:
        return None
    from wpm.data.index import DataSource  # here: --help needs no torch
    from wpm.jobs.held_out_embeddings import embed_test_images

    folder, result, chosen = run
    protocol = protocol_from_json(require_study(place)["identity"]["protocol"])
    source = DataSource(place.dataset, data_root, work_root)
    images = embed_test_images(place, source, protocol, folder, result)
    target = folder_of(out, place)
    about = {"study": place.name, "trial": chosen["trial"], "seed": result["seed"]}
    write_embedded(target, images, {**about, "test": result["concatenated"]})
    return target


def _embed(args: argparse.Namespace) -> None:
    places = select_studies(args)
    data_root = args.data_root.resolve() if args.data_root else None
    written = 0
    for place in places:
        folder = embed_study(place, args.out, data_root, args.work_root.resolve())
        if folder is None:
            report_problems([f"{place.name}: no tested final run with a model, nothing to embed"])
            continue
        print(folder)
        written += 1
    if not written:
        raise UserError(
            f"none of the {len(places)} selected studies has a tested final run with a model; make "
            "one with python launch.py --best-only"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.embed", DESCRIPTION, EXAMPLES)
    parser.add_argument("--data-root", type=Path, metavar="DIR", help="the images, as in launch.py")
    parser.add_argument(
        "--work-root", type=Path, default=Path("data"), help="decoded and unpacked images [data]"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("embeddings"), help="folder to write [embeddings]"
    )
    return run_main(parser, _embed, arguments)


if __name__ == "__main__":
    sys.exit(main())
