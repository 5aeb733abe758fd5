"""The results table: test scores of the rows' final runs."""

import argparse
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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
from analysis.reference import DIMENSIONS, PUBLISHED, Scores, add_against, read_scores
from analysis.statistics import confidence_half_width, mean
from wpm.config import WPM_SUFFIX
from wpm.errors import UserError
from wpm.records import (
    COMPLETE,
    FAILED,
    RUNNING,
    StudyPlace,
    read_finals,
    read_trials,
)
from wpm.tables import FORMATS, LATEX, format_latex, format_table

DESCRIPTION = """Print the results table: the test scores of the rows' final runs.

P@1, R-precision and MAP@R, concatenated (the fold models of a run together) and separated (each
alone, averaged): mean ± half-width of the 95% confidence interval (Student t) over the runs; a
single run has no interval. Percent for people, fractions in CSV. '-': no final runs.
Column "best trial" is the configuration, the best of the search by validation MAP@R; column
"trials" is the search's budget, ended/wanted.

--against published adds (published number, ours minus it in percentage points), and the published
rows that were not run here. --format latex and --side-by-side use the published layout: a protocol
a table, data sets side by side; LaTeX needs package booktabs.
"""
EXAMPLES = """  python -m analysis.table --dataset omniglot
  python -m analysis.table --dataset omniglot --row contrastive contrastive+wpm --format markdown
  python -m analysis.table --dataset cub200 cars196 --against published --format latex
"""

_VIEWS = ("concatenated", "separated")
_METRICS = {"precision_at_1": "P@1", "r_precision": "RP", "map_at_r": "MAP@R"}


@dataclass(frozen=True)
class FinalRuns:
    """One configuration's final runs.

    Attributes:
        trial: number of the trial that it comes from, or "published".
        score: validation MAP@R of that trial; -inf for a published configuration.
        tested: result.json of the runs that were tested.
        failed: how many runs failed.
        pending: how many runs have begun and not ended.
    """

    trial: int | str
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
    """The rows of one data set under one protocol, twins one under the other.

    Attributes:
        dataset: its name.
        protocol: its name.
        rows: those with a study.
        published: scores by row, to compare with; None: not asked for.
    """

    dataset: str
    protocol: str
    rows: Sequence[TableRow]
    published: Mapping[str, Scores] | None = None

    @property
    def lines(self) -> list["Line"]:
        """The rows, and those that are published only, twins one under the other."""
        ours = {row.name: row for row in self.rows}
        published = self.published or {}
        names = sorted({*ours, *published}, key=_twins_together)
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
    row: TableRow | None = None
    published: Scores = field(default_factory=dict)

    @property
    def finals(self) -> FinalRuns | None:
        """The row's final runs, None if there are none."""
        return self.row.finals if self.row else None

    def scores(self, view: str, metric: str) -> list[float]:
        """Return a score of every tested run."""
        return self.finals.scores(view, metric) if self.finals else []


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
            trial=_name_trial(record.content["chosen"]),
            score=_validation_score(record.content["chosen"]),
            tested=record.with_state(COMPLETE),
            failed=len(record.with_state(FAILED)),
            pending=record.results.count(None),
        )
        for record in records
    ]
    return finals, problems


def _finite(score: float) -> float | None:
    return score if math.isfinite(score) else None


def _tell(trial: int | str) -> str:
    return f"trial {trial}" if isinstance(trial, int) else f"the {trial} configuration"


def _name_trial(chosen: Mapping[str, Any]) -> int | str:
    """Say where a configuration comes from: a trial's number, or who published it."""
    if chosen["trial"] is None:
        return "published" if "published" in chosen else "none"
    return int(chosen["trial"])


def _validation_score(chosen: Mapping[str, Any]) -> float:
    """Return the score in the search; a published configuration has none, and comes last."""
    return -math.inf if chosen["score"] is None else float(chosen["score"])


def make_blocks(
    rows: Sequence[TableRow],
    against: str | None = None,
    only: Sequence[str] | None = None,
    datasets: Sequence[str] = (),
) -> list[Block]:
    """Group rows by data set and protocol, and put a `+wpm` row under its plain twin.

    Args:
        rows: at least one.
        against: `PUBLISHED` to compare with these numbers.
        only: the published rows to show; none or empty: all.
        datasets: have a block under each protocol of the rows, even without a study.
    """

    def key_of(row: TableRow) -> tuple[str, str]:
        return row.place.dataset, row.place.protocol

    ordered = sorted(rows, key=lambda row: (*key_of(row), *_twins_together(row.name)))
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


