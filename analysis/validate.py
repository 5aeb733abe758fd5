"""Print whether validation ranks configurations as the test does."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.row_record import add_score_flags
from analysis.studies.row_results import read_row
from analysis.studies.selection import read_studies, select_studies
from analysis.studies.validation import validate_rows
from analysis.text.validation import format_agreements_csv, format_points_csv, format_validations
from wpm.errors import UserError

DESCRIPTION = """Does validation rank configurations as the test does?

This needs final runs of several configurations: python launch.py --best-only --top 5 trains the
five best of every search. Each configuration is one point; its test score is the mean over its
runs. Two validation scores are compared with it: MAP@R in the search, by which the configuration
was chosen, and MAP@R of the models of the final runs. The table shows Spearman's and Pearson's
correlation with 95% intervals, for every row with at least three configurations, and for all rows
of a data set together. "lost by choosing" is the test score of the configuration that is best in
the test, minus that of the one that is best in validation. docs/statistics.md says more.
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
    """Run the command; return the exit code."""
    parser = build_parser("analysis.validate", DESCRIPTION, EXAMPLES)
    add_score_flags(parser)
    parser.add_argument(
        "--points",
        action="store_true",
        help="CSV only: print the configurations instead of the correlations",
    )
    return run_main(parser, _print_validations, arguments)


if __name__ == "__main__":
    sys.exit(main())
