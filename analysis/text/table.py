"""Lay out the results table as text, Markdown, CSV or LaTeX."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.studies.fairness import describe_choice, describe_procedure, find_footnotes
from analysis.studies.published import DIMENSIONS, PUBLISHED, Scores, read_scores
from analysis.studies.row_results import METRICS, VIEWS, FinalRuns, RowRecord
from analysis.text.latex import LATEX, DatasetColumns, Entry, escape_latex, format_page
from analysis.text.layout import NotedTable, format_csv, format_hours, format_mean, format_points
from wpm.rows import Row


@dataclass(frozen=True)
class Block:
    """The rows of one data set under one protocol, twins one under the other.

    Attributes:
        dataset: its name.
        protocol: its name.
        rows: those with a study.
        published: scores by row, to compare with; None: not asked for.
    """

    dataset: str
    protocol: str
    rows: Sequence[RowRecord]
    published: Mapping[str, Scores] | None = None

    @property
    def lines(self) -> list["Line"]:
        """The rows, and those that are published only, twins one under the other."""
        ours = {row.name: row for row in self.rows}
        published = self.published or {}
        names = sorted({*ours, *published}, key=lambda name: _twins_together(Row.parse(name)))
        return [Line(name, ours.get(name), published.get(name, {})) for name in names]

    @property
    def dimensions(self) -> dict[str, int]:
        """Length of an embedding in each view; without a study, that of the published ones."""
        if not self.rows:
            return DIMENSIONS if self.published else {}
        protocol = self.rows[0].identity["protocol"]
        separated = protocol["embedding_dim"]
        return {"concatenated": separated * protocol["folds"], "separated": separated}


@dataclass(frozen=True)
class Line:
    """What a line of the table shows.

    Attributes:
        name: of the row.
        row: ours, None if it is published only.
        published: its published scores, empty if there are none.
    """

    name: str
    row: RowRecord | None = None
    published: Scores = field(default_factory=dict)

    @property
    def finals(self) -> FinalRuns | None:
        """The row's final runs, None if there are none."""
        return self.row.finals if self.row else None

    def scores(self, view: str, metric: str) -> list[float]:
        """Return a score of every tested run."""
        return self.finals.scores(view, metric) if self.finals else []


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def make_blocks(
    rows: Sequence[RowRecord],
    against: str | None = None,
    only: Sequence[str] | None = None,
    datasets: Sequence[str] = (),
) -> list[Block]:
    """Group rows by data set and protocol, and put a row with a miner under its plain twin.

    Args:
        rows: at least one.
        against: `PUBLISHED` to compare with these numbers.
        only: the published rows to show; none or empty: all.
        datasets: have a block under each protocol of the rows, even without a study.
    """

    def key_of(row: RowRecord) -> tuple[str, str]:
        return row.place.dataset, row.place.protocol

    ordered = sorted(rows, key=lambda row: (*key_of(row), *_twins_together(row.place.row)))
    grouped = {key: list(group) for key, group in groupby(ordered, key=key_of)}
    protocols = {protocol for _, protocol in grouped}
    keys = {*grouped, *((dataset, protocol) for dataset in datasets for protocol in protocols)}
    blocks = []
    for dataset, protocol in sorted(keys):
        published = None
        if against == PUBLISHED:
            scores = read_scores(dataset, protocol)
            published = {name: scores[name] for name in scores if not only or name in only}
        blocks.append(Block(dataset, protocol, grouped.get((dataset, protocol), []), published))
    return blocks


def _twins_together(row: Row) -> tuple[str, str]:
    """Return a sort key that puts a row with a miner under its plain twin."""
    return row.loss, row.miner or ""


def describe_block(block: Block) -> list[str]:
    """Return what a reader must know about a block as a whole, a line each."""
    lines = _describe_published(block)
    untested = [row.name for row in block.rows if row.finals is None]
    if untested:
        names = ", ".join(untested)
        lines.append(f"no final runs (python launch.py --best-only makes them): {names}")
    return [*lines, *(line for row in block.rows for line in describe_choice(row))]


def _describe_published(block: Block) -> list[str]:
    if block.published is None:
        return []
    if not read_scores(block.dataset, block.protocol):
        return [f"no published numbers for {block.dataset} under {block.protocol}"]
    lines = []
    if block.published:
        lines.append(
            "in brackets: the published number, and ours minus it in percentage points "
            "(sources: analysis/published/README.md)"
        )
    if block.dimensions != DIMENSIONS:
        dimensions = " and ".join(f"{dimension}-d" for dimension in DIMENSIONS.values())
        lines.append(f"published numbers are of {dimensions} embeddings, not comparable")
    lines += describe_procedure(block.rows, block.dataset)
    absent = [line.name for line in block.lines if line.row is None]
    if absent:
        lines.append(f"published only, no study here: {', '.join(absent)}")
    return lines


