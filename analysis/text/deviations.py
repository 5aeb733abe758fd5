"""Lay out what studies do otherwise than published."""

from collections.abc import Sequence

from analysis.studies.deviations import SOURCES, find_deviations
from analysis.studies.row_record import RowRecord
from analysis.text.layout import NotedTable, format_csv

_COLUMNS = ("what", "here", "published", "source")


def format_deviations(rows: Sequence[RowRecord], style: str) -> str:
    """Lay out a table for each study.

    Args:
        rows: the studies.
        style: one of `wpm.formatting.FORMATS`; CSV makes one table of all studies.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        lines = [
            [*row.place.order, *vars(found).values()]
            for row in rows
            for found in find_deviations(row)
        ]
        return format_csv(("dataset", "protocol", "row", "search", *_COLUMNS), lines)
    return "\n\n".join(_lay_out(row).format(style) for row in rows)


def _lay_out(row: RowRecord) -> NotedTable:
    found = find_deviations(row)
    name = row.place.name
    if not found:
        return NotedTable(name, _COLUMNS, [], empty="nothing in the records deviates")
    used = [source for source in SOURCES if source in {deviation.source for deviation in found}]
    notes = [f"{source}: {SOURCES[source]}" for source in used]
    heading = f"{name}: {count_deviations(len(found))}"
    return NotedTable(heading, _COLUMNS, [list(vars(d).values()) for d in found], notes)


def count_deviations(number: int) -> str:
    """Say how many deviations there are."""
    return f"{number} deviation{'' if number == 1 else 's'}"


def describe_count(rows: Sequence[RowRecord]) -> list[str]:
    """Count the deviations of the rows of one block, and name the command that lists them."""
    counts: dict[int, list[str]] = {}
    for row in rows:
        found = find_deviations(row)
        if found:
            counts.setdefault(len(found), []).append(row.name)
    if not counts:
        return []
    texts = [f"{count_deviations(count)} of {', '.join(names)}" for count, names in counts.items()]
    place = rows[0].place
    command = f"python -m analysis.deviations --dataset {place.dataset} --protocol {place.protocol}"
    return [f"not as published: {'; '.join(texts)} ({command} lists them)"]
