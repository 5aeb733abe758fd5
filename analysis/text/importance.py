"""Lay out parameter importance and boundary checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.numbers.boundary import BoundaryCheck, check_boundaries, describe_edges
from analysis.studies.histories import Search, TrialHistory
from analysis.studies.parameter_importance import Importance, describe_agreement, measure_importance
from analysis.text.layout import NotedTable, format_csv, format_percent, format_points

_CSV_COLUMNS = ("dataset", "protocol", "row", "parameter", "target", "trials", "fanova",
                "permutation", "skill", "kendall", "best_trial", "best_value", "low", "high",
                "scale", "edge", "edge_distance", "next_low", "next_high", "next_scale",
                "why_not")  # fmt: skip


@dataclass(frozen=True)
class RowImportance:
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


def find_importance(search: Search, *, complete_only: bool = False) -> RowImportance:
    """Weigh a study's parameters, and check its best trial against the edges of their ranges."""
    importance, why_not = measure_importance(search, complete_only=complete_only)
    best = search.best
    checks = check_boundaries(best.outcome.parameters, search.searched) if best else []
    return RowImportance(search, importance, why_not, best, checks)


def format_findings(findings: Sequence[RowImportance], style: str) -> str:
    """Lay findings out.

    Args:
        findings: one a study.
        style: one of `wpm.formatting.FORMATS`; CSV makes one table, a line a parameter.

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


def lay_out_importance(finding: RowImportance) -> NotedTable:
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


def lay_out_checks(finding: RowImportance) -> NotedTable:
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


def _csv_rows(finding: RowImportance) -> list[list[Any]]:
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
