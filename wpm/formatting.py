"""Write small tables as aligned text, Markdown or CSV, and durations and lists for people."""

import csv
import io
import time
from collections.abc import Sequence
from typing import Any

FORMATS = ("text", "markdown", "csv")


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str) -> str:
    """Lay a table out.

    Args:
        columns: headings.
        rows: cells, as many in a row as there are columns; `str` writes them.
        style: one of `FORMATS`.

    Returns:
        The table without a final newline.

    Raises:
        ValueError: unknown style.
    """
    cells = [[str(cell) for cell in row] for row in rows]
    if style == "csv":
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerows([list(columns), *cells])
        return buffer.getvalue().rstrip("\n")
    widths = [max(len(row[i]) for row in [list(columns), *cells]) for i in range(len(columns))]
    # Numbers are aligned at the right, words at the left.
    right = [all(_is_number(row[i]) for row in cells) for i in range(len(columns))]

    def lay(row: Sequence[str], separator: str) -> str:
        parts = [
            cell.rjust(width) if is_right else cell.ljust(width)
            for cell, width, is_right in zip(row, widths, right, strict=True)
        ]
        return separator.join(parts)

    if style == "text":
        return "\n".join(lay(row, "  ").rstrip() for row in [list(columns), *cells])
    if style == "markdown":
        cells = [[cell.replace("|", "\\|") for cell in row] for row in cells]
        rule = "|".join(
            "-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)
        )
        lines = [f"| {lay(row, ' | ')} |" for row in [list(columns), *cells]]
        return "\n".join([lines[0], f"|{rule}|", *lines[1:]])
    raise ValueError(f"unknown style {style!r}; choose from {', '.join(FORMATS)}")


def _is_number(text: str) -> bool:
    if text.partition(" [")[0] in ("", "-"):  # a missing number, perhaps with a footnote
        return True
    return text.lstrip("+-( ").replace(".", "", 1)[:1].isdigit()


def format_duration(seconds: float) -> str:
    """Write a duration for people: 45 s, 3 min 20 s, 2 h 5 min."""
    rounded = round(seconds)
    if rounded < 60:
        return f"{rounded} s"
    if rounded < 3600:
        return f"{rounded // 60} min {rounded % 60} s"
    return f"{rounded // 3600} h {rounded % 3600 // 60} min"


def format_eta(started_at: float, ended: int, remaining: int) -> str:
    """Estimate how long the remaining work will take, at the speed so far.

    Args:
        started_at: `time.monotonic()` when the work began.
        ended: pieces of work that have ended since.
        remaining: pieces of work that have not ended.
    """
    if ended == 0:
        return "ETA ?"
    return f"ETA {format_duration((time.monotonic() - started_at) / ended * remaining)}"


def name_first(names: Sequence[str], count: int = 3, separator: str = ", ") -> str:
    """List the first of many names, with dots where there are more."""
    return separator.join([*names[:count], *(["..."] if len(names) > count else [])])
