"""Group rows into the blocks of the results table: one for each data set and protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from analysis.studies.published import DIMENSIONS, PUBLISHED, Scores, read_scores
from analysis.studies.row_record import RowRecord
from analysis.studies.row_searches import RowSearches, group_searches
from wpm.rows import Row


@dataclass(frozen=True)
class TableLine:
    """What one line of the table shows.

    Attributes:
        name: name of the row.
        row: our results, with all searches of the row; None if the row is only published.
        published: published scores of the row; empty if there are none.
    """

    name: str
    row: RowSearches | None = None
    published: Scores = field(default_factory=dict)

    @property
    def order(self) -> tuple[str, str]:
        """A sort key that puts a row with a miner below its plain twin."""
        return twin_order(Row.parse(self.name) if self.row is None else self.row.place.row)

    def scores(self, view: str, metric: str) -> list[float]:
        """Return what counts once each: the mean of every search, or the runs of the only one."""
        return self.row.scores(view, metric) if self.row else []


@dataclass(frozen=True)
class TableBlock:
    """The rows of one data set under one protocol; a twin follows its plain row.

    Attributes:
        rows: the rows that have a study; of a row that was searched several times, every search.
        published: published scores by row, to compare with; None if they are not asked for.
    """

    dataset: str
    protocol: str
    rows: Sequence[RowRecord]
    published: Mapping[str, Scores] | None = None

    @property
    def lines(self) -> list[TableLine]:
        """The rows with a study and those that are only published; a twin follows its plain row."""
        published = dict(self.published or {})
        ours = [
            TableLine(row.name, row, published.get(str(row.place.row), {}))
            for row in group_searches(self.rows)
        ]
        known = {str(row.place.row) for row in self.rows}
        others = [TableLine(name, None, published[name]) for name in published.keys() - known]
        return sorted([*ours, *others], key=lambda line: line.order)

    @property
    def dimensions(self) -> dict[str, int]:
        """Dimension of the embeddings in each view; without a study, the published dimension."""
        if not self.rows:
            return DIMENSIONS if self.published else {}
        protocol = self.rows[0].identity["protocol"]
        separated = protocol["embedding_dim"]
        return {"concatenated": separated * protocol["folds"], "separated": separated}


def make_blocks(
    rows: Sequence[RowRecord],
    against: str | None = None,
    only: Sequence[str] | None = None,
    datasets: Sequence[str] = (),
) -> list[TableBlock]:
    """Group rows by data set and protocol, and put a row with a miner below its plain twin.

    Args:
        rows: at least one row.
        against: `PUBLISHED` to compare with the published numbers.
        only: published rows to show; None or empty shows all.
        datasets: data sets that have a block under each protocol even without a study.
    """

    def key_of(row: RowRecord) -> tuple[str, str]:
        return row.place.dataset, row.place.protocol

    def order_of(row: RowRecord) -> tuple[str, str, str, str, int]:
        return *key_of(row), *twin_order(row.place.row), row.place.search

    ordered = sorted(rows, key=order_of)
    grouped = {key: list(group) for key, group in groupby(ordered, key=key_of)}
    protocols = {protocol for _, protocol in grouped}
    keys = {*grouped, *((dataset, protocol) for dataset in datasets for protocol in protocols)}
    blocks = []
    for dataset, protocol in sorted(keys):
        published = None
        if against == PUBLISHED:
            scores = read_scores(dataset, protocol)
            published = {name: scores[name] for name in scores if not only or name in only}
        blocks.append(
            TableBlock(dataset, protocol, grouped.get((dataset, protocol), []), published)
        )
    return blocks


def twin_order(row: Row) -> tuple[str, str]:
    """Return a sort key that puts a row with a miner below its plain twin."""
    return row.loss, row.miner or ""
