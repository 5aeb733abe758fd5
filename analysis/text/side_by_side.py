"""Lay out the results table as published: data sets side by side, one table for each protocol."""

from collections.abc import Sequence

from analysis.studies.published import read_scores
from analysis.studies.row_record import METRICS, VIEWS
from analysis.studies.table_blocks import TableBlock, TableLine
from analysis.text.footnotes import Footnotes, describe_block, describe_scopes
from analysis.text.latex import LATEX, DatasetColumns, Entry, escape_latex, format_page
from analysis.text.layout import NotedTable, format_hours
from analysis.text.table_cells import format_cells, join_cell


def format_side_by_side(blocks: Sequence[TableBlock], style: str) -> str:
    """Lay out the tables as published: data sets side by side, one table for each protocol.

    Args:
        blocks: at least one; their order is the order of the data sets.
        style: "text", "markdown" or "latex".

    Returns:
        Text without a final newline.
    """
    by_protocol: dict[str, list[TableBlock]] = {}
    for block in blocks:
        by_protocol.setdefault(block.protocol, []).append(block)
    return "\n\n".join(
        _format_beside(protocol, by_protocol[protocol], style) for protocol in sorted(by_protocol)
    )


def _format_beside(protocol: str, blocks: Sequence[TableBlock], style: str) -> str:
    heading = f"protocol {protocol}: test scores in percent"
    footnotes = Footnotes(blocks)
    views = {block.dataset: [_view_label(block, view) for view in VIEWS] for block in blocks}
    lines = [{line.name: line for line in block.lines} for block in blocks]
    rows = []
    orders = {name: _published_order(line) for named in lines for name, line in named.items()}
    for name in sorted(orders, key=lambda name: orders[name]):
        # If a row has no study on one of the data sets, its cells there are empty.
        found = [named.get(name, TableLine(name)) for named in lines]
        rows.append((name, list(zip(blocks, found, strict=True))))
    notes = [*_describe_beside(blocks), *footnotes.lines]
    if style == LATEX:
        parts = [DatasetColumns(dataset, views[dataset], [*METRICS.values()]) for dataset in views]
        entries = [
            (
                escape_latex(name),
                [
                    Entry([*format_cells(line, "", "")], footnotes.mark(block, line).strip())
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
                join_cell(cell)
                for block, line in found
                for cell in format_cells(line, "-", footnotes.mark(block, line))
            ),
        ]
        for name, found in rows
    ]
    return NotedTable(heading, ["row", *columns], cells, notes).format(style)


def _describe_beside(blocks: Sequence[TableBlock]) -> list[str]:
    """Return the notes on all blocks; a note that several blocks share is one line."""
    about: dict[str, list[str]] = {}
    for block in blocks:
        for line in (*_describe_costs(block), *describe_block(block), *describe_scopes(block)):
            about.setdefault(line, []).append(block.dataset)
    return [f"{', '.join(datasets)}: {line}" for line, datasets in about.items()]


def _view_label(block: TableBlock, view: str) -> str:
    dimension = block.dimensions.get(view)
    return view if dimension is None else f"{view} {dimension}-d"


def _describe_costs(block: TableBlock) -> list[str]:
    """Return the numbers of runs and their costs, for which the published layout has no columns."""
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


def _published_order(line: TableLine) -> tuple[int, str, str]:
    """Return a sort key: the published order, then by name; a row with a miner follows its twin."""
    published = list(read_scores("cub200", "mlrc"))
    loss = line.order[0]
    return published.index(loss) if loss in published else len(published), *line.order
