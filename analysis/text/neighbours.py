"""Lay out the neighbours of query images."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from analysis.text.layout import NotedTable, format_csv

_COLUMNS = ("rank", "similarity", "image")


@dataclass(frozen=True)
class NearImage:
    """An image near a query: its path, and their cosine similarity."""

    path: str
    similarity: float


@dataclass(frozen=True)
class QueryResult:
    """A query image and its neighbours, the most similar first."""

    query: str
    neighbours: Sequence[NearImage]


def format_neighbours(results: Sequence[QueryResult], style: str) -> str:
    """Lay out a table for each query.

    Args:
        style: one of `wpm.formatting.FORMATS`; CSV makes one table of all queries.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        lines = [
            [format_path(result.query), rank, image.similarity, format_path(image.path)]
            for result in results
            for rank, image in enumerate(result.neighbours, start=1)
        ]
        return format_csv(["query", *_COLUMNS], lines)
    return "\n\n".join(_make_table(result).format(style) for result in results)


def _make_table(result: QueryResult) -> NotedTable:
    rows = [
        [rank, format_similarity(image.similarity), format_path(image.path)]
        for rank, image in enumerate(result.neighbours, start=1)
    ]
    return NotedTable(f"neighbours of {format_path(result.query)}", _COLUMNS, rows, empty="none")


def format_similarity(similarity: float) -> str:
    """Write a cosine similarity for people."""
    return f"{similarity:.3f}"


def format_path(path: str) -> str:
    """Write a path for people; bytes that are no UTF-8, which files may have, are replaced."""
    return os.fsencode(path).decode("utf-8", "replace")
