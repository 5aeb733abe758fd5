"""Print which parameters mattered, and whether the best trial lies at an edge of their ranges."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.histories import read_search
from analysis.studies.parameter_importance import RowImportance, find_importance
from analysis.studies.selection import read_studies, report_problems, select_studies
from analysis.text.importance import format_importance
from wpm.records import StudyPlace

DESCRIPTION = """Print which searched parameters mattered, and the boundary check.

Two estimates, each a share in percent. fANOVA: the share of the variance of scores that a parameter
explains by itself. Permutation: the share of what the prediction of held-out trials loses when the
values of the parameter are shuffled. If the two differ, rely on neither. They explain final scores;
if successive halving stopped trials, they explain scores at the first rung, which all trials have.

Boundary check: if a value of the best trial lies within 5% of an edge of its range, on the searched
scale, the table gives the range to try next. docs/report.md says more.
"""
EXAMPLES = """  python -m analysis.importance --dataset omniglot --row contrastive+wpm
  python -m analysis.importance --dataset omniglot --format csv > importance.csv
"""


def _print_importance(args: argparse.Namespace) -> None:
    def read(place: StudyPlace) -> tuple[RowImportance, list[str]]:
        search, problems = read_search(place)
        return find_importance(search, complete_only=args.complete_only), problems

    rows = read_studies(select_studies(args), read)
    print(format_importance(rows, args.format))
    if args.format == "csv":  # a study without a searched parameter has no line in the table
        report_problems(
            [f"{row.search.place.name}: {row.why_not}" for row in rows if not row.search.searched]
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return the exit code."""
    parser = build_parser("analysis.importance", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--complete-only",
        action="store_true",
        help="explain final scores of complete trials even if others were stopped early",
    )
    return run_main(parser, _print_importance, arguments)


if __name__ == "__main__":
    sys.exit(main())
