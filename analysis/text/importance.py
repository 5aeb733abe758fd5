"""Lay out parameter importance and boundary checks."""

from collections.abc import Sequence
from typing import Any

from analysis.numbers.boundary import describe_edges
from analysis.studies.parameter_importance import RowImportance, describe_agreement
from analysis.text.layout import NotedTable, format_csv, format_percent, format_points

_CSV_COLUMNS = ("dataset", "protocol", "row", "search", "parameter", "target", "trials", "fanova",
                "permutation", "skill", "kendall", "best_trial", "best_value", "low", "high",
                "scale", "edge", "edge_distance", "next_low", "next_high", "next_scale",
                "why_not")  # fmt: skip


def format_importance(rows: Sequence[RowImportance], style: str) -> str:
    """Lay out the importance and the boundary check of each study.

    Args:
        style: one of `wpm.formatting.FORMATS`; CSV makes one table with a line for each parameter.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return format_csv(_CSV_COLUMNS, [line for row in rows for line in _csv_lines(row)])
    return "\n\n".join(
        table.format(style)
        for row in rows
        for table in (lay_out_importance(row), lay_out_checks(row))
    )


def lay_out_importance(row: RowImportance) -> NotedTable:
    """Return the table of both estimates, or why there are none."""
    name, importance = row.search.place.name, row.importance
    columns = ["parameter", "fANOVA %", "permutation %", "differ by"]
    if importance is None:
        return NotedTable(f"{name}: importance", columns, [], empty=row.why_not)
    count = str(importance.available)
    if importance.trials < importance.available:
        count = f"{importance.trials} of {importance.available}"
    lines = [
        [
            parameter,
            format_percent(share),
            format_percent(importance.permutation[parameter]),
            format_points(importance.permutation[parameter] - share),
        ]
        for parameter, share in importance.fanova.items()
    ]
    heading = f"{name}: importance for the {importance.target} (n = {count})"
    return NotedTable(heading, columns, lines, [describe_agreement(importance)])


def lay_out_checks(row: RowImportance) -> NotedTable:
    """Return the table of the boundary check, or a line that there is nothing to check."""
    name, best = row.search.place.name, row.best
    columns = ["parameter", "value", "searched", "distance %", "edge", "try next"]
    if best is None:
        nothing = "no complete trial to check against the edges"
        return NotedTable(f"{name}: boundary check", columns, [], empty=nothing)
    score = format_percent(best.outcome.score)
    heading = f"{name}: boundary check of trial {best.outcome.number}, validation MAP@R {score} %"
    lines = [
        [
            check.distance.parameter,
            f"{check.value:.4g}",
            check.range_text,
            f"{100 * check.distance.share:.1f}",
            check.distance.side,
            check.next_range or "-",
        ]
        for check in row.checks
    ]
    return NotedTable(heading, columns, lines, [describe_edges(row.checks)])


def _csv_lines(row: RowImportance) -> list[list[Any]]:
    place, importance = row.search.place, row.importance
    checks = {check.distance.parameter: check for check in row.checks}
    lines = []
    for parameter, bounds in row.search.searched.items():
        line: list[Any] = [*place.order, parameter]
        line += (
            [
                importance.target, importance.trials, importance.fanova.get(parameter),
                importance.permutation.get(parameter), importance.skill, importance.kendall,
            ]
            if importance
            else [None] * 6
        )  # fmt: skip
        check = checks.get(parameter)
        line += [
            row.best.outcome.number if row.best else None, check.value if check else None,
            bounds["low"], bounds["high"], bounds["scale"],
        ]  # fmt: skip
        line += [check.distance.side, check.distance.share] if check else [None] * 2
        following = check.next_range if check else None
        line += [following.low, following.high, following.scale] if following else [None] * 3
        lines.append([*line, row.why_not])
    return lines
