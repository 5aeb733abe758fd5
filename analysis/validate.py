"""Does validation rank configurations as the test does?"""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.row_results import add_score_flags, read_row
from analysis.studies.selection import read_studies, select_studies
from analysis.studies.validation import validate_rows
from analysis.text.validation import format_agreements_csv, format_points_csv, format_validations
from wpm.errors import UserError

DESCRIPTION = """Does validation rank configurations as the test does?

Needs final runs of several configurations: python launch.py --best-only --top 5 trains the five
best of every search. A configuration is one point: its test score is the mean over its runs. Two
scores are laid beside it: validation MAP@R in the search, by which it was chosen, and that of the
final runs' own models. Spearman's and Pearson's correlation with 95% intervals, over the
configurations of every row that has at least three, and of all rows of a data set together. Lost by
choosing: how much worse in the test the configuration is that validation puts first than the one
that is best in the test. docs/statistics.md says what this can tell.
"""
EXAMPLES = """  python -m analysis.validate --dataset omniglot
  python -m analysis.validate --dataset omniglot --row triplet --view separated --format markdown
  python -m analysis.validate --format csv --points > configurations.csv
"""


def _print_validations(args: argparse.Namespace) -> None:
    if args.points and args.format != "csv":
        raise UserError("--points is for --format csv; text and markdown show them anyway")
    rows = read_studies(select_studies(args), read_row)
    validations = [v for v in validate_rows(rows, args.view, args.metric) if v.points]
    if not validations:
        raise UserError(
            "no tested final runs in the selected studies; make them with python launch.py "
            "--best-only --top 5"
        )
    if args.format == "csv":
        write = format_points_csv if args.points else format_agreements_csv
        print(write(validations, args.view, args.metric))
    else:
        print(format_validations(validations, args.view, args.metric, args.format))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.validate", DESCRIPTION, EXAMPLES)
    add_score_flags(parser)
    parser.add_argument(
        "--points", action="store_true", help="in CSV the configurations, not the correlations"
    )
    return run_main(parser, _print_validations, arguments)


if __name__ == "__main__":
    sys.exit(main())
