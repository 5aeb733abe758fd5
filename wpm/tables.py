"""Small tables for people and programs: aligned text, Markdown, CSV, LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

FORMATS = ("text", "markdown", "csv")
LATEX = "latex"  # of `format_latex`, which not every script can print

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_LATEX_PATTERN = re.compile(r"[\\~^±&%$#_{}]|(?<![\w.])-(?=[\d.])")


def format_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], style: str) -> str:
    """Lay a table out.

    Args:
        columns: headings.
        rows: cells, as many a row as there are columns; written with `str`.
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
    # Numbers line up at the right, words at the left.
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


def format_latex(
    headings: Sequence[Sequence[tuple[str, int]]], rows: Sequence[Sequence[Any]]
) -> str:
    """Lay a table out as a LaTeX `tabular` with the rules of package booktabs.

    Args:
        headings: lines of headings, each a text and the number of columns it stands over; the
            first column holds words, the others numbers.
        rows: cells, as many a row as there are columns; written with `str` and escaped.

    Returns:
        The environment, without a final newline.

    Raises:
        ValueError: a line of headings or a row has another number of columns than the first.
    """
    columns = sum(span for _, span in headings[0])
    widths = [sum(span for _, span in line) for line in headings] + [len(row) for row in rows]
    if set(widths) != {columns}:
        raise ValueError(f"lines of {sorted(set(widths))} columns in one table")
    lines = [rf"\begin{{tabular}}{{l{'r' * (columns - 1)}}}", r"\toprule"]
    for line in headings:
        cells, rules, column = [], [], 1
        for text, span in line:
            wide = span > 1
            heading = escape_latex(text)
            cells.append(rf"\multicolumn{{{span}}}{{c}}{{{heading}}}" if wide else heading)
            if wide:
                rules.append(rf"\cmidrule(lr){{{column}-{column + span - 1}}}")
            column += span
        lines += [" & ".join(cells) + r" \\", *([" ".join(rules)] if rules else [])]
    lines.append(r"\midrule")
    lines += [" & ".join(escape_latex(str(cell)) for cell in row) + r" \\" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is; a minus before digits becomes a real one."""
    return _LATEX_PATTERN.sub(lambda match: _LATEX_SPECIAL.get(match[0], "$-$"), text)


def _is_number(text: str) -> bool:
    if text.partition(" [")[0] in ("", "-"):  # missing, with a footnote perhaps
        return True
    return text.lstrip("+-( ").replace(".", "", 1)[:1].isdigit()
