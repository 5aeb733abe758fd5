"""The results table: test scores of the rows' final runs."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from analysis.options import (
    build_parser,
    read_studies,
    report_problems,
    require_study,
    run_main,
    select_studies,
)
from analysis.statistics import confidence_half_width, mean
from wpm.config import WPM_SUFFIX
from wpm.records import (
    COMPLETE,
    FAILED,
    RUNNING,
    StudyPlace,
    read_finals,
    read_trials,
)
from wpm.tables import format_table

DESCRIPTION = """Print the results table: the test scores of the rows' final runs.

P@1, R-precision and MAP@R, concatenated (the fold models of a run together) and separated (each
alone, averaged): mean ± half-width of the 95% confidence interval (Student t) over the runs; a
single run has no interval. Percent for people, fractions in CSV. '-': no final runs.
Column "best trial" is the configuration, the best of the search by validation MAP@R; column
"trials" is the search's budget, ended/wanted.
"""
EXAMPLES = """  python -m analysis.table --dataset omniglot
  python -m analysis.table --dataset omniglot --row contrastive contrastive+wpm --format markdown
"""

_VIEWS = ("concatenated", "separated")
_METRICS = {"precision_at_1": "P@1", "r_precision": "RP", "map_at_r": "MAP@R"}


@dataclass(frozen=True)
class FinalRuns:
    """One configuration's final runs.

    Attributes:
        trial: number of the trial that it comes from.
        score: validation MAP@R of that trial.
        tested: result.json of the runs that were tested.
        failed: how many runs failed.
        pending: how many runs have begun and not ended.
    """

    trial: int
    score: float
    tested: Sequence[Mapping[str, Any]]
    failed: int
    pending: int

    def scores(self, view: str, metric: str) -> list[float]:
        """Return a score of every tested run."""
        return [result[view][metric] for result in self.tested]


@dataclass(frozen=True)
class TableRow:
    """A line of the table.

    Attributes:
        place: the study.
        identity: of the study: protocol, images and more.
        ended: trials that ended.
        wanted: trials of its budget.
        best: number and score of its best complete trial, None if there is none.
        finals: the final runs of its best configuration, None if there are none.
        configurations: how many configurations were trained finally.
    """

    place: StudyPlace
    identity: Mapping[str, Any]
    ended: int
    wanted: int
    best: tuple[int, float] | None
    finals: FinalRuns | None
    configurations: int

    @property
    def name(self) -> str:
        """The row's name."""
        return self.place.row

    @property
    def budget(self) -> str:
        """Trials ended of trials wanted."""
        return f"{self.ended}/{self.wanted}"


@dataclass(frozen=True)
class Block:
    """The rows of one data set under one protocol, twins one under the other."""

    rows: Sequence[TableRow]

    @property
    def dimensions(self) -> dict[str, int]:
        """Length of an embedding in each view."""
        protocol = self.rows[0].identity["protocol"]
        separated = protocol["embedding_dim"]
        return {"concatenated": separated * protocol["folds"], "separated": separated}


def read_row(place: StudyPlace) -> tuple[TableRow, list[str]]:
    """Read what the table says about a study.

    Returns:
        The row, and a line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    study = require_study(place)
    records, problems = read_trials(place)
    finals, more_problems = read_final_runs(place)
    complete = [
        (int(record.identity["number"]), float(record.result["score"]))
        for record in records
        if record.result is not None and record.state == COMPLETE
    ]
    row = TableRow(
        place=place,
        identity=study["identity"],
        ended=sum(record.state != RUNNING for record in records),
        wanted=study["trials"],
        best=max(complete, key=lambda trial: trial[1], default=None),
        # The best by validation: a choice by test score would flatter the row.
        finals=max(finals, key=lambda final: final.score, default=None),
        configurations=len(finals),
    )
    return row, problems + more_problems


def read_final_runs(place: StudyPlace) -> tuple[list[FinalRuns], list[str]]:
    """Read the final runs of all configurations of a study.

    Returns:
        The readable ones, and a line for each damaged record.
    """
    records, problems = read_finals(place)
    finals = [
        FinalRuns(
            trial=record.content["chosen"]["trial"],
            score=record.content["chosen"]["score"],
            tested=record.with_state(COMPLETE),
            failed=len(record.with_state(FAILED)),
            pending=record.results.count(None),
        )
        for record in records
    ]
    return finals, problems


def make_blocks(rows: Sequence[TableRow]) -> list[Block]:
    """Group rows by data set and protocol, and put a `+wpm` row under its plain twin."""

    def place_of(row: TableRow) -> tuple[str, str, str, bool]:
        plain = plain_name(row.name)
        return row.place.dataset, row.place.protocol, plain, row.name != plain

    ordered = sorted(rows, key=place_of)
    grouped = groupby(ordered, key=lambda row: (row.place.dataset, row.place.protocol))
    return [Block(list(group)) for _, group in grouped]


def plain_name(row: str) -> str:
    """Return the name of a row without within-pair mining."""
    return row.removesuffix(WPM_SUFFIX)


def describe_block(block: Block) -> list[str]:
    """Return what a reader must know to compare the rows of a block, a line each."""
    return [*_describe_runs(block), *_describe_twins(block), *_describe_settings(block)]


def _describe_runs(block: Block) -> list[str]:
    lines = []
    untested = [row.name for row in block.rows if row.finals is None]
    if untested:
        names = ", ".join(untested)
        lines.append(f"no final runs (python launch.py --best-only makes them): {names}")
    for row in block.rows:
        if row.finals is None:
            continue
        if row.finals.failed:
            lines.append(f"{row.name}: {_count(row.finals.failed, 'final run')} failed, left out")
        if row.finals.pending:
            lines.append(f"{row.name}: {_count(row.finals.pending, 'final run')} not ended yet")
        if row.configurations > 1:
            lines.append(
                f"{row.name}: {row.configurations} configurations have final runs; shown is "
                f"trial {row.finals.trial}, the best of them in validation"
            )
        if row.best is not None and row.best[1] > row.finals.score:
            lines.append(
                f"{row.name}: shown is trial {row.finals.trial}, but trial {row.best[0]} is better "
                "in validation and has no final runs (python launch.py --best-only makes them)"
            )
    return lines


def _describe_twins(block: Block) -> list[str]:
    """Compare the search of each plain row with that of its `+wpm` twin."""
    lines = []
    by_name = {row.name: row for row in block.rows}
    for plain in block.rows:
        mined = by_name.get(plain.name + WPM_SUFFIX)
        if mined is None:
            continue
        if (plain.ended, plain.wanted) != (mined.ended, mined.wanted):
            lines.append(
                f"unequal search budgets: {plain.name} {plain.budget} trials, "
                f"{mined.name} {mined.budget} trials"
            )
        if plain.identity["early_stopping"] != mined.identity["early_stopping"]:
            stopped, other = (plain, mined) if plain.identity["early_stopping"] else (mined, plain)
            lines.append(
                f"unequal search budgets: {stopped.name} with early stopping, {other.name} without"
            )
    return lines


def _describe_settings(block: Block) -> list[str]:
    """Name rows that were not searched under the same conditions as the first."""
    first = block.rows[0]
    return [
        f"{row.name}: {what} differ from those of {first.name}, not comparable"
        for row in block.rows
        for key, what in (("protocol", "protocol settings"), ("images", "images"))
        if row.identity[key] != first.identity[key]
    ]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def format_blocks(blocks: Sequence[Block], style: str) -> str:
    """Lay the tables out.

    Args:
        blocks: at least one.
        style: one of `wpm.tables.FORMATS`; CSV makes one table of all blocks, without notes.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(blocks)
    return "\n\n".join(_format_block(block, style) for block in blocks)


