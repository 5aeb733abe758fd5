"""What the page shows about one study."""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from analysis.report_page import parameter_figures, search_figures
from analysis.report_page.gallery import Gallery, make_gallery
from analysis.report_page.parallel_coordinates import parallel_coordinates
from analysis.report_page.theme import Figure
from analysis.studies.embeddings import read_embedded
from analysis.studies.histories import Search, read_search
from analysis.studies.parameter_importance import RowImportance, find_importance
from analysis.studies.published import read_trace
from analysis.studies.ranking import rank_trials
from analysis.studies.score_surface import predict_surface
from analysis.text.importance import lay_out_checks, lay_out_importance
from analysis.text.layout import NotedTable, format_hours, format_percent
from analysis.text.trial_columns import (
    COLUMNS,
    find_column,
    origin_columns,
    parameter_names,
    usual_columns,
)
from wpm.errors import UserError
from wpm.records import StudyPlace, TrialState
from wpm.spaces import load_space


@dataclass(frozen=True)
class StudySection:
    """A study, ready to be laid out.

    Attributes:
        row_importance: the search, the importance of its parameters, and the boundary check.
        summary: how the search ended, in one line.
        course: figures of the progress of the search.
        slices: one figure for each parameter.
        parameters: figures of all parameters together.
        importance: table of both estimates, or why there are none.
        checks: table of the boundary check.
        trials: table of all trials, ranked.
        failures: table of the trials that failed or diverged, with the reasons.
        gallery: what the best models retrieve; None without embeddings.
    """

    row_importance: RowImportance
    summary: str
    course: Sequence[Figure]
    slices: Sequence[Figure]
    parameters: Sequence[Figure]
    importance: NotedTable
    checks: NotedTable
    trials: NotedTable
    failures: NotedTable
    gallery: Gallery | None

    @property
    def place(self) -> StudyPlace:
        """The study that the section is about."""
        return self.row_importance.search.place

    @property
    def anchor(self) -> str:
        """Name of the section in links."""
        return anchor_of(self.place)


def anchor_of(place: StudyPlace) -> str:
    """Return the name of a study's section in links."""
    return "study-" + place.name.replace("/", "-")


def read_section(place: StudyPlace, embeddings: Path) -> tuple[StudySection, list[str]]:
    """Read a study and draw everything that the page shows about it.

    Args:
        embeddings: folder that `analysis.embed` wrote; it need not exist.

    Returns:
        The section, and one line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    search, problems = read_search(place)
    row_importance = find_importance(search)
    published = find_published(place)
    course = [
        search_figures.best_so_far(
            search, read_trace(place.dataset, place.protocol, str(place.row))
        ),
        search_figures.learning_curves(search),
        search_figures.timeline(search),
    ]
    parameters = [
        parallel_coordinates(search, published),
        *_explain(row_importance, published),
    ]
    try:
        embedded = read_embedded(embeddings, place)
    except UserError as error:
        embedded = None
        problems.append(str(error))
    section = StudySection(
        row_importance=row_importance,
        summary=summarise(search),
        course=[figure for figure in course if figure],
        slices=parameter_figures.slices(search, published),
        parameters=[figure for figure in parameters if figure],
        importance=_without_name(lay_out_importance(row_importance), place),
        checks=_without_name(lay_out_checks(row_importance), place),
        trials=lay_out_trials(search),
        failures=lay_out_failures(search),
        gallery=make_gallery(embedded) if embedded else None,
    )
    return section, problems


def _without_name(noted: NotedTable, place: StudyPlace) -> NotedTable:
    """Remove the study's name from a heading: its section has the name already."""
    heading = noted.heading.removeprefix(f"{place.name}: ")
    return replace(noted, heading=heading[:1].upper() + heading[1:])


def find_published(place: StudyPlace) -> Mapping[str, float]:
    """Return the published values of a row's parameters on its data set; empty if there are none.

    The parameters of a miner were published for every data set alike.
    """
    values: dict[str, float] = {}
    with suppress(UserError):  # the row is of another version, or nothing was published of it
        space = load_space(place.row, dataset=place.dataset)
        values |= space.thresholds
        values |= space.find_published(place.dataset).parameters
    return values


def _explain(row: RowImportance, published: Mapping[str, float]) -> list[Figure]:
    """Return figures of the importance, and of the score over the two most important parameters."""
    if row.importance is None:
        return []
    first, second = list(row.importance.fanova)[:2]
    figures = [parameter_figures.importance(row.importance)]
    surface = predict_surface(row.search, (first, second))
    if surface is not None:
        target = row.importance.target
        figures.append(parameter_figures.contour(row.search, surface, target, published))
    return figures


def summarise(search: Search) -> str:
    """Say in one line how the trials ended, what they cost, and which one is best."""
    states = Counter(trial.outcome.state for trial in search.trials)
    ended = sum(trial.outcome.state.has_ended for trial in search.trials)
    order = (
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.DIVERGED,
        TrialState.FAILED,
        TrialState.RUNNING,
        TrialState.WAITING,
    )
    counts = ", ".join(f"{states[state]} {state.for_people}" for state in order if states[state])
    hours = sum(trial.outcome.hours for trial in search.trials)
    parts = [f"{ended} of {search.budget} trials ended ({counts or 'none begun'})"]
    parts.append(f"{format_hours(hours)} device-hours")
    if search.best:
        outcome = search.best.outcome
        parts.append(
            f"best: trial {outcome.number}, validation MAP@R {format_percent(outcome.score)} %"
        )
    return "; ".join(parts)


def lay_out_trials(search: Search) -> NotedTable:
    """Return the table of all trials, ranked, with their parameters."""
    trials = rank_trials([trial.outcome for trial in search.trials])
    parameters = parameter_names(trials)
    edges = ["edge_distance", "edge"]
    names = [*usual_columns(trials), *parameters, *edges, *origin_columns(trials)]
    columns = [find_column(name) for name in names]
    rows = [[column.text(trial) for column in columns] for trial in trials]
    notes = [
        "to edge: distance of the nearest parameter from an edge of its range, in % of the range"
    ]
    return NotedTable(
        "All trials, ranked", [column.heading for column in columns], rows, notes, "no trials yet"
    )


def lay_out_failures(search: Search) -> NotedTable:
    """Return the table of the trials that failed or diverged, with the reasons."""
    failed = search.in_state(TrialState.FAILED, TrialState.DIVERGED)
    rows = [
        [t.number, t.state.for_people, t.epochs, format_hours(t.hours), t.reason]
        for t in (trial.outcome for trial in failed)
    ]
    columns = ["trial", "state", "epochs", COLUMNS["device_hours"].heading, "reason"]
    return NotedTable(
        "Failed and diverged trials", columns, rows, empty="no trial failed or diverged"
    )
