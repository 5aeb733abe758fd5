"""What the page shows about all studies together: results, comparisons, what was run."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from analysis.numbers.boundary import BoundaryCheck
from analysis.report_page import runs_figures, search_figures
from analysis.report_page.study_section import StudySection
from analysis.report_page.theme import Figure
from analysis.studies.comparison import Comparison, compare_rows, correct_comparisons
from analysis.studies.published import PUBLISHED, read_scores
from analysis.studies.row_pairs import choose_twins
from analysis.studies.row_record import METRICS, VIEWS, RowRecord
from analysis.studies.row_searches import group_searches, search_curve
from analysis.studies.table_blocks import make_blocks
from analysis.studies.validation import validate_rows
from analysis.text.comparison import lay_out_finals
from analysis.text.layout import NotedTable, format_hours, format_percent, format_points
from analysis.text.table import lay_out_block
from analysis.text.validation import lay_out_agreements
from analysis.text.verdict import describe_difference, describe_order
from wpm.errors import UserError
from wpm.records import TrialState

_VIEW, _METRIC = "concatenated", "map_at_r"  # the score of the headline


@dataclass(frozen=True)
class StudyFacts:
    """What the overview needs of a study. The section itself is dropped once it is laid out.

    Attributes:
        row: the study's search and final runs.
        anchor: name of the study's section in links.
        started: start of the first trial; None if no record has it.
        ended: end of the last trial; None if no record has it.
        versions: versions of the code and the libraries that started the study.
        machine: the machine that started the study.
        checks: boundary check of the best trial.
        skill: how well the forest behind the importances predicts; None if there are none.
    """

    row: RowRecord
    anchor: str
    started: datetime | None
    ended: datetime | None
    versions: str
    machine: str
    checks: Sequence[BoundaryCheck]
    skill: float | None


@dataclass(frozen=True)
class TableSection:
    """A heading with sentences, then tables, then figures below it."""

    heading: str
    lines: Sequence[str] = ()
    tables: Sequence[NotedTable] = ()
    figures: Sequence[Figure] = ()


def collect_facts(row: RowRecord, section: StudySection) -> StudyFacts:
    """Return what the overview needs of a section."""
    row_importance = section.row_importance
    search, provenance = row_importance.search, row_importance.search.provenance
    libraries = provenance.get("libraries") or {}
    versions = [f"wpm {provenance.get('wpm', '?')} ({provenance.get('commit') or 'no commit'})"]
    versions += [f"Python {provenance['python']}"] if "python" in provenance else []
    versions += [f"{name} {version}" for name, version in libraries.items() if version]
    machine = f"{provenance.get('machine', '?')}, {provenance.get('cores', '?')} cores"
    return StudyFacts(
        row=row,
        anchor=section.anchor,
        started=min((t.started for t in search.trials if t.started), default=None),
        ended=max((t.ended for t in search.trials if t.ended), default=None),
        versions=", ".join(versions),
        machine=machine,
        checks=row_importance.checks,
        skill=row_importance.importance.skill if row_importance.importance else None,
    )


def describe_run(facts: Sequence[StudyFacts]) -> list[tuple[str, str]]:
    """Say what was run, when, with which budgets and versions, as pairs of name and value."""
    rows = [fact.row for fact in facts]
    begins = [fact.started for fact in facts if fact.started]
    ends = [fact.ended for fact in facts if fact.ended]
    budgets = ", ".join(map(str, sorted({row.budget for row in rows})))
    counts = [len(row.finals.tested) for row in rows if row.finals]
    final_runs = f"{sum(counts)} tested"
    if counts:
        final_runs += f", for each row: {', '.join(map(str, sorted(set(counts))))}"
    search_hours = format_hours(sum(row.own_cost.hours for row in rows))
    final_hours = format_hours(sum(row.final_hours for row in rows))
    return [
        ("data sets", _join(row.place.dataset for row in rows)),
        ("protocols", _join(row.place.protocol for row in rows)),
        ("trunks", _join(str(row.identity["protocol"].get("trunk", "?")) for row in rows)),
        ("studies", str(len(rows))),
        ("trials", f"{sum(len(r.ended) for r in rows)} ended of {sum(r.budget for r in rows)}, "
                   f"budget of each study: {budgets}"),
        ("final runs", final_runs),
        ("cost", f"{search_hours} device-hours of search, {final_hours} of final runs, "
                 f"{sum(row.own_cost.epochs for row in rows)} epochs of search"),
        ("when", f"{min(begins):%Y-%m-%d %H:%M} to {max(ends):%Y-%m-%d %H:%M} UTC"
                 if begins and ends else "the records do not say"),
        ("versions", " | ".join(dict.fromkeys(fact.versions for fact in facts))),
        ("machines", " | ".join(dict.fromkeys(fact.machine for fact in facts))),
    ]  # fmt: skip


def _join(names: Iterable[str]) -> str:
    return ", ".join(sorted(set(names)))


def compare_twins(rows: Sequence[RowRecord]) -> list[Comparison]:
    """Compare every plain row with its `+wpm` twin; return nothing if there are no twins."""
    try:
        pairs = choose_twins(group_searches(rows))
    except UserError:
        return []
    return correct_comparisons([compare_rows(*pair, _VIEW, _METRIC) for pair in pairs])


def headline(comparisons: Sequence[Comparison]) -> TableSection:
    """Say what within-pair mining gains: in sentences, in a table and in a figure."""
    name = "What within-pair mining is worth"
    if not comparisons:
        return TableSection(name, ["No row has its +wpm twin among the selected studies."])
    figure = runs_figures.differences(comparisons)
    return TableSection(
        name,
        [describe_difference(comparison) for comparison in comparisons],
        [lay_out_finals(comparisons)],
        [figure] if figure else [],
    )


def progress(comparisons: Sequence[Comparison]) -> list[TableSection]:
    """Return for each pair of twins what their searches found, by trials and by device-hours."""
    orders = [describe_order(comparison) for comparison in comparisons]
    by_trials = [search_figures.expected_best(comparison) for comparison in comparisons]
    by_hours = [search_figures.progress_by_hours(comparison) for comparison in comparisons]
    sections = [
        TableSection(
            "Would more trials turn the order?",
            lines=[order for order in orders if order],
            figures=[figure for figure in by_trials if figure],
        ),
        TableSection(
            "What a device-hour of search found",
            figures=[figure for figure in by_hours if figure],
        ),
    ]
    return [section for section in sections if section.figures]


def results(rows: Sequence[RowRecord]) -> list[TableSection]:
    """Return the results table and the figures of the final runs of each data set and protocol."""
    parts = []
    for block in make_blocks(rows, PUBLISHED):
        where = f"{block.dataset}, protocol {block.protocol}"
        if not read_scores(block.dataset, block.protocol):
            (block,) = make_blocks(block.rows)
        searched = group_searches(block.rows)
        figures = [runs_figures.final_runs(searched, view) for view in VIEWS]
        parts.append(
            TableSection(
                f"Results on {where}",
                tables=[lay_out_block(block)],
                figures=[figure for figure in figures if figure],
            )
        )
    return parts


def validity(rows: Sequence[RowRecord]) -> list[TableSection]:
    """Return whether validation ranks configurations as the test does."""
    parts = []
    for validation in validate_rows(rows, _VIEW, _METRIC):
        figure = runs_figures.validation_against_test(validation.points, _VIEW)
        if figure:
            table = lay_out_agreements(validation, f"test {METRICS[_METRIC]}, {_VIEW}")
            heading = f"Validation against test, {validation.name}"
            parts.append(TableSection(heading, tables=[table], figures=[figure]))
    return parts


def lay_out_searches(facts: Sequence[StudyFacts]) -> NotedTable:
    """Return a table that shows whether each search was good enough."""
    columns = ["study", "trials", "diverged", "failed", "best MAP@R %", "found at trial",
               "of the last half", "parameters at an edge", "forest explains"]  # fmt: skip
    notes = [
        "of the last half: points that the second half of the trials is expected to have added, "
        "in random order; a large number means that more trials would help",
        "forest explains: share of the variance of held-out trials; a small share means that the "
        "parameters hardly mattered, or that there are too few trials to show it",
    ]
    return NotedTable("Were the searches good enough?", columns, list(map(_search_cells, facts)),
                      notes)  # fmt: skip


def _search_cells(fact: StudyFacts) -> list[object]:
    row = fact.row
    number, score = row.best or ("-", None)
    ended = len(row.ended)
    gain = "-"
    if ended >= 2:
        curve = search_curve(row, [ended // 2, ended])
        gain = format_points(curve.expected[1] - curve.expected[0])
    edges = [check.distance for check in fact.checks if check.next_range]
    near = ", ".join(f"{distance.parameter} ({distance.side})" for distance in edges)
    return [
        row.place.name,
        row.ended_of_budget,
        sum(trial.state == TrialState.DIVERGED for trial in row.trials),
        sum(trial.state == TrialState.FAILED for trial in row.trials),
        format_percent(score),
        number,
        gain,
        near or ("none" if fact.checks else "-"),
        "-" if fact.skill is None else f"{fact.skill:.0%}",
    ]


def group_by_set(facts: Sequence[StudyFacts]) -> list[tuple[str, list[StudyFacts]]]:
    """Group studies by data set and protocol, for the table of contents."""

    def key(fact: StudyFacts) -> str:
        return f"{fact.row.place.dataset}/{fact.row.place.protocol}"

    return [(name, list(group)) for name, group in groupby(sorted(facts, key=key), key=key)]
