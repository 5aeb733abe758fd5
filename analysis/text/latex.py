"""The results table as LaTeX: data sets side by side, published numbers below each row."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

LATEX = "latex"  # only the results table has this format

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


@dataclass(frozen=True)
class Wide:
    """A cell of a LaTeX table that covers several columns.

    Attributes:
        text: LaTeX source.
        columns: number of columns that the cell covers.
        align: "l", "c" or "r".
    """

    text: str
    columns: int
    align: str = "c"


# The table is shrunk if it is wider than the line, but never enlarged.
_OPENING = r"""\par\medskip{\scriptsize\setlength{\tabcolsep}{3pt}\noindent
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"""
_HINTS = r"""% needs \usepackage{booktabs,graphicx}; two data sets want a landscape page:
% \usepackage{pdflscape} ... \begin{landscape} \input{this file} \end{landscape}"""
_MISSING = Wide("--", 2)


@dataclass(frozen=True)
class DatasetColumns:
    """The columns of one data set.

    Attributes:
        dataset: heading above all columns of the data set.
        views: headings below it, each above all metrics.
        metrics: headings of the single columns below each view.
    """

    dataset: str
    views: Sequence[str]
    metrics: Sequence[str]


@dataclass(frozen=True)
class Entry:
    """The numbers of a row on one data set.

    Attributes:
        cells: for each column our number and the published one, as text; "" if there is none.
        mark: mark of the row's footnotes, or "".
    """

    cells: Sequence[tuple[str, str]]
    mark: str


def format_page(
    heading: str,
    parts: Sequence[DatasetColumns],
    rows: Sequence[tuple[str, Sequence[Entry]]],
    notes: Sequence[str],
) -> str:
    """Lay out a table with its notes below it.

    Args:
        heading: one line, which is only a comment in the source.
        parts: data sets, side by side.
        rows: for each row its name and one entry for each part; a `+wpm` row follows its twin.
        notes: one line each.

    Returns:
        Text for the body of a document, without a final newline.
    """
    # Each number takes two columns, so that decimal points and ± are aligned. Marks have a column.
    columns = "l" + "".join("r@{}l" * len(part.views) * len(part.metrics) + "l" for part in parts)
    lines: list[Sequence[Wide | str]] = []
    for name, entries in rows:
        if lines and "+" not in name:
            lines.append(())
        lines.append([name, *(cell for entry in entries for cell in _own_cells(entry))])
        if any(published for entry in entries for _, published in entry.cells):
            published = [cell for entry in entries for cell in _published_cells(entry)]
            lines.append([r"\quad\itshape published", *published])
    table = format_latex(columns, _headings(parts), lines)
    lines_below = [rf"{escape_latex(note)}\par" for note in notes]
    return "\n".join([f"% {heading}", _HINTS, _OPENING, table + r"}\par\smallskip\raggedright",
                      *lines_below, "}"])  # fmt: skip


def _headings(parts: Sequence[DatasetColumns]) -> list[list[Wide | str]]:
    def over(part: DatasetColumns, texts: Sequence[str]) -> list[Wide | str]:
        width = 2 * len(part.views) * len(part.metrics) // len(texts)
        return [*(Wide(text, width) for text in texts), ""]

    return [
        ["", *(cell for part in parts for cell in over(part, [part.dataset]))],
        ["", *(cell for part in parts for cell in over(part, part.views))],
        ["", *(cell for part in parts for cell in over(part, [*part.metrics] * len(part.views)))],
    ]


def _own_cells(entry: Entry) -> list[Wide | str]:
    cells: list[Wide | str] = []
    for own, _ in entry.cells:
        mean, _, half_width = own.partition(" ± ")
        interval = rf"$\,\pm\,${half_width}" if half_width else ""
        cells += [mean, interval] if own else [_MISSING]
    return [*cells, entry.mark if any(own for own, _ in entry.cells) else ""]


def _published_cells(entry: Entry) -> list[Wide | str]:
    cells = [Wide(escape_latex(published), 2, "l") for _, published in entry.cells]
    return [*cells, ""]


def format_latex(
    columns: str, headings: Sequence[Sequence[Wide | str]], rows: Sequence[Sequence[Wide | str]]
) -> str:
    """Lay out a table as a LaTeX `tabular` with the rules of package booktabs.

    Args:
        columns: alignment of the columns, as `tabular` takes it: l, c, r and @{...}.
        headings: lines of headings; below each but the last, wide cells are underlined.
        rows: cells in LaTeX; an empty row makes a small gap.

    Returns:
        The environment, without a final newline.

    Raises:
        ValueError: a line does not have as many columns as `columns` says.
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
    """Return source that LaTeX prints as the text; a hyphen before digits becomes a minus."""
    return _LATEX_PATTERN.sub(lambda match: _LATEX_SPECIAL.get(match[0], "$-$"), text)
