"""Lay out the results table as text, Markdown and CSV, one table for each block."""

import math
from collections.abc import Sequence
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.studies.fairness import find_footnotes
from analysis.studies.row_results import METRICS, VIEWS
from analysis.studies.table_blocks import TableBlock, TableLine
from analysis.text.footnotes import Footnotes, describe_block
from analysis.text.layout import NotedTable, format_csv, format_hours
from analysis.text.table_cells import difference_from_published, format_cells, join_cell


def format_blocks(blocks: Sequence[TableBlock], style: str) -> str:
    """Lay out one table for each block. LaTeX has only `format_side_by_side`.

    Args:
        blocks: at least one.
        style: one of `wpm.formatting.FORMATS`; CSV makes one table of all blocks, without notes.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(blocks)
    return "\n\n".join(lay_out_block(block).format(style) for block in blocks)


def lay_out_block(block: TableBlock) -> NotedTable:
    """Return the table of one block, with its footnotes."""
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
            *map(join_cell, format_cells(line, "-", footnotes.mark(block, line))),
            *_format_counts(line),
        ]
        for line in block.lines
    ]
    columns = ["row", *columns, "runs", "best trial", "trials", "search h", "runs h"]
    return NotedTable(heading, columns, rows, [*describe_block(block), *footnotes.lines])


def _format_counts(line: TableLine) -> list[Any]:
    """Return runs, best trial, trials, device-hours of the search and device-hours of the runs."""
    return [
        len(line.finals.tested) if line.finals else 0,
        line.finals.trial if line.finals else "-",
        line.row.ended_of_budget if line.row else "-",
        format_hours(line.row.search_hours) if line.row else "-",
        format_hours(line.row.final_hours) if line.row else "-",
    ]


def _format_csv(blocks: Sequence[TableBlock]) -> str:
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


def _csv_cells(block: TableBlock, line: TableLine, compared: bool) -> list[Any]:
    cells: list[Any] = [block.dataset, block.protocol, line.name]
    finals = line.finals
    for view in VIEWS:
        cells.append(block.dimensions.get(view))
        for metric in METRICS:
            scores = line.scores(view, metric)
            cells += [mean(scores) if scores else None, confidence_half_width(scores)]
            if compared:
                cells += [
                    line.published.get((view, metric)),
                    difference_from_published(line, view, metric),
                ]
    if finals:
        cells += [len(finals.tested), finals.failed, finals.trial, _finite(finals.score)]
    else:
        cells += [0, 0, None, None]
    row = line.row
    if row is None:
        return [*cells, *[None] * 5]
    notes = "; ".join(find_footnotes(block.rows)[row.name])
    return [*cells, len(row.ended), row.budget, row.search_hours, row.final_hours, notes]


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None
