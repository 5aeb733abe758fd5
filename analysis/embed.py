"""Embed the test images with the best models; the report then shows what they retrieve."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.command_line import build_parser, run_main
from analysis.studies.best_runs import find_best_runs
from analysis.studies.embeddings import EmbeddedRun, folder_of, write_embedded
from analysis.studies.selection import report_problems, require_study, select_studies
from wpm.cli.parser import any_path
from wpm.cpus import count_cpus
from wpm.data.parts import SPLIT_FOLDERS
from wpm.errors import UserError
from wpm.protocols import protocol_from_json
from wpm.records import StudyPlace

DESCRIPTION = """Embed the test images with the models of each study's best configuration.

The models are those of the first tested run of the configuration that is best in validation.
Writes embeddings, labels and thumbnails to OUT/DATASET/PROTOCOL/ROW, of a further search to
ROW.search-2 and so on; python -m analysis.report --embeddings OUT shows them. The images must be
those that the run was tested on. Every time that test images are opened, a line is added to the
study's test_access.jsonl.
"""
EXAMPLES = """  python -m analysis.embed --dataset omniglot
  python -m analysis.embed --dataset folder --data-root DIR --row triplet+wpm --out embeddings
"""


def embed_study(
    place: StudyPlace,
    out: Path,
    data_root: Path | None,
    work_root: Path,
    split_file: Path | None = None,
) -> Path | None:
    """Embed the test images of a study.

    Args:
        out: folder of all embeddings.
        data_root: folder of the images; None for the default place.
        work_root: folder of decoded and unpacked images.
        split_file: the file of the study's own split; not needed for a split by folders.

    Returns:
        The folder that was written; None if the study has no model to embed with.

    Raises:
        UserError: the images are not those that the run was tested on, or a model is missing.
    """
    runs = find_best_runs(place) if place.row.is_trained else ()
    if not runs:
        return None
    # Imported here: the help text needs no torch.
    import torch

    from wpm.data.index import DataSource
    from wpm.jobs.held_out_embeddings import embed_test_images

    # By itself torch takes a thread per core, also where a control group allows fewer.
    torch.set_num_threads(min(torch.get_num_threads(), count_cpus()))
    run = runs[0]
    identity = require_study(place)["identity"]
    protocol = protocol_from_json(identity["protocol"])
    split = _find_split(place, identity.get("split"), split_file)
    source = DataSource(
        place.dataset,
        data_root,
        work_root,
        classes_by=identity["images"].get("classes_by"),
        split=split,
        same_classes=split is not None,  # whatever the study allowed; its record is compared
    )
    images = embed_test_images(place, source, protocol, run.folder, run.scores)
    target = folder_of(out, place)
    scores = run.scores
    embedded = EmbeddedRun(images, place.name, run.trial, scores.seed, scores.concatenated)
    write_embedded(target, embedded)
    return target


def _find_split(
    place: StudyPlace, split: Mapping[str, Any] | None, file: Path | None
) -> str | None:
    """Return the split of a study as `DataSource` takes it."""
    if split is None:
        return None
    if split["file"] == SPLIT_FOLDERS:
        return SPLIT_FOLDERS
    if file is None:
        raise UserError(f"study {place.name} has a split of its own; give --split {split['file']}")
    return str(file.resolve())


def _embed(args: argparse.Namespace) -> None:
    places = select_studies(args)
    data_root = args.data_root.resolve() if args.data_root else None
    written = 0
    for place in places:
        folder = embed_study(place, args.out, data_root, args.work_root.resolve(), args.split)
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
    """Run the command; return the exit code."""
    parser = build_parser("analysis.embed", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--data-root", type=any_path, metavar="DIR", help="folder of the images, as for launch.py"
    )
    parser.add_argument(
        "--split", type=any_path, metavar="FILE.csv", help="file of the split, as for launch.py"
    )
    parser.add_argument(
        "--work-root",
        type=any_path,
        default="data",
        help="folder of decoded and unpacked images [data]",
    )
    parser.add_argument(
        "--out", type=any_path, default="embeddings", help="folder to write [embeddings]"
    )
    return run_main(parser, _embed, arguments)


if __name__ == "__main__":
    sys.exit(main())
