"""What the page shows of all studies together: what was run, the table, the comparisons."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from analysis.numbers.boundary import BoundaryCheck
from analysis.report_page import runs_figures, search_figures
from analysis.report_page.study_section import StudySection
from analysis.report_page.theme import Figure
from analysis.studies.comparison import (
    Comparison,
    choose_twins,
    compare_rows,
    correct_comparisons,
    search_curve,
)
from analysis.studies.published import PUBLISHED, read_scores
from analysis.studies.row_results import METRICS, VIEWS, RowRecord
from analysis.studies.validation import validate_rows
from analysis.text.comparison import lay_out_finals
from analysis.text.layout import NotedTable, format_hours, format_percent, format_points
from analysis.text.table import lay_out_block, make_blocks
from analysis.text.validation import lay_out_agreements
from wpm.errors import UserError
from wpm.records import TrialState

_VIEW, _METRIC = "concatenated", "map_at_r"  # of the headline
_CLEAR = 0.05  # p-value below which a difference is called one


@dataclass(frozen=True)
class StudyFacts:
    """What the overview keeps of a study's section, which is dropped once it is laid out.

    Attributes:
        row: the study's row.
        anchor: of its section.
        started: its first trial; None if no record says.
        ended: its last trial.
        versions: code and libraries that began it.
        machine: that began it.
        checks: the boundary check of its best trial.
        skill: of the forest behind the importances, None without them.
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
    """A heading with sentences, tables and figures below it.

    Attributes:
        heading: of the part.
        lines: sentences.
        tables: below them.
        figures: below the tables, beside one another where there is room.
    """

    heading: str
    lines: Sequence[str] = ()
    tables: Sequence[NotedTable] = ()
    figures: Sequence[Figure] = ()


def collect_facts(row: RowRecord, section: StudySection) -> StudyFacts:
    """Keep of a section what the overview needs."""
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
    """Say what was run, when, with which budget and versions, as names and values."""
    rows = [fact.row for fact in facts]
    begins = [fact.started for fact in facts if fact.started]
    ends = [fact.ended for fact in facts if fact.ended]
    wanted = sorted({row.wanted for row in rows})
    runs = sorted({len(row.finals.tested) for row in rows if row.finals})
    search, final = (sum(getattr(r, f"{kind}_hours") for r in rows) for kind in ("search", "final"))
    return [
        ("data sets", _join(row.place.dataset for row in rows)),
        ("protocols", _join(row.place.protocol for row in rows)),
        ("trunks", _join(str(row.identity["protocol"].get("trunk", "?")) for row in rows)),
        ("studies", str(len(rows))),
        ("trials", f"{sum(len(r.ended) for r in rows)} ended of {sum(r.wanted for r in rows)}, "
                   f"budget a study: {_join(map(str, wanted))}"),
        ("final runs", f"{sum(len(r.finals.tested) for r in rows if r.finals)} tested"
                       + f", a row: {_join(map(str, runs))}" * bool(runs)),
        ("cost", f"{format_hours(search)} device-hours of search, {format_hours(final)} of final "
                 f"runs, {sum(row.epochs for row in rows)} epochs"),
        ("when", f"{min(begins):%Y-%m-%d %H:%M} to {max(ends):%Y-%m-%d %H:%M} UTC"
                 if begins and ends else "the records do not say"),
        ("versions", " | ".join(dict.fromkeys(fact.versions for fact in facts))),
        ("machines", " | ".join(dict.fromkeys(fact.machine for fact in facts))),
    ]  # fmt: skip


def _join(names: object) -> str:
    return ", ".join(sorted(set(names)))  # type: ignore[call-overload]


def compare_twins(rows: Sequence[RowRecord]) -> list[Comparison]:
    """Compare every plain row with its `+wpm` twin; none where there are no twins."""
    try:
        pairs = choose_twins(rows)
    except UserError:
        return []
    return correct_comparisons([compare_rows(*pair, _VIEW, _METRIC) for pair in pairs])


def headline(comparisons: Sequence[Comparison]) -> TableSection:
    """Say what within-pair mining is worth: sentences, the table, the figure."""
    name = "What within-pair mining is worth"
    if not comparisons:
        return TableSection(name, ["No row has its +wpm twin among the selected studies."])
    figure = runs_figures.differences(comparisons)
    return TableSection(
        name,
        [tell_difference(comparison) for comparison in comparisons],
        [lay_out_finals(comparisons)],
        [figure] if figure else [],
    )


def progress(comparisons: Sequence[Comparison]) -> list[TableSection]:
    """Return what the searches of both rows had found after so many device-hours."""
    figures = [search_figures.progress_by_hours(comparison) for comparison in comparisons]
    shown = [figure for figure in figures if figure]
    return [TableSection("What a device-hour of search found", figures=shown)] if shown else []


def tell_difference(comparison: Comparison) -> str:
    """Say in a sentence what the final runs of two rows tell, and what makes it unfair."""
    difference, p = comparison.difference, comparison.t_p
    if difference is None:
        return f"{comparison.name}: no final runs with a common seed, nothing to compare."
    sentence = f"{comparison.name}: {format_points(difference.mean)} points of test MAP@R"
    if difference.low is None or difference.high is None or p is None:
        sentence += "; one pair of runs, or no spread: no interval."
    else:
        low, high = format_points(difference.low), format_points(difference.high)
        verdict = "no clear difference"
        if p < _CLEAR:
            verdict = "clearly better" if difference.mean > 0 else "clearly worse"
        sentence += (
            f", 95% interval {low} to {high}, {len(difference.values)} pairs of runs, "
            f"p = {p:.2g}: {verdict}."
        )
    if comparison.unequal:
        sentence += f" Unequal: {'; '.join(comparison.unequal)}."
    return sentence


def results(rows: Sequence[RowRecord]) -> list[TableSection]:
    """Return the results table and the figures of the final runs, by data set and protocol."""
    parts = []
    for block in make_blocks(rows, PUBLISHED):
        where = f"{block.dataset}, protocol {block.protocol}"
        if not read_scores(block.dataset, block.protocol):
            (block,) = make_blocks(block.rows)
        figures = [runs_figures.final_runs(block.rows, view) for view in VIEWS]
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
    """Return what tells whether each search was good enough."""
    columns = ["study", "trials", "failed", "best MAP@R %", "found at trial", "of the last half",
               "parameters at an edge", "forest explains"]  # fmt: skip
    notes = [
        "of the last half: points that the second half of the trials is expected to have added, "
        "in random order; a large number says that more trials would help",
        "forest explains: share of the variance of held-out trials; little means that the "
        "parameters hardly mattered, or that there are too few trials to see it",
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
        row.budget,
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
