"""Compare two rows: their final runs, seed by seed, and the course of their searches."""

import argparse
import sys
from collections.abc import Sequence

from analysis.comparison import Comparison, compare_rows, correct_comparisons
from analysis.comparison_text import format_comparisons, format_curves_csv, format_pairs_csv
from analysis.options import build_parser, read_studies, report_problems, run_main, select_studies
from analysis.rows import RowRecord, add_score_flags, read_row
from wpm.config import WPM_SUFFIX
from wpm.errors import UserError
from wpm.records import StudyPlace

DESCRIPTION = """Compare two rows, such as a loss and its twin with within-pair mining.

Final runs: difference of the test scores, second row minus first, in percentage points; its 95%
interval (Student t) and two-sided p-values of the paired t-test and of the exact sign-flip test.
Runs are paired by seed; the folds of a run make one score. Several pairs: p-values are corrected
together (Holm). Searches: best validation MAP@R as trials and device-hours went by, and the best to
expect of fewer trials in random order [95% bootstrap interval]. docs/statistics.md says more.

Searches must have had the same budget, protocol and images; else they are refused, or flagged with
--allow-unequal. Rows are ROW, DATASET/ROW or DATASET/PROTOCOL/ROW, and come before the flags.
"""
EXAMPLES = """  python -m analysis.compare contrastive contrastive+wpm --dataset omniglot
  python -m analysis.compare --all-twins --dataset omniglot --format markdown
  python -m analysis.compare omniglot/triplet omniglot/margin --view separated
  python -m analysis.compare --all-twins --format csv --curves > curves.csv
"""

_Pair = tuple[RowRecord, RowRecord]


def choose_pairs(rows: Sequence[RowRecord], names: Sequence[str]) -> list[_Pair]:
    """Return the pairs of rows that two names mean, one a data set and protocol.

    Args:
        rows: to choose from.
        names: ROW, DATASET/ROW or DATASET/PROTOCOL/ROW, twice.

    Raises:
        UserError: a name means no row, or there is no data set with both.
    """
    firsts, seconds = ([row for row in rows if _matches(row.place, name)] for name in names)
    for name, found in zip(names, (firsts, seconds), strict=True):
        if not found:
            there = ", ".join(row.place.name for row in rows)
            raise UserError(f"no row {name} among the selected studies (there are: {there})")
    pairs = [
        (a, b) for a in firsts for b in seconds if a.place.folder.parent == b.place.folder.parent
    ]
    if not pairs and len(firsts) == len(seconds) == 1:  # two protocols, each given by name
        pairs = [(firsts[0], seconds[0])]
    pairs = [(a, b) for a, b in pairs if a.place != b.place and a.place.dataset == b.place.dataset]
    if not pairs:
        raise UserError(
            f"{names[0]} and {names[1]} are no two rows of one data set and protocol: "
            "scores on different test images do not compare"
        )
    return pairs


def _matches(place: StudyPlace, name: str) -> bool:
    *where, row = name.split("/")
    parts = {0: [], 1: [place.dataset], 2: [place.dataset, place.protocol]}
    return row == place.row and parts.get(len(where)) == where


def choose_twins(rows: Sequence[RowRecord]) -> list[_Pair]:
    """Return every plain row with its `+wpm` twin.

    Raises:
        UserError: there is no such pair.
    """
    by_place = {row.place.folder: row for row in rows}
    twins = [
        (row, by_place[mined])
        for row in rows
        if (mined := row.place.folder.with_name(row.place.row + WPM_SUFFIX)) in by_place
    ]
    if not twins:
        there = ", ".join(row.place.name for row in rows)
        raise UserError(f"no row has its {WPM_SUFFIX} twin among the selected studies ({there})")
    return twins


def drop_unequal(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Leave out comparisons that are not fair, each named on stderr.

    Raises:
        UserError: none is left.
    """
    refused = [
        f"{comparison.name}: {'; '.join(comparison.unequal)}"
        for comparison in comparisons
        if comparison.unequal
    ]
    if len(refused) == len(comparisons):
        raise UserError(f"{refused[0]}; --allow-unequal compares and flags them")
    report_problems([f"left out without --allow-unequal: {line}" for line in refused])
    return [comparison for comparison in comparisons if not comparison.unequal]


def _print_comparisons(args: argparse.Namespace) -> None:
    if args.all_twins == bool(args.rows) or len(args.rows) not in (0, 2):
        raise UserError("give two rows, before the flags, or --all-twins")
    if args.curves and args.format != "csv":
        raise UserError("--curves is for --format csv; text and markdown show the searches anyway")
    places = select_studies(args)
    rows = read_studies(places, read_row)
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
    """Run the script; return the exit code."""
    parser = build_parser("analysis.compare", DESCRIPTION, EXAMPLES)
    parser.add_argument("rows", nargs="*", metavar="A B", help="two rows: B is compared with A")
    what = parser.add_argument_group("what to compare")
    what.add_argument(
        "--all-twins", action="store_true", help="every row that has a +wpm twin with that twin"
    )
    add_score_flags(what)
    what.add_argument(
        "--allow-unequal", action="store_true", help="compare and flag unequal searches as well"
    )
    what.add_argument(
        "--curves", action="store_true", help="in CSV the course of the searches, a line a trial"
    )
    return run_main(parser, _print_comparisons, arguments)


if __name__ == "__main__":
    sys.exit(main())
