"""Write numbers for people and programs, and tables with notes below them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from wpm.formatting import format_table


def with_notes(heading: str, table: str, notes: Sequence[str], style: str) -> str:
    """Put a heading above a table and notes below it.

    Args:
        heading: one line.
        table: a table that `wpm.formatting` has laid out.
        notes: one line each.
        style: "text" or "markdown".

    Returns:
        Text without a final newline.
    """
    if style == "markdown":
        bullets = ["", *(f"- {note}" for note in notes)] if notes else []
        return "\n".join([f"### {heading}\n", table, *bullets])
    return "\n".join([heading, table, *(f"note: {note}" for note in notes)])


@dataclass(frozen=True)
class NotedTable:
    """A table with its heading and the notes on it, for a terminal or a page.

    Attributes:
        heading: one line above the table.
        columns: the headings of the columns.
        rows: the cells of each row, one for each column.
        notes: lines below the table.
        empty: text that replaces a table without rows.
    """

    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = ()
    empty: str = ""

    def format(self, style: str) -> str:
        """Lay the table out as "text" or "markdown"."""
        table = self.empty
        if self.rows or not table:
            table = format_table(self.columns, self.rows, style)
        return with_notes(self.heading, table, self.notes, style)


def format_percent(fraction: float | None) -> str:
    """Write a fraction in percent; "-" for None."""
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def format_points(difference: float) -> str:
    """Write a difference of fractions in percentage points, with its sign."""
    return f"{round(100 * difference, 2) + 0.0:+.2f}"  # adding 0.0 turns -0.0 into 0.0


def format_mean(scores: Sequence[float], missing: str = "-") -> str:
    """Write the mean of scores in percent, with its 95% interval if there are at least two."""
    if not scores:
        return missing
    half_width = confidence_half_width(scores)
    interval = "" if half_width is None else f" ± {100 * half_width:.2f}"
    return f"{100 * mean(scores):.2f}{interval}"


def format_csv(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Write a table for programs; None becomes an empty cell."""
    return format_table(columns, [["" if v is None else v for v in row] for row in rows], "csv")


def format_hours(hours: float) -> str:
    """Write device-hours for people, with more digits for small numbers."""
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}"