class Footnotes:
    """Numbered notes on the cells of a table, in the order in which they are first needed."""

    def __init__(self, blocks: Sequence[Block]) -> None:
        """Number the notes on all rows of some blocks, a note that is the same once."""
        several = len(blocks) > 1
        self.texts: list[str] = []
        self._numbers: dict[tuple[str, str], list[int]] = {}
        for block in blocks:
            for name, notes in find_footnotes(block.rows).items():
                texts = [f"{block.dataset}: {note}" if several else note for note in notes]
                self.texts += [text for text in texts if text not in self.texts]
                numbers = sorted(self.texts.index(text) + 1 for text in texts)
                self._numbers[block.dataset, name] = numbers

    def mark(self, block: Block, line: "Line") -> str:
        """Return what stands behind a number of a row: [1,2], or nothing."""
        numbers = self._numbers.get((block.dataset, line.name), [])
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    @property
    def lines(self) -> list[str]:
        """The notes with their numbers."""
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, start=1)]


def format_blocks(blocks: Sequence[Block], style: str) -> str:
    """Lay the tables out.

    Args:
        blocks: at least one.
        style: one of `wpm.formatting.FORMATS`; CSV makes one table of all blocks, without notes.
            For
            LaTeX see `format_side_by_side`.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(blocks)
    return "\n\n".join(lay_out_block(block).format(style) for block in blocks)


def lay_out_block(block: Block) -> NotedTable:
    """Return the table of a block, with its footnotes."""
    labels = {view: f"{dimension}-d" for view, dimension in block.dimensions.items()}
    heading = (
        f"{block.dataset}, protocol {block.protocol}: test scores in percent "
        f"(concatenated {labels['concatenated']}, separated {labels['separated']})"
    )
    columns = [f"{labels[view]} {name}" for view in VIEWS for name in METRICS.values()]
    footnotes = Footnotes([block])
    rows = [
        [
            line.name,
            *map(_join, _format_cells(line, "-", footnotes.mark(block, line))),
            *_format_counts(line),
        ]
        for line in block.lines
    ]
    columns = ["row", *columns, "runs", "best trial", "trials", "search h", "runs h"]
    return NotedTable(heading, columns, rows, [*describe_block(block), *footnotes.lines])


def _format_counts(line: Line) -> list[Any]:
    """Return runs, best trial, trials, device-hours of the search, device-hours of the runs."""
    return [
        len(line.finals.tested) if line.finals else 0,
        line.finals.trial if line.finals else "-",
        line.row.budget if line.row else "-",
        format_hours(line.row.search_hours) if line.row else "-",
        format_hours(line.row.final_hours) if line.row else "-",
    ]


def format_side_by_side(blocks: Sequence[Block], style: str) -> str:
    """Lay the tables out as the published one: data sets side by side, a protocol a table.

    Args:
        blocks: at least one; their order is that of the data sets.
        style: text, markdown or latex.

    Returns:
        Text without a final newline.
    """
    by_protocol: dict[str, list[Block]] = {}
    for block in blocks:
        by_protocol.setdefault(block.protocol, []).append(block)
    return "\n\n".join(
        _format_beside(protocol, by_protocol[protocol], style) for protocol in sorted(by_protocol)
    )


def _format_beside(protocol: str, blocks: Sequence[Block], style: str) -> str:
    heading = f"protocol {protocol}: test scores in percent"
    footnotes = Footnotes(blocks)
    views = {block.dataset: [_view_label(block, view) for view in VIEWS] for block in blocks}
    lines = [{line.name: line for line in block.lines} for block in blocks]
    rows = []
    for name in sorted({name for named in lines for name in named}, key=_published_order):
        # A row without a study of one of the data sets is empty there.
        found = [named.get(name, Line(name)) for named in lines]
        rows.append((name, list(zip(blocks, found, strict=True))))
    notes = [*_describe_beside(blocks), *footnotes.lines]
    if style == LATEX:
        parts = [DatasetColumns(dataset, views[dataset], [*METRICS.values()]) for dataset in views]
        entries = [
            (
                escape_latex(name),
                [
                    Entry([*_format_cells(line, "", "")], footnotes.mark(block, line).strip())
                    for block, line in found
                ],
            )
            for name, found in rows
        ]
        return format_page(heading, parts, entries, notes)
    columns = [
        f"{dataset} {view} {metric}"
        for dataset in views
        for view in views[dataset]
        for metric in METRICS.values()
    ]
    cells = [
        [
            name,
            *(
                _join(cell)
                for block, line in found
                for cell in _format_cells(line, "-", footnotes.mark(block, line))
            ),
        ]
        for name, found in rows
    ]
    return NotedTable(heading, ["row", *columns], cells, notes).format(style)


def _describe_beside(blocks: Sequence[Block]) -> list[str]:
    """Return the notes on blocks, one that several have once."""
    about: dict[str, list[str]] = {}
    for block in blocks:
        for line in [*_describe_counts(block), *describe_block(block)]:
            about.setdefault(line, []).append(block.dataset)
    return [f"{', '.join(datasets)}: {line}" for line, datasets in about.items()]


def _view_label(block: Block, view: str) -> str:
    dimension = block.dimensions.get(view)
    return view if dimension is None else f"{view} {dimension}-d"


def _describe_counts(block: Block) -> list[str]:
    """Say what the published layout has no columns for: numbers of runs, and what they cost."""
    counts, hours = [], []
    for row in block.rows:
        if row.finals:
            spent = f"{format_hours(row.search_hours)} + {format_hours(row.final_hours)}"
            counts.append(f"{row.name} {len(row.finals.tested)}")
            hours.append(f"{row.name} {spent}")
    if not counts:
        return []
    return [
        f"tested runs: {', '.join(counts)}",
        f"device-hours of search + final runs: {', '.join(hours)}",
    ]


def _published_order(name: str) -> tuple[int, str, str]:
    """Return a sort key: as published, then by name; a row with a miner under its twin."""
    published = list(read_scores("cub200", "mlrc"))
    loss, miner = _twins_together(Row.parse(name))
    return published.index(loss) if loss in published else len(published), loss, miner


def _format_cells(line: Line, missing: str, mark: str) -> Iterator[tuple[str, str]]:
    """Yield our number and what was published, cell by cell."""
    for view in VIEWS:
        for metric in METRICS:
            own = format_mean(line.scores(view, metric), missing)
            own += mark if own else ""
            yield own, _format_published(line, view, metric)


def _join(cell: tuple[str, str]) -> str:
    return " ".join(part for part in cell if part)


def _format_published(line: Line, view: str, metric: str) -> str:
    published = line.published.get((view, metric))
    if published is None:
        return ""
    difference = _difference(line, view, metric)
    if difference is None:
        return f"({100 * published:.2f})"
    return f"({100 * published:.2f}, {format_points(difference)})"


def _difference(line: Line, view: str, metric: str) -> float | None:
    """Return ours minus the published number, a fraction; None if there is not both."""
    scores = line.scores(view, metric)
    published = line.published.get((view, metric))
    return mean(scores) - published if scores and published is not None else None


def _format_csv(blocks: Sequence[Block]) -> str:
    columns = ["dataset", "protocol", "row"]
    compared = any(block.published is not None for block in blocks)
    for view in VIEWS:
        columns.append(f"{view}_dim")
        for metric in METRICS:
            columns += [f"{view}_{metric}_mean", f"{view}_{metric}_half_width"]
            if compared:
                columns += [f"{view}_{metric}_published", f"{view}_{metric}_difference"]
    columns += ["n", "failed_runs", "trial", "validation_map_at_r", "trials_ended", "trials_wanted",
                "search_device_hours", "final_device_hours", "notes"]  # fmt: skip
    rows = [_csv_cells(block, line, compared) for block in blocks for line in block.lines]
    return format_csv(columns, rows)


def _csv_cells(block: Block, line: Line, compared: bool) -> list[Any]:
    cells: list[Any] = [block.dataset, block.protocol, line.name]
    finals = line.finals
    for view in VIEWS:
        cells.append(block.dimensions.get(view))
        for metric in METRICS:
            scores = line.scores(view, metric)
            cells += [mean(scores) if scores else None, confidence_half_width(scores)]
            if compared:
                cells += [line.published.get((view, metric)), _difference(line, view, metric)]
    if finals:
        cells += [len(finals.tested), finals.failed, finals.trial, _finite(finals.score)]
    else:
        cells += [0, 0, None, None]
    row = line.row
    if row is None:
        return [*cells, *[None] * 5]
    notes = "; ".join(find_footnotes(block.rows)[row.name])
    return [*cells, len(row.ended), row.wanted, row.search_hours, row.final_hours, notes]
