"""The results table as LaTeX: data sets side by side, what was published below each row."""

from collections.abc import Sequence
from dataclasses import dataclass

from wpm.tables import Wide, escape_latex, format_latex

# Shrunk where it is wider than the line, never enlarged.
_OPENING = r"""\par\medskip{\scriptsize\setlength{\tabcolsep}{3pt}\noindent
\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%"""
_HINTS = r"""% needs \usepackage{booktabs,graphicx}; two data sets want a landscape page:
% \usepackage{pdflscape} ... \begin{landscape} \input{this file} \end{landscape}"""
_MISSING = Wide("--", 2)


@dataclass(frozen=True)
class Part:
    """A data set's part of the table.

    Attributes:
        dataset: its name.
        views: headings, each over all metrics.
        metrics: headings of the columns below each view.
    """

    dataset: str
    views: Sequence[str]
    metrics: Sequence[str]


@dataclass(frozen=True)
class Entry:
    """A row's numbers on one data set.

    Attributes:
        cells: ours and the published, as text, a pair a column; an empty text where there is none.
        mark: of its footnotes.
    """

    cells: Sequence[tuple[str, str]]
    mark: str


def format_page(
    heading: str,
    parts: Sequence[Part],
    rows: Sequence[tuple[str, Sequence[Entry]]],
    notes: Sequence[str],
) -> str:
    """Lay a table out, with its notes below it.

    Args:
        heading: one line, for the source only.
        parts: side by side.
        rows: name and an entry a part; twins one under the other.
        notes: lines.

    Returns:
        Text that stands in a document's body, without a final newline.
    """
    # A number is two columns, so that points and ± stand one below the other; marks have their own.
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
    said = [rf"{escape_latex(note)}\par" for note in notes]
    return "\n".join([f"% {heading}", _HINTS, _OPENING, table + r"}\par\smallskip\raggedright",
                      *said, "}"])  # fmt: skip


def _headings(parts: Sequence[Part]) -> list[list[Wide | str]]:
    def over(part: Part, texts: Sequence[str]) -> list[Wide | str]:
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
