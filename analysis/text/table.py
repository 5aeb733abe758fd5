"""Lay out the results table as text, Markdown and CSV, one table for each block."""

import math
from collections.abc import Sequence
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.studies.fairness import find_footnotes
from analysis.studies.row_record import METRICS, VIEWS
from analysis.studies.table_blocks import TableBlock, TableLine
from analysis.text.footnotes import Footnotes, describe_block, describe_scopes
from analysis.text.layout import NotedTable, format_csv, format_hours
from analysis.text.table_cells import difference_from_published, format_cells, join_cell
from analysis.text.verdict import name_scope

_ANY_SCORE = ("concatenated", "map_at_r")  # all scores of a row have as many runs


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
    notes = [*describe_block(block), *describe_scopes(block), *footnotes.lines]
    return NotedTable(heading, columns, rows, notes)


def _format_counts(line: TableLine) -> list[Any]:
    """Return runs, best trial, trials, device-hours of the search and device-hours of the runs.

    Of several searches, the runs and the best trial of each are listed in their order, and the rest
    is summed.
    """
    row = line.row
    if row is None:
        return [0, "-", "-", "-", "-"]
    return [
        ", ".join(map(str, row.tested_runs)) or 0,
        ", ".join(str(finals.trial) for finals in row.finals) or "-",
        row.ended_of_budget,
        format_hours(row.search_hours),
        format_hours(row.final_hours),
    ]


def _format_csv(blocks: Sequence[TableBlock]) -> str:
    columns = ["dataset", "protocol", "row"]
    compared = any(block.published is not None for block in blocks)
    for view in VIEWS:
        columns.append(f"{view}_dim")
        for metric in METRICS:
            columns += [
                f"{view}_{metric}_{what}" for what in ("mean", "half_width", "search_sd", "seed_sd")
            ]
            if compared:
                columns += [f"{view}_{metric}_published", f"{view}_{metric}_difference"]
    columns += ["searches", "half_width_of", "n", "failed_runs", "trial", "validation_map_at_r",
                "trials_ended", "trials_wanted", "search_device_hours", "final_device_hours",
                "notes"]  # fmt: skip
    rows = [_csv_cells(block, line, compared) for block in blocks for line in block.lines]
    return format_csv(columns, rows)


def _csv_cells(block: TableBlock, line: TableLine, compared: bool) -> list[Any]:
    cells: list[Any] = [block.dataset, block.protocol, line.name]
    row = line.row
    for view in VIEWS:
        cells.append(block.dimensions.get(view))
        for metric in METRICS:
            scores = line.scores(view, metric)
            split = row.split(view, metric) if row else None
            cells += [
                mean(scores) if scores else None,
                confidence_half_width(scores),
                split.search_sd if split else None,
                split.seed_sd if split else None,
            ]
            if compared:
                cells += [
                    line.published.get((view, metric)),
                    difference_from_published(line, view, metric),
                ]
    if row is None:
        return [*cells, 0, None, 0, 0, *[None] * 7]
    tested = sum(count > 0 for count in row.tested_runs)
    scope = name_scope(tested) if len(line.scores(*_ANY_SCORE)) > 1 else None
    best = [finals.score for finals in row.finals if math.isfinite(finals.score)]
    notes = find_footnotes(block.rows)
    return [
        *cells,
        len(row.searches),
        scope,
        sum(row.tested_runs),
        sum(finals.failed for finals in row.finals),
        " ".join(str(finals.trial) for finals in row.finals) or None,
        mean(best) if best else None,
        row.trials_ended,
        row.budget,
        row.search_hours,
        row.final_hours,
        "; ".join(note for search in row.searches for note in notes[search.name]),
    ]
