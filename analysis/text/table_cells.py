"""The numbers of the results table: ours, and the published ones in brackets."""

from collections.abc import Iterator

from analysis.numbers.means import mean
from analysis.studies.row_record import METRICS, VIEWS
from analysis.studies.table_blocks import TableLine
from analysis.text.layout import format_mean, format_points


def format_cells(line: TableLine, missing: str, mark: str) -> Iterator[tuple[str, str]]:
    """Yield our number and the published one, cell by cell.

    Args:
        missing: text for a number that does not exist.
        mark: mark of the footnotes, which follows our number.
    """
    for view in VIEWS:
        for metric in METRICS:
            own = format_mean(line.scores(view, metric), missing)
            own += mark if own else ""
            yield own, _format_published(line, view, metric)


def join_cell(cell: tuple[str, str]) -> str:
    """Join our number and the published one to the text of one cell."""
    return " ".join(part for part in cell if part)


def _format_published(line: TableLine, view: str, metric: str) -> str:
    published = line.published.get((view, metric))
    if published is None:
        return ""
    difference = difference_from_published(line, view, metric)
    if difference is None:
        return f"({100 * published:.2f})"
    return f"({100 * published:.2f}, {format_points(difference)})"


def difference_from_published(line: TableLine, view: str, metric: str) -> float | None:
    """Return our number minus the published one, a fraction; None unless both exist."""
    scores = line.scores(view, metric)
    published = line.published.get((view, metric))
    return mean(scores) - published if scores and published is not None else None