def _format_block(block: Block, style: str) -> str:
    place = block.rows[0].place
    labels = {view: f"{dimension}-d" for view, dimension in block.dimensions.items()}
    heading = (
        f"{place.dataset}, protocol {place.protocol}: test scores in percent "
        f"(concatenated {labels['concatenated']}, separated {labels['separated']})"
    )
    columns = [f"{labels[view]} {name}" for view in _VIEWS for name in _METRICS.values()]
    rows = [
        [
            row.name,
            *(_format_cell(row.finals, view, metric) for view in _VIEWS for metric in _METRICS),
            len(row.finals.tested) if row.finals else 0,
            row.finals.trial if row.finals else "-",
            row.budget,
        ]
        for row in block.rows
    ]
    table = format_table(["row", *columns, "runs", "best trial", "trials"], rows, style)
    notes = describe_block(block)
    if style == "markdown":
        heading = f"### {heading}\n"
        notes = ["", *(f"- {line}" for line in notes)] if notes else []
    else:
        notes = [f"note: {line}" for line in notes]
    return "\n".join([heading, table, *notes])


def _format_cell(finals: FinalRuns | None, view: str, metric: str) -> str:
    scores = finals.scores(view, metric) if finals else []
    if not scores:
        return "-"
    half_width = confidence_half_width(scores)
    interval = "" if half_width is None else f" ± {100 * half_width:.2f}"
    return f"{100 * mean(scores):.2f}{interval}"


def _format_csv(blocks: Sequence[Block]) -> str:
    columns = ["dataset", "protocol", "row"]
    for view in _VIEWS:
        columns.append(f"{view}_dim")
        for metric in _METRICS:
            columns += [f"{view}_{metric}_mean", f"{view}_{metric}_half_width"]
    columns += ["n", "failed_runs", "trial", "validation_map_at_r", "trials_ended", "trials_wanted"]
    rows = [_csv_cells(block, row) for block in blocks for row in block.rows]
    cells = [["" if cell is None else cell for cell in row] for row in rows]
    return format_table(columns, cells, "csv")


def _csv_cells(block: Block, row: TableRow) -> list[Any]:
    cells: list[Any] = [row.place.dataset, row.place.protocol, row.name]
    finals = row.finals
    for view in _VIEWS:
        cells.append(block.dimensions[view])
        for metric in _METRICS:
            scores = finals.scores(view, metric) if finals else []
            cells += [mean(scores) if scores else None, confidence_half_width(scores)]
    runs = (len(finals.tested), finals.failed, finals.trial, finals.score) if finals else None
    return [*cells, *(runs or (0, 0, None, None)), row.ended, row.wanted]


def _print_table(args: argparse.Namespace) -> None:
    blocks = make_blocks(read_studies(select_studies(args), read_row))
    print(format_blocks(blocks, args.format))
    if args.format == "csv":  # no room for notes in the table
        report_problems([line for block in blocks for line in describe_block(block)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.table", DESCRIPTION, EXAMPLES)
    return run_main(parser, _print_table, arguments)


if __name__ == "__main__":
    sys.exit(main())
