"""Lay out comparisons of rows as text, Markdown and CSV."""

from collections.abc import Sequence
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.numbers.search_curve import ROUND_COUNTS, SearchCurve
from analysis.studies.comparison import Comparison
from analysis.studies.row_results import METRICS, RowRecord
from analysis.text.layout import (
    NotedTable,
    format_csv,
    format_hours,
    format_mean,
    format_percent,
    format_points,
    with_notes,
)
from wpm.formatting import format_table

_CURVE_COLUMNS = ("study", "trials", "device_hours", "best", "expected", "low", "high")
_PAIR_COLUMNS = ("first", "second", "view", "metric", "pairs", "difference", "low", "high", "t_p",
                 "flip_p", "smallest_flip_p", "t_p_holm", "flip_p_holm")  # fmt: skip
_ROW_COLUMNS = ("runs", "mean", "half_width", "trials_ended", "trials_wanted", "epochs",
                "search_device_hours", "final_device_hours", "best_validation")  # fmt: skip
_SHOWN_SHARES = (0.25, 0.5, 0.75, 1.0)  # shares of the device-hours of the cheaper search


def format_comparisons(comparisons: Sequence[Comparison], style: str) -> str:
    """Lay out one table of the final runs, then the searches of each pair.

    Args:
        comparisons: at least one, all of the same view and metric.
        style: "text" or "markdown".

    Returns:
        Text without a final newline.
    """
    sections = [lay_out_finals(comparisons).format(style)]
    for comparison in comparisons:
        sections += _format_search(comparison, style)
    return "\n\n".join(sections)


def lay_out_finals(comparisons: Sequence[Comparison]) -> NotedTable:
    """Return the table of the final runs.

    Args:
        comparisons: at least one, all of the same view and metric.
    """
    one = comparisons[0]
    several = len(comparisons) > 1
    where = "" if several else f"{one.first.place.dataset}/{one.first.place.protocol}: "
    heading = f"{where}test {METRICS[one.metric]} of the final runs, {one.view}, in percent"
    correction = ", Holm" if several else ""
    columns = [
        *(["data set/protocol"] if several else []), "first", "second", "pairs", "first mean",
        "second mean", "difference", "95% interval", f"p (t{correction})",
        f"p (sign flip{correction})", "detectable",
    ]  # fmt: skip
    rows = [
        [*([_place(comparison)] if several else []), *_final_cells(comparison)]
        for comparison in comparisons
    ]
    notes = [*_describe_tests(comparisons)]
    for comparison in comparisons:
        where = f"{_place(comparison)}: " if several else ""
        notes += [f"{where}{line}" for line in comparison.unequal]
        notes += [f"{where}{line}" for line in comparison.notes]
    return NotedTable(heading, columns, rows, notes)


def _place(comparison: Comparison) -> str:
    return f"{comparison.first.place.dataset}/{comparison.first.place.protocol}"


def _final_cells(comparison: Comparison) -> list[Any]:
    means = [format_mean(_scores(comparison, row)) for row in comparison.rows]
    names = [row.name for row in comparison.rows]
    difference = comparison.difference
    if difference is None:
        return [*names, 0, *means, *["-"] * 5]
    interval = "-"
    if difference.low is not None and difference.high is not None:
        interval = f"[{format_points(difference.low)}, {format_points(difference.high)}]"
    return [
        *names,
        len(difference.values),
        *means,
        format_points(difference.mean),
        interval,
        _format_p(comparison.t_p),
        _format_p(comparison.flip_p),
        format_percent(difference.detectable),
    ]


def _scores(comparison: Comparison, row: RowRecord) -> list[float]:
    """Return the scores of all tested runs, including those without a partner."""
    return row.finals.scores(comparison.view, comparison.metric) if row.finals else []


def _describe_tests(comparisons: Sequence[Comparison]) -> list[str]:
    if not any(comparison.difference for comparison in comparisons):
        return []
    lines = [
        "difference: second minus first, in points; runs are paired by seed, one score for each run"
    ]
    if len(comparisons) > 1:
        lines.append(f"p-values are corrected over {len(comparisons)} pairs, intervals are not")
    for pairs in sorted({len(c.difference.values) for c in comparisons if c.difference}):
        smallest = 2.0 ** (1 - pairs)
        lines.append(f"with {pairs} pairs the sign-flip test gives no p below {smallest:.3g}")
    lines.append(
        "detectable: the true difference that the uncorrected t-test would find in 4 of 5 such "
        "comparisons, if their runs vary as these do"
    )
    return lines


