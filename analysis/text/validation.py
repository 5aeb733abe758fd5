"""Lay out how well validation scores predict test scores."""

from collections.abc import Sequence

from analysis.numbers.correlation import SMALLEST, Correlation
from analysis.studies.row_record import METRICS
from analysis.studies.validation import Validation
from analysis.text.layout import NotedTable, format_csv, format_mean, format_percent, with_notes
from wpm.formatting import format_table


def format_validations(
    validations: Sequence[Validation], view: str, metric: str, style: str
) -> str:
    """Lay out the correlations of each data set and protocol, then its configurations.

    Args:
        validations: at least one.
        view: view of the test scores.
        metric: metric of the test scores.
        style: "text" or "markdown".

    Returns:
        Text without a final newline.
    """
    test = f"test {METRICS[metric]}, {view}"
    sections = []
    for validation in validations:
        sections += [
            lay_out_agreements(validation, test).format(style),
            _format_points(validation, test, style),
        ]
    return "\n\n".join(sections)


def lay_out_agreements(validation: Validation, test: str) -> NotedTable:
    """Return the table of correlations.

    Args:
        test: name of the test score, for people.
    """
    columns = [
        "rows", "validation of", "configurations", "Spearman", "95% interval", "Pearson",
        "95% interval", "lost by choosing",
    ]  # fmt: skip
    cells = [
        [
            agreement.rows,
            agreement.source,
            agreement.pearson.points,
            *_format_correlation(agreement.spearman),
            *_format_correlation(agreement.pearson),
            format_percent(agreement.lost),
        ]
        for agreement in validation.agreements
    ]
    heading = f"{validation.name}: validation MAP@R against {test}"
    counts = {
        row: sum(point.row == row for point in validation.points)
        for row in sorted({point.row for point in validation.points})
    }
    few = [f"{row} {count}" for row, count in counts.items() if count < SMALLEST]
    notes = []
    if few:
        notes.append(
            f"rows with fewer than {SMALLEST} configurations (python launch.py --best-only --top 5 "
            f"makes more): {', '.join(few)}"
        )
    if cells:
        notes.append("lost by choosing: points lost by taking the one that is best in validation")
    if any(None in (a.spearman.low, a.pearson.low) for a in validation.agreements):
        notes.append("no interval: only three points, all on a line, or a score that does not vary")
    return NotedTable(heading, columns, cells, notes, "too few configurations to correlate")


def _format_correlation(correlation: Correlation) -> tuple[str, str]:
    if correlation.value is None:
        return "-", "-"
    if correlation.low is None:
        return f"{correlation.value:.2f}", "-"
    return f"{correlation.value:.2f}", f"[{correlation.low:.2f}, {correlation.high:.2f}]"


def _format_points(validation: Validation, test: str, style: str) -> str:
    columns = ["row", "trial", "search", "final runs", test, "runs"]
    cells = [
        [
            point.row,
            point.origin,
            format_percent(point.searched),
            format_percent(point.retrained),
            format_mean(point.tests),
            len(point.tests),
        ]
        for point in validation.points
    ]
    return with_notes(
        f"{validation.name}: configurations, in percent",
        format_table(columns, cells, style),
        [],
        style,
    )


def format_agreements_csv(validations: Sequence[Validation], view: str, metric: str) -> str:
    """Return one line for each correlation."""
    columns = [
        "study", "rows", "validation", "view", "metric", "configurations",
        *(f"{kind}{end}" for kind in ("spearman", "pearson") for end in ("", "_low", "_high")),
        "lost",
    ]  # fmt: skip
    rows = [
        [
            validation.name, agreement.rows, agreement.source, view, metric,
            agreement.pearson.points, *_values(agreement.spearman), *_values(agreement.pearson),
            agreement.lost,
        ]
        for validation in validations
        for agreement in validation.agreements
    ]  # fmt: skip
    return format_csv(columns, rows)


def _values(correlation: Correlation) -> tuple[float | None, ...]:
    return correlation.value, correlation.low, correlation.high


def format_points_csv(validations: Sequence[Validation], view: str, metric: str) -> str:
    """Return one line for each configuration; scores are fractions."""
    columns = ["study", "row", "search", "trial", "search_validation", "final_validation", "view",
               "metric", "test_mean", "runs"]  # fmt: skip
    rows = [
        [
            validation.name, point.row, point.search, point.trial, point.searched, point.retrained,
            view, metric, point.test, len(point.tests),
        ]
        for validation in validations
        for point in validation.points
    ]  # fmt: skip
    return format_csv(columns, rows)
