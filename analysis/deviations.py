"""Print what each study does otherwise than the published procedure."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.row_results import read_row
from analysis.studies.selection import read_studies, select_studies
from analysis.text.deviations import format_deviations

DESCRIPTION = """Print what each study does otherwise than the published procedure.

Only what the records of a study say is compared: data set and row, every value of its protocol,
weights, stopping across trials, sampler, searched ranges, numbers of trials and of final runs,
images that were left out. Values that a row does not use are left out: views of a row without a
miner, and all of training for the row pretrained. What the project does otherwise in every study is
in docs/protocol.md.
"""
EXAMPLES = """  python -m analysis.deviations --dataset cub200
  python -m analysis.deviations --dataset omniglot --row contrastive+wpm --format markdown
"""


def _print_deviations(args: argparse.Namespace) -> None:
    print(format_deviations(read_studies(select_studies(args), read_row), args.format))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.deviations", DESCRIPTION, EXAMPLES)
    return run_main(parser, _print_deviations, arguments)


if __name__ == "__main__":
    sys.exit(main())
