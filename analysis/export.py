"""Copy the models of a final run out of the records, each with a small JSON file beside it."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.best_runs import choose_search, export_run
from analysis.studies.selection import select_studies
from wpm.cli.parser import any_path, at_least
from wpm.errors import UserError

DESCRIPTION = """Copy the models of a final run out of the records.

Writes for every fold a safetensors file with the weights, and a JSON file with what is needed to
use them: trunk, embedding size, how images are resized and cropped, test scores, and provenance.
wpm.model.load_exported(FOLDER) returns a callable from images to concatenated embeddings.
Of a row that was searched several times, the search whose tested configuration is the best in
validation is exported, unless --search names one.
"""
EXAMPLES = """  python -m analysis.export --dataset omniglot --row triplet+wpm --out exported
"""


def _export(args: argparse.Namespace) -> None:
    places = select_studies(args)
    if len({place.order[:-1] for place in places}) != 1:
        raise UserError(
            f"{len(places)} studies are selected ({', '.join(p.name for p in places[:4])}); choose "
            "one with --dataset, --row and --protocol"
        )
    place = choose_search(places)
    for file in export_run(place, args.run, args.out):
        print(file)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.export", DESCRIPTION, EXAMPLES)
    parser.add_argument("--run", type=at_least(1), default=1, help="number of the tested run [1]")
    parser.add_argument(
        "--out", type=any_path, required=True, metavar="DIR", help="folder to write"
    )
    return run_main(parser, _export, arguments)


if __name__ == "__main__":
    sys.exit(main())