def _format_search(comparison: Comparison, style: str) -> list[str]:
    names = [row.name for row in comparison.rows]
    budget = format_table(
        ["search", "trials", "epochs", "device-h", "best MAP@R %", "best trial"],
        [_budget_cells(row) for row in comparison.rows],
        style,
    )
    note = "each row was searched once: how much another search would differ is not known"
    sections = [
        with_notes(f"{_place(comparison)}: searches, by validation", budget, [note], style),
    ]
    columns = [f"{name}{what}" for name in names for what in ("", ", expected")]
    counts = _shown_counts(comparison.curves)
    rows = [
        [n, *(cell for curve in comparison.curves for cell in _at_count(curve, n))] for n in counts
    ]
    if rows:
        heading = "best validation MAP@R % by number of trials, and expected in random order"
        sections.append(
            with_notes(heading, format_table(["trials", *columns], rows, style), [], style)
        )
    hours = _shown_hours(comparison.curves)
    spent = [
        [format_hours(h), *(format_percent(curve.best_after(h)) for curve in comparison.curves)]
        for h in hours
    ]
    if spent:
        heading = "best validation MAP@R % by device-hours"
        sections.append(
            with_notes(heading, format_table(["device-h", *names], spent, style), [], style)
        )
    return sections


def _budget_cells(row: RowRecord) -> list[Any]:
    number, score = row.best or ("-", None)
    hours = format_hours(row.search_hours)
    return [row.name, row.ended_of_budget, row.epochs, hours, format_percent(score), number]


def _shown_counts(curves: Sequence[SearchCurve]) -> list[int]:
    ends = {len(curve.best) for curve in curves}
    return sorted({n for n in (*ROUND_COUNTS, *ends) if 0 < n <= max(ends)})


def _at_count(curve: SearchCurve, count: int) -> tuple[str, str]:
    best = curve.best[count - 1] if count <= len(curve.best) else None
    if count not in curve.counts:
        return format_percent(best), "-"
    i = curve.counts.index(count)
    low, high = curve.low[i], curve.high[i]
    expected = f"{100 * curve.expected[i]:.2f} [{100 * low:.2f}, {100 * high:.2f}]"
    return format_percent(best), expected


def _shown_hours(curves: Sequence[SearchCurve]) -> list[float]:
    totals = [curve.hours[-1] for curve in curves if curve.hours]
    if not totals:
        return []
    return sorted({*(share * min(totals) for share in _SHOWN_SHARES), max(totals)})


def _format_p(p: float | None) -> str:
    if p is None:
        return "-"
    return "<0.0001" if p < 1e-4 else f"{p:.4f}"


def format_pairs_csv(comparisons: Sequence[Comparison]) -> str:
    """Return one line for each pair of rows; scores are fractions."""
    columns = [
        *_PAIR_COLUMNS,
        *(f"{which}_{name}" for which in ("first", "second") for name in _ROW_COLUMNS),
        "unequal",
        "notes",
    ]
    return format_csv(columns, [_pair_values(comparison) for comparison in comparisons])


def _pair_values(comparison: Comparison) -> list[Any]:
    difference = comparison.difference
    places = [row.place.name for row in comparison.rows]
    tests = (
        [
            len(difference.values), difference.mean, difference.low, difference.high,
            difference.t_p, difference.flip_p, difference.smallest_flip_p,
            comparison.t_p, comparison.flip_p,
        ]
        if difference
        else [0, *[None] * 8]
    )  # fmt: skip
    values = [*places, comparison.view, comparison.metric, *tests]
    for row in comparison.rows:
        scores = _scores(comparison, row)
        values += [
            len(scores), mean(scores) if scores else None, confidence_half_width(scores),
            len(row.ended), row.budget, row.epochs, row.search_hours, row.final_hours,
            row.best[1] if row.best else None,
        ]  # fmt: skip
    return [*values, "; ".join(comparison.unequal), "; ".join(comparison.notes)]


def format_curves_csv(comparisons: Sequence[Comparison]) -> str:
    """Return one line for each trial of every search; scores are fractions."""
    curves = {
        row.place.name: curve
        for comparison in comparisons
        for row, curve in zip(comparison.rows, comparison.curves, strict=True)
    }
    values = []
    for name, curve in curves.items():
        expected = dict(
            zip(curve.counts, zip(curve.expected, curve.low, curve.high, strict=True), strict=True)
        )
        for count, (best, hours) in enumerate(zip(curve.best, curve.hours, strict=True), start=1):
            values.append([name, count, hours, best, *expected.get(count, (None, None, None))])
    return format_csv(_CURVE_COLUMNS, values)
