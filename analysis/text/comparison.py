"""Lay out comparisons of rows as text, Markdown and CSV."""

from collections.abc import Sequence
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.numbers.search_curve import ROUND_COUNTS, SearchCurve
from analysis.studies.comparison import Comparison
from analysis.studies.row_record import METRICS, RowRecord
from analysis.studies.row_searches import RowSearches, search_curve
from analysis.text.layout import (
    NotedTable,
    format_csv,
    format_hours,
    format_mean,
    format_percent,
    format_points,
    with_notes,
)
from analysis.text.verdict import describe_difference, describe_order, name_scope, word_verdict
from wpm.formatting import format_table

_CURVE_COLUMNS = ("study", "trials", "device_hours", "best", "expected", "low", "high")
_PAIR_COLUMNS = ("first", "second", "view", "metric", "searches", "pairs", "difference", "low",
                 "high", "interval_of", "t_p", "flip_p", "smallest_flip_p", "t_p_holm",
                 "flip_p_holm", "verdict", "search_sd", "seed_sd")  # fmt: skip
_ROW_COLUMNS = ("runs", "mean", "half_width", "trials_ended", "trials_wanted", "epochs",
                "search_device_hours", "final_device_hours", "best_validation")  # fmt: skip
_SHOWN_SHARES = (0.25, 0.5, 0.75, 1.0)  # shares of the device-hours of the cheaper search


def format_comparisons(comparisons: Sequence[Comparison], style: str) -> str:
    """Lay out one table of the final runs, what it shows in words, and the searches of each pair.

    Args:
        comparisons: at least one, all of the same view and metric.
        style: "text" or "markdown".

    Returns:
        Text without a final newline.
    """
    bullet = "- " if style == "markdown" else ""
    findings = [f"{bullet}{describe_difference(comparison)}" for comparison in comparisons]
    sections = [lay_out_finals(comparisons).format(style), "\n".join(findings)]
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
        *(["data set/protocol"] if several else []), "first", "second", "searches", "pairs",
        "first mean", "second mean", "difference", "95% interval", f"p (t{correction})",
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
    counts = [len(comparison.pairs), len(comparison.seeds)]
    if difference is None:
        return [*names, *counts, *means, *["-"] * 5]
    interval = "-"
    if difference.low is not None and difference.high is not None:
        interval = f"[{format_points(difference.low)}, {format_points(difference.high)}]"
    return [
        *names,
        *counts,
        *means,
        format_points(difference.mean),
        interval,
        _format_p(comparison.t_p),
        _format_p(comparison.flip_p),
        format_percent(difference.detectable),
    ]


def _scores(comparison: Comparison, row: RowSearches) -> list[float]:
    """Return what counts once each of all tested runs, those without a partner included."""
    return row.scores(comparison.view, comparison.metric)


def _describe_tests(comparisons: Sequence[Comparison]) -> list[str]:
    known = [comparison for comparison in comparisons if comparison.difference]
    if not known:
        return []
    lines = []
    if any(len(comparison.pairs) == 1 for comparison in known):
        lines.append(
            "difference: second minus first, in points; runs are paired by seed, one score for "
            "each run"
        )
    if any(len(comparison.pairs) > 1 for comparison in known):
        lines.append(
            "several searches: the difference of the means of their runs, which are paired by "
            "search and seed, counts once for each search; ± of the means is over searches too"
        )
    if len(comparisons) > 1:
        lines.append(f"p-values are corrected over {len(comparisons)} pairs, intervals are not")
    tested = {(_unit(c), len(c.difference.values)) for c in known if c.difference}
    for unit, count in sorted(tested):
        smallest = 2.0 ** (1 - count)
        lines.append(f"with {count} {unit} the sign-flip test gives no p below {smallest:.3g}")
    varying = " and ".join(sorted({_unit(comparison) for comparison in known}))
    lines.append(
        "detectable: the true difference that the uncorrected t-test would find in 4 of 5 such "
        f"comparisons, if their {varying.replace('pairs', 'runs')} vary as these do"
    )
    return lines


def _unit(comparison: Comparison) -> str:
    """Name what counts once each in a comparison."""
    return "pairs" if len(comparison.pairs) == 1 else "searches"


def _format_search(comparison: Comparison, style: str) -> list[str]:
    names = [row.name for row in comparison.rows]
    budget = format_table(
        ["search", "trials", "epochs", "device-h", "best MAP@R %", "best trial"],
        [_budget_cells(search) for row in comparison.rows for search in row.searches],
        style,
    )
    count = len(comparison.first.searches)
    notes = []
    if count == 1:
        notes = ["each row was searched once: how much another search would differ is not known"]
    sections = [
        with_notes(f"{_place(comparison)}: searches, by validation", budget, notes, style),
    ]
    mean_of = f", mean of {count} searches" if count > 1 else ""
    columns = [f"{name}{what}" for name in names for what in ("", ", expected")]
    counts = _shown_counts(comparison.curves)
    rows = [
        [n, *(cell for curve in comparison.curves for cell in _at_count(curve, n))] for n in counts
    ]
    if rows:
        heading = (
            f"best validation MAP@R % by number of trials{mean_of}, and expected in random order"
        )
        order = describe_order(comparison)
        notes = [order] if order else []
        sections.append(
            with_notes(heading, format_table(["trials", *columns], rows, style), notes, style)
        )
    hours = _shown_hours(comparison.curves)
    spent = [
        [format_hours(h), *(format_percent(curve.best_after(h)) for curve in comparison.curves)]
        for h in hours
    ]
    if spent:
        heading = f"best validation MAP@R % by device-hours{mean_of}"
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
    difference, split = comparison.difference, comparison.split
    places = [_name_in_csv(row) for row in comparison.rows]
    tests = (
        [
            difference.mean, difference.low, difference.high, name_scope(len(comparison.pairs)),
            difference.t_p, difference.flip_p, difference.smallest_flip_p,
            comparison.t_p, comparison.flip_p,
        ]
        if difference
        else [None] * 9
    )  # fmt: skip
    values = [
        *places, comparison.view, comparison.metric, len(comparison.pairs), len(comparison.seeds),
        *tests, word_verdict(comparison), split.search_sd, split.seed_sd,
    ]  # fmt: skip
    for row in comparison.rows:
        scores = _scores(comparison, row)
        best = [search.best[1] for search in row.searches if search.best]
        values += [
            sum(row.tested_runs), mean(scores) if scores else None, confidence_half_width(scores),
            row.trials_ended, row.budget, sum(search.epochs for search in row.searches),
            row.search_hours, row.final_hours, mean(best) if best else None,
        ]  # fmt: skip
    return [*values, "; ".join(comparison.unequal), "; ".join(comparison.notes)]


def _name_in_csv(row: RowSearches) -> str:
    """Return data set, protocol and row; the number of a search only where it is the only one."""
    place = row.place
    if len(row.searches) == 1:
        return place.name
    return f"{place.dataset}/{place.protocol}/{place.row}"


def format_curves_csv(comparisons: Sequence[Comparison]) -> str:
    """Return one line for each trial of every search; scores are fractions."""
    curves = {
        search.place.name: search_curve(search)
        for comparison in comparisons
        for row in comparison.rows
        for search in row.searches
    }
    values = []
    for name, curve in curves.items():
        expected = dict(
            zip(curve.counts, zip(curve.expected, curve.low, curve.high, strict=True), strict=True)
        )
        for count, (best, hours) in enumerate(zip(curve.best, curve.hours, strict=True), start=1):
            values.append([name, count, hours, best, *expected.get(count, (None, None, None))])
    return format_csv(_CURVE_COLUMNS, values)
