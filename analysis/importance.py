"""Which searched parameters mattered, and whether the best trial lies at an edge of its ranges."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.boundary import BoundaryCheck, check_boundaries, describe_edges
from analysis.histories import Search, TrialHistory, read_search
from analysis.layout import NotedTable, format_csv, format_percent, format_points
from analysis.options import build_parser, read_studies, report_problems, run_main, select_studies
from analysis.parameter_importance import Importance, describe_agreement, measure_importance
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

_CSV_COLUMNS = ("dataset", "protocol", "row", "parameter", "target", "trials", "fanova",
                "permutation", "skill", "kendall", "best_trial", "best_value", "low", "high",
                "scale", "edge", "edge_distance", "next_low", "next_high", "next_scale",
                "why_not")  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """What is known of a study's parameters.

    Attributes:
        search: the study.
        importance: of its parameters, None if there are too few trials.
        why_not: why there is none.
        best: the best complete trial, None if there is none.
        checks: its parameters and the edges of their ranges, the nearest first.
    """

    search: Search
    importance: Importance | None
    why_not: str
    best: TrialHistory | None
    checks: Sequence[BoundaryCheck]


def find_importance(search: Search, *, complete_only: bool = False) -> Finding:
    """Weigh a study's parameters, and check its best trial against the edges of their ranges."""
    importance, why_not = measure_importance(search, complete_only=complete_only)
    best = search.best
    checks = check_boundaries(best.outcome.parameters, search.searched) if best else []
    return Finding(search, importance, why_not, best, checks)


def format_findings(findings: Sequence[Finding], style: str) -> str:
    """Lay findings out.

    Args:
        findings: one a study.
        style: one of `wpm.tables.FORMATS`; CSV makes one table, a line a parameter.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        rows = [row for finding in findings for row in _csv_rows(finding)]
        return format_csv(_CSV_COLUMNS, rows)
    return "\n\n".join(
        table.format(style)
        for finding in findings
        for table in (lay_out_importance(finding), lay_out_checks(finding))
    )


def lay_out_importance(finding: Finding) -> NotedTable:
    """Return the table of both estimates, or why there are none."""
    name, importance = finding.search.place.name, finding.importance
    columns = ["parameter", "fANOVA %", "permutation %", "differ by"]
    if importance is None:
        return NotedTable(f"{name}: importance", columns, [], empty=finding.why_not)
    drawn = f"{importance.trials} of " * (importance.trials < importance.available)
    heading = f"{name}: importance for the {importance.target} (n = {drawn}{importance.available})"
    rows = [
        [
            parameter,
            format_percent(share),
            format_percent(importance.permutation[parameter]),
            format_points(importance.permutation[parameter] - share),
        ]
        for parameter, share in importance.fanova.items()
    ]
    return NotedTable(heading, columns, rows, [describe_agreement(importance)])


def lay_out_checks(finding: Finding) -> NotedTable:
    """Return the table of the boundary check, or that there is nothing to check."""
    name, best = finding.search.place.name, finding.best
    columns = ["parameter", "value", "searched", "distance %", "edge", "try next"]
    if best is None:
        nothing = "no complete trial to check against the edges"
        return NotedTable(f"{name}: boundary check", columns, [], empty=nothing)
    score = format_percent(best.outcome.score)
    heading = f"{name}: boundary check of trial {best.outcome.number}, validation MAP@R {score} %"
    rows = [
        [
            check.distance.parameter,
            f"{check.value:.4g}",
            check.range_text,
            f"{100 * check.distance.share:.1f}",
            check.distance.side,
            check.next_range or "-",
        ]
        for check in finding.checks
    ]
    return NotedTable(heading, columns, rows, [describe_edges(finding.checks)])


def _csv_rows(finding: Finding) -> list[list[Any]]:
    place, importance = finding.search.place, finding.importance
    checks = {check.distance.parameter: check for check in finding.checks}
    rows = []
    for parameter, bounds in finding.search.searched.items():
        row: list[Any] = [place.dataset, place.protocol, place.row, parameter]
        row += (
            [
                importance.target, importance.trials, importance.fanova.get(parameter),
                importance.permutation.get(parameter), importance.skill, importance.kendall,
            ]
            if importance
            else [None] * 6
        )  # fmt: skip
        check = checks.get(parameter)
        row += [
            finding.best.outcome.number if finding.best else None, check.value if check else None,
            bounds["low"], bounds["high"], bounds["scale"],
        ]  # fmt: skip
        row += [check.distance.side, check.distance.share] if check else [None] * 2
        following = check.next_range if check else None
        row += [following.low, following.high, following.scale] if following else [None] * 3
        rows.append([*row, finding.why_not])
    return rows


def _print_importance(args: argparse.Namespace) -> None:
    def read_finding(place: StudyPlace) -> tuple[Finding, list[str]]:
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