def _twins_together(row: str) -> tuple[str, bool]:
    """Sort key that puts a `+wpm` row under its plain twin."""
    plain = plain_name(row)
    return plain, row != plain


def plain_name(row: str) -> str:
    """Return the name of a row without within-pair mining."""
    return row.removesuffix(WPM_SUFFIX)


def describe_block(block: Block) -> list[str]:
    """Return what a reader must know to compare the rows of a block, a line each."""
    return [
        *_describe_published(block),
        *_describe_runs(block),
        *_describe_twins(block),
        *_describe_settings(block),
    ]


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
    absent = [line.name for line in block.lines if line.row is None]
    if absent:
        lines.append(f"published only, no study here: {', '.join(absent)}")
    return lines


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
                f"{_tell(row.finals.trial)}, the best of them in validation"
            )
        if row.best is not None and row.best[1] > row.finals.score:
            lines.append(
                f"{row.name}: shown is {_tell(row.finals.trial)}, but trial {row.best[0]} is "
                "better in validation and has no final runs (python launch.py --best-only makes "
                "them)"
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
    if not block.rows:
        return []
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
        style: one of `wpm.tables.FORMATS`; CSV makes one table of all blocks, without notes. For
            LaTeX see `format_side_by_side`.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(blocks)
    return "\n\n".join(_format_block(block, style) for block in blocks)


def _format_block(block: Block, style: str) -> str:
    labels = {view: f"{dimension}-d" for view, dimension in block.dimensions.items()}
    heading = (
        f"{block.dataset}, protocol {block.protocol}: test scores in percent "
        f"(concatenated {labels['concatenated']}, separated {labels['separated']})"
    )
    columns = [f"{labels[view]} {name}" for view in _VIEWS for name in _METRICS.values()]
    rows = [
        [
            line.name,
            *_format_cells(line, "-"),
            len(line.finals.tested) if line.finals else 0,
            line.finals.trial if line.finals else "-",
            line.row.budget if line.row else "-",
        ]
        for line in block.lines
    ]
    table = format_table(["row", *columns, "runs", "best trial", "trials"], rows, style)
    return _with_notes(heading, table, describe_block(block), style)


def _with_notes(heading: str, table: str, notes: Sequence[str], style: str) -> str:
    if style == LATEX:
        return "\n".join([f"% {heading}", "% \\usepackage{booktabs}", table,
                          *(f"% note: {line}" for line in notes)])  # fmt: skip
    if style == "markdown":
        bullets = ["", *(f"- {line}" for line in notes)] if notes else []
        return "\n".join([f"### {heading}\n", table, *bullets])
    return "\n".join([heading, table, *(f"note: {line}" for line in notes)])


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
    lines = [{line.name: line for line in block.lines} for block in blocks]
    missing = "" if style == LATEX else "-"
    rows = []
    for name in sorted({name for named in lines for name in named}, key=_published_order):
        # A row without a study of one of the data sets is empty there.
        cells = [_format_cells(named.get(name, Line(name)), missing) for named in lines]
        rows.append([name, *(cell for part in cells for cell in part)])
    if style == LATEX:
        views = [_view_label(block, view) for block in blocks for view in _VIEWS]
        headings = [
            [("", 1), *((block.dataset, len(_VIEWS) * len(_METRICS)) for block in blocks)],
            [("", 1), *((view, len(_METRICS)) for view in views)],
            [("row", 1), *((name, 1) for _ in views for name in _METRICS.values())],
        ]
        table = format_latex(headings, rows)
    else:
        columns = [
            f"{block.dataset} {_view_label(block, view)} {name}"
            for block in blocks
            for view in _VIEWS
            for name in _METRICS.values()
        ]
        table = format_table(["row", *columns], rows, style)
    notes = [
        f"{block.dataset}: {line}"
        for block in blocks
        for line in [*_describe_counts(block), *describe_block(block)]
    ]
    heading = f"protocol {protocol}: test scores in percent"
    return _with_notes(heading, table, notes, style)


def _view_label(block: Block, view: str) -> str:
    dimension = block.dimensions.get(view)
    return view if dimension is None else f"{view} {dimension}-d"


def _describe_counts(block: Block) -> list[str]:
    """Say over how many runs the means are: the published layout has no column for it."""
    counts = [f"{row.name} {len(row.finals.tested)}" for row in block.rows if row.finals]
    return [f"tested runs: {', '.join(counts)}"] if counts else []


def _published_order(row: str) -> tuple[int, str, bool]:
    """Sort key: as published, then by name; a `+wpm` row under its twin."""
    published = list(read_scores("cub200", "mlrc"))
    plain, mined = _twins_together(row)
    return published.index(plain) if plain in published else len(published), plain, mined


def _format_cells(line: Line, missing: str) -> Iterator[str]:
    for view in _VIEWS:
        for metric in _METRICS:
            own = _format_own(line.scores(view, metric), missing)
            published = _format_published(line, view, metric)
            yield " ".join(part for part in (own, published) if part)


def _format_own(scores: Sequence[float], missing: str) -> str:
    if not scores:
        return missing
    half_width = confidence_half_width(scores)
    interval = "" if half_width is None else f" ± {100 * half_width:.2f}"
    return f"{100 * mean(scores):.2f}{interval}"


def _format_published(line: Line, view: str, metric: str) -> str:
    published = line.published.get((view, metric))
    if published is None:
        return ""
    difference = _difference(line, view, metric)
    if difference is None:
        return f"({100 * published:.2f})"
    points = round(100 * difference, 2) + 0.0  # no -0.00
    return f"({100 * published:.2f}, {points:+.2f})"


def _difference(line: Line, view: str, metric: str) -> float | None:
    """Return ours minus the published number, a fraction; None if there is not both."""
    scores = line.scores(view, metric)
    published = line.published.get((view, metric))
    return mean(scores) - published if scores and published is not None else None


def _format_csv(blocks: Sequence[Block]) -> str:
    columns = ["dataset", "protocol", "row"]
    compared = any(block.published is not None for block in blocks)
    for view in _VIEWS:
        columns.append(f"{view}_dim")
        for metric in _METRICS:
            columns += [f"{view}_{metric}_mean", f"{view}_{metric}_half_width"]
            if compared:
                columns += [f"{view}_{metric}_published", f"{view}_{metric}_difference"]
    columns += ["n", "failed_runs", "trial", "validation_map_at_r", "trials_ended", "trials_wanted"]
    rows = [_csv_cells(block, line, compared) for block in blocks for line in block.lines]
    cells = [["" if cell is None else cell for cell in row] for row in rows]
    return format_table(columns, cells, "csv")


def _csv_cells(block: Block, line: Line, compared: bool) -> list[Any]:
    cells: list[Any] = [block.dataset, block.protocol, line.name]
    finals = line.finals
    for view in _VIEWS:
        cells.append(block.dimensions.get(view))
        for metric in _METRICS:
            scores = line.scores(view, metric)
            cells += [mean(scores) if scores else None, confidence_half_width(scores)]
            if compared:
                cells += [line.published.get((view, metric)), _difference(line, view, metric)]
    runs = (
        (len(finals.tested), finals.failed, finals.trial, _finite(finals.score)) if finals else None
    )
    budget = (line.row.ended, line.row.wanted) if line.row else (None, None)
    return [*cells, *(runs or (0, 0, None, None)), *budget]


def _print_table(args: argparse.Namespace) -> None:
    beside = args.side_by_side or args.format == LATEX
    if beside and args.format == "csv":
        raise UserError("--side-by-side is not for csv, which has a line a row and data set")
    rows = read_studies(select_studies(args), read_row)
    blocks = make_blocks(rows, args.against, args.row, args.dataset or ())
    if beside:
        if args.dataset:
            blocks.sort(key=lambda block: args.dataset.index(block.dataset))
        print(format_side_by_side(blocks, args.format))
        return
    # A data set without a study has lines only where its numbers are published.
    blocks = [block for block in blocks if block.rows or block.published]
    print(format_blocks(blocks, args.format))
    if args.format == "csv":  # no room for notes in the table
        report_problems([line for block in blocks for line in describe_block(block)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.table", DESCRIPTION, EXAMPLES, (*FORMATS, LATEX))
    add_against(parser, "compare with the published numbers (cub200 and cars196 under mlrc)")
    parser.add_argument(
        "--side-by-side", action="store_true", help="data sets side by side, as published"
    )
    return run_main(parser, _print_table, arguments)


if __name__ == "__main__":
    sys.exit(main())
