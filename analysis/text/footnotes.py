"""The notes below the results table: on a block, and on the numbers of a row."""

from collections.abc import Mapping, Sequence

from analysis.studies.fairness import (
    describe_age,
    describe_choice,
    describe_departures,
    find_footnotes,
)
from analysis.studies.published import DIMENSIONS, read_scores
from analysis.studies.row_record import METRICS, VIEWS, RowRecord
from analysis.studies.table_blocks import TableBlock, TableLine
from analysis.text.deviations import describe_count
from analysis.text.layout import format_percent
from analysis.text.verdict import THESE_CONFIGURATIONS, describe_spread

_SPLIT_SCORE = ("concatenated", "map_at_r")  # the score whose variance is split in a note


def describe_block(block: TableBlock) -> list[str]:
    """Return the notes on an entire block, one line each."""
    lines = [*_describe_published(block), *describe_age(block.rows)]
    untested = [row.name for row in block.rows if row.finals is None]
    if untested:
        names = ", ".join(untested)
        lines.append(f"no final runs (python launch.py --best-only makes them): {names}")
    lines += [line for row in block.rows for line in describe_choice(row)]
    return [*lines, *describe_count(block.rows)]


def describe_scopes(block: TableBlock) -> list[str]:
    """Say what the intervals of a block hold, and how scores of several searches vary."""
    single, several = [], []
    for line in block.lines:
        searches = sum(count > 0 for count in line.row.tested_runs) if line.row else 0
        if line.row and searches > 1:
            spread = describe_spread(line.row.split(*_SPLIT_SCORE))
            several.append(
                f"{line.name}: ± holds another search and another seed, of {searches} searches; "
                f"concatenated MAP@R has a {spread}"
            )
        elif len(line.scores(*_SPLIT_SCORE)) > 1:
            single.append(line.name)
    if single:
        names = f" ({', '.join(single)})" if several else ""
        single = [
            f"± is of {THESE_CONFIGURATIONS} with other seeds; how much another search would "
            f"differ is not in it{names}"
        ]
    return [*single, *several]


def _describe_published(block: TableBlock) -> list[str]:
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
    lines += describe_departures(block.rows, block.dataset)
    lines += [line for row in block.rows for line in _describe_reductions(row, block.dimensions)]
    absent = [line.name for line in block.lines if line.row is None]
    if absent:
        lines.append(f"published only, no study here: {', '.join(absent)}")
    return lines


def _describe_reductions(row: RowRecord, dimensions: Mapping[str, int]) -> list[str]:
    """Give the scores of the row without training under the reductions of the originals."""
    if row.finals is None or not row.finals.reductions:
        return []
    texts = []
    for reduction, scores in row.finals.reductions.items():
        views = [
            f"{dimensions[view]}-d "
            + " / ".join(format_percent(scores[view, metric]) for metric in METRICS)
            for view in VIEWS
        ]
        texts.append(f"of {reduction} features {', '.join(views)}")
    return [
        f"{row.name}: the originals fit PCA to the standardised test features, which gives "
        f"{' / '.join(METRICS.values())} {'; '.join(texts)}; shown is PCA of the trainval features"
    ]


class Footnotes:
    """Numbered notes on the rows of some blocks, in the order of their first use.

    Equal notes have one number.
    """

    def __init__(self, blocks: Sequence[TableBlock]) -> None:
        several = len(blocks) > 1
        self.texts: list[str] = []
        self._numbers: dict[tuple[str, str], list[int]] = {}
        for block in blocks:
            for name, notes in find_footnotes(block.rows).items():
                texts = [f"{block.dataset}: {note}" if several else note for note in notes]
                self.texts += [text for text in texts if text not in self.texts]
                numbers = sorted(self.texts.index(text) + 1 for text in texts)
                self._numbers[block.dataset, name] = numbers

    def mark(self, block: TableBlock, line: TableLine) -> str:
        """Return the mark behind the numbers of a row, such as " [1,2]", or ""."""
        searches = line.row.searches if line.row else ()
        found = (self._numbers.get((block.dataset, search.name), []) for search in searches)
        numbers = sorted({number for one in found for number in one})
        return f" [{','.join(map(str, numbers))}]" if numbers else ""

    @property
    def lines(self) -> list[str]:
        """The notes with their numbers."""
        return [f"[{number}] {text}" for number, text in enumerate(self.texts, start=1)]
