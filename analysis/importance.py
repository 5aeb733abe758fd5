"""Which searched parameters mattered, and whether the best trial lies at an edge of its ranges."""

import argparse
import sys
from collections.abc import Sequence

from analysis.command_line import build_parser, run_main
from analysis.studies.histories import read_search
from analysis.studies.selection import read_studies, report_problems, select_studies
from analysis.text.importance import RowImportance, find_importance, format_findings
from wpm.records import StudyPlace

DESCRIPTION = """Print which searched parameters mattered, and the boundary check.

Two estimates, each a share in percent: fANOVA (of the variance of scores that a parameter explains
by itself) and permutation (of what the prediction of held-out trials loses when its values are
shuffled). Where they differ, neither is to be relied on. They explain final scores; where
successive halving stopped trials, scores at the first rung, which all trials have.

Boundary check: a value of the best trial within 5% of an edge of its range, on the searched scale,
is flagged with the range to try next. docs/report.md says more.
"""
EXAMPLES = """  python -m analysis.importance --dataset omniglot --row contrastive+wpm
  python -m analysis.importance --dataset omniglot --format csv > importance.csv
"""


def _print_importance(args: argparse.Namespace) -> None:
    def read_finding(place: StudyPlace) -> tuple[RowImportance, list[str]]:
        search, problems = read_search(place)
        return find_importance(search, complete_only=args.complete_only), problems

    findings = read_studies(select_studies(args), read_finding)
    print(format_findings(findings, args.format))
    if args.format == "csv":  # a study without a searched parameter has no line
        lines = [f"{f.search.place.name}: {f.why_not}" for f in findings if not f.search.searched]
        report_problems(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.importance", DESCRIPTION, EXAMPLES)
    parser.add_argument(
        "--complete-only",
        action="store_true",
        help="explain final scores of complete trials, also where others were stopped",
    )
    return run_main(parser, _print_importance, arguments)


if __name__ == "__main__":
    sys.exit(main())
