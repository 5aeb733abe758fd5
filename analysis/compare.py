"""Compare two rows: their final runs, seed by seed, and the progress of their searches."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.comparison import compare_rows, correct_comparisons, drop_unequal
from analysis.studies.row_pairs import choose_pairs, choose_twins
from analysis.studies.row_record import add_score_flags
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import group_searches
from analysis.studies.selection import read_studies, select_studies
from analysis.text.comparison import format_comparisons, format_curves_csv, format_pairs_csv
from wpm.errors import UserError

DESCRIPTION = """Compare two rows, such as a loss and its twin with within-pair mining.

Final runs: the difference of the test scores, second row minus first, in percentage points, with
its 95% interval (Student t) and two-sided p-values of the paired t-test and the exact sign-flip
test. Runs are paired by search and seed; the folds of a run make one score. Where both rows have
several searches (launch.py --searches), each search counts once: interval and tests then hold
another search and another seed, and the variance is split into these two. With one search they
are about these configurations only. The p-values of several pairs of rows are corrected together
(Holm).
Searches: the best validation MAP@R after some trials and device-hours, and the best to expect from
fewer trials in random order [95% bootstrap interval]. docs/statistics.md says more.

Rows whose searches had another budget, protocol or images are left out; --allow-unequal compares
and flags them. Rows are ROW, DATASET/ROW or DATASET/PROTOCOL/ROW, and come before the flags.
"""
EXAMPLES = """  python -m analysis.compare contrastive contrastive+wpm --dataset omniglot
  python -m analysis.compare --all-twins --dataset omniglot --format markdown
  python -m analysis.compare omniglot/triplet omniglot/margin --view separated
  python -m analysis.compare --all-twins --format csv --curves > curves.csv
"""


def _print_comparisons(args: argparse.Namespace) -> None:
    if args.all_twins == bool(args.rows) or len(args.rows) not in (0, 2):
        raise UserError("give two rows, before the flags, or --all-twins")
    if args.curves and args.format != "csv":
        raise UserError("--curves is for --format csv; text and markdown show the searches anyway")
    rows = group_searches(read_studies(select_studies(args), read_row))
    pairs = choose_twins(rows) if args.all_twins else choose_pairs(rows, args.rows)
    comparisons = [compare_rows(*pair, view=args.view, metric=args.metric) for pair in pairs]
    if not args.allow_unequal:
        comparisons = drop_unequal(comparisons)
    comparisons = correct_comparisons(comparisons)
    if args.format == "csv":
        print((format_curves_csv if args.curves else format_pairs_csv)(comparisons))
    else:
        print(format_comparisons(comparisons, args.format))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.compare", DESCRIPTION, EXAMPLES)
    parser.add_argument("rows", nargs="*", metavar="A B", help="two rows: B is compared with A")
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "--all-twins",
        action="store_true",
        help="compare every row with its +wpm twin, if it has one",
    )
    add_score_flags(what)
    what.add_argument(
        "--allow-unequal", action="store_true", help="compare and flag unequal searches too"
    )
    what.add_argument(
        "--curves",
        action="store_true",
        help="CSV only: the progress of the searches, one line for each trial",
    )
    return run_main(parser, _print_comparisons, arguments)


if __name__ == "__main__":
    sys.exit(main())
