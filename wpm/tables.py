"""Small tables for people and programs: aligned text, Markdown, CSV, LaTeX."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FORMATS = ("text", "markdown", "csv")
LATEX = "latex"  # a style that not every script can print

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "±": r"$\pm$",
    "<": "$<$",
    ">": "$>$",
    "--": "-{}-",  # two hyphens, not a dash
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
_LATEX_PATTERN = re.compile(r"[\\~^±<>&%$#_{}]|--|(?<![\w.])-(?=[\d.])")


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


@dataclass(frozen=True)
class Wide:
    """A cell of a LaTeX table that stands over several columns.

    Attributes:
        text: LaTeX.
        columns: that it covers.
        align: l, c or r.
    """

    text: str
    columns: int
    align: str = "c"


def format_latex(
    columns: str, headings: Sequence[Sequence[Wide | str]], rows: Sequence[Sequence[Wide | str]]
) -> str:
    """Lay a table out as a LaTeX `tabular` with the rules of package booktabs.

    Args:
        columns: how they are aligned, as `tabular` takes it: l, c, r and @{...}.
        headings: lines of headings; a rule stands under those that are wide but in the last line.
        rows: cells, in LaTeX; an empty row is a small gap.

    Returns:
        The environment, without a final newline.

    Raises:
        ValueError: a line has another number of columns than there are.
    """
    count = len(re.sub(r"@\{[^}]*\}", "", columns))
    for line in [*headings, *filter(None, rows)]:
        found = sum(cell.columns if isinstance(cell, Wide) else 1 for cell in line)
        if found != count:
            raise ValueError(f"a line of {found} columns in a table of {count}")
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    for number, line in enumerate(headings, start=1):
        lines.append(_latex_line(line))
        if number < len(headings):
            lines.append(_latex_rules(line))
    lines.append(r"\midrule")
    lines += [_latex_line(row) if row else r"\addlinespace[2pt]" for row in rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def _latex_line(cells: Sequence[Wide | str]) -> str:
    texts = [
        rf"\multicolumn{{{cell.columns}}}{{{cell.align}}}{{{cell.text}}}"
        if isinstance(cell, Wide)
        else cell
        for cell in cells
    ]
    return " & ".join(texts) + r" \\"


def _latex_rules(cells: Sequence[Wide | str]) -> str:
    rules, column = [], 1
    for cell in cells:
        width = cell.columns if isinstance(cell, Wide) else 1
        if isinstance(cell, Wide):
            rules.append(rf"\cmidrule(lr){{{column}-{column + width - 1}}}")
        column += width
    return " ".join(rules)


def escape_latex(text: str) -> str:
    """Return text that LaTeX prints as it is; a minus before digits becomes a real one."""
    return _LATEX_PATTERN.sub(lambda match: _LATEX_SPECIAL.get(match[0], "$-$"), text)


def _is_number(text: str) -> bool:
    if text.partition(" [")[0] in ("", "-"):  # missing, with a footnote perhaps
        return True
    return text.lstrip("+-( ").replace(".", "", 1)[:1].isdigit()
