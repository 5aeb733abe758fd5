"""Print how many searches, trials and runs are needed to find a difference between two rows."""

import argparse
import math
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.comparison import compare_rows
from analysis.studies.planning import plan_differences
from analysis.studies.row_pairs import choose_pairs, choose_twins
from analysis.studies.row_record import add_score_flags
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import group_searches
from analysis.studies.selection import read_studies, select_studies
from analysis.text.planning import format_plans, format_plans_csv
from wpm.errors import UserError

DESCRIPTION = """Print how many searches, trials and final runs find a difference of some points.

The spreads between searches and between seeds come from the selected records, which must hold at
least two searches of each row, and two final runs in one of them. Shown are the searches that 4 of
5 comparisons need (t-test over searches), by the number of final runs of each search; and the
cheapest plan for searches with fewer trials, with the best validation MAP@R to expect of them.
docs/statistics.md says what is assumed. Without two rows, all rows with their +wpm twins are
planned for.
"""
EXAMPLES = """  python -m analysis.plan --dataset omniglot --points 1
  python -m analysis.plan contrastive contrastive+wpm --dataset omniglot --points 0.5
"""


def _print_plans(args: argparse.Namespace) -> None:
    if len(args.rows) not in (0, 2):
        raise UserError("give two rows, before the flags, or none for all twins")
    rows = group_searches(read_studies(select_studies(args), read_row))
    pairs = choose_pairs(rows, args.rows) if args.rows else choose_twins(rows)
    comparisons = [compare_rows(*pair, view=args.view, metric=args.metric) for pair in pairs]
    plans = plan_differences(comparisons, args.points / 100)
    print(format_plans_csv(plans) if args.format == "csv" else format_plans(plans, args.format))


def _points(text: str) -> float:
    try:
        points = float(text)
    except ValueError:
        points = math.nan
    if not 0 < points <= 100:
        raise argparse.ArgumentTypeError(
            f"{text} is not a difference in percentage points, above 0 and at most 100"
        )
    return points


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.plan", DESCRIPTION, EXAMPLES)
    parser.add_argument("rows", nargs="*", metavar="A B", help="two rows: B is compared with A")
    what = parser.add_argument_group("what to find")
    what.add_argument(
        "--points", type=_points, default=1.0, metavar="D",
        help="true difference of the test score to find, in percentage points [1]",
    )  # fmt: skip
    add_score_flags(what)
    return run_main(parser, _print_plans, arguments)


if __name__ == "__main__":
    sys.exit(main())
