"""Lay out ranked trials."""

from collections.abc import Sequence
from dataclasses import dataclass

from analysis.numbers.boundary import EdgeDistance
from analysis.studies.conditions import Condition
from analysis.studies.fairness import list_departures
from analysis.studies.published import PUBLISHED, read_trace
from analysis.studies.ranking import RankedTrial, Ranking
from analysis.text.layout import format_csv, format_percent, with_notes
from analysis.text.trial_columns import (
    COLUMNS,
    choose_trials,
    find_column,
    origin_columns,
    parameter_names,
    usual_columns,
)
from wpm.formatting import format_table
from wpm.records import TrialState

_TRACE_COUNTS = (1, 5, 10, 20, 50)  # numbers of trials at which two searches are compared
_STUDY_COLUMNS = ("dataset", "protocol", "row", "search")
_EXPLAINED = (TrialState.FAILED, TrialState.DIVERGED)  # states whose reason people see


@dataclass(frozen=True)
class Choice:
    """Which trials and columns of a ranking to show.

    Attributes:
        conditions: conditions that a trial must meet.
        sort: column to sort by; None keeps the order of the ranking.
        descending: sort the largest value first.
        columns: columns to show; if empty, the usual ones.
        top: show at most this many trials of each ranking; None shows all.
        against: `PUBLISHED` adds a line about the published search to each study.
        progress: add a line to each study that compares its first trial with its best.
    """

    conditions: Sequence[Condition] = ()
    sort: str | None = None
    descending: bool = False
    columns: Sequence[str] = ()
    top: int | None = None
    against: str | None = None
    progress: bool = False

    def apply(self, ranking: Ranking) -> list[RankedTrial]:
        """Return the trials that meet the conditions, in the chosen order."""
        return choose_trials(ranking.trials, self.conditions, self.sort, self.descending)


def compare_trace(ranking: Ranking) -> str:
    """Say in one line of plain text how a search progressed beside the published one."""
    place = ranking.places[0]
    published = read_trace(place.dataset, place.protocol, str(place.row))
    if published is None:
        return "no published search of this row to compare with"
    complete = [trial for trial in ranking.trials if trial.state == TrialState.COMPLETE]
    scores = [trial.score for trial in sorted(complete, key=lambda trial: trial.number)]
    known = [score for score in scores if score is not None]
    ours = [max(known[:count]) if count <= len(known) else None for count in _TRACE_COUNTS]
    theirs = [published[count - 1] if count <= len(published) else None for count in _TRACE_COUNTS]
    budgets = {"trials": ranking.ended}
    departures = list_departures(place.dataset, ranking.identity, budgets)
    line = (
        f"best MAP@R % so far after {' / '.join(map(str, _TRACE_COUNTS))} complete trials: "
        f"ours {' / '.join(map(format_percent, ours))}, "
        f"published {' / '.join(map(format_percent, theirs))}"
    )
    if known_first := sum(bool(trial.origin) for trial in ranking.trials):
        line += f"; {known_first} of our trials were known before"
    if departures:
        line += f"; not the published procedure: {'; '.join(departures)}"
    return line


def describe_progress(ranking: Ranking) -> str:
    """Say in one line of plain text how much better a search's best trial is than its first."""
    complete = [trial for trial in ranking.trials if trial.state == TrialState.COMPLETE]
    if not complete:
        return f"progress: none of {ranking.ended} trials is complete yet"
    first = min(ranking.trials, key=lambda trial: trial.number)
    known = f" ({first.origin})" if first.origin else ""
    return (
        f"progress: MAP@R % {format_percent(first.score)} in the first trial{known}, "
        f"{format_percent(complete[0].score)} in the best; "
        f"{len(complete)} of {ranking.ended} trials are complete"
    )


def format_rankings(rankings: Sequence[Ranking], style: str, choice: Choice) -> str:
    """Lay out rankings one below the other.

    Args:
        style: one of `wpm.formatting.FORMATS`; CSV makes one table of all, without notes.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(rankings, choice)
    return "\n\n".join(_format_block(ranking, style, choice) for ranking in rankings)


def _format_block(ranking: Ranking, style: str, choice: Choice) -> str:
    chosen = choice.apply(ranking)
    shown = chosen[: choice.top]
    heading = f"{ranking.name}: {ranking.ended} of {ranking.budget} trials ended"
    if choice.conditions:
        heading += f", {len(chosen)} of {len(ranking.trials)} meet the conditions"
    if len(shown) < len(chosen):
        heading += f", the first {len(shown)} of {len(chosen)} shown"
    if not shown:
        table = "no trials yet" if not ranking.trials else "no trial meets the conditions"
    else:
        names = choice.columns or _usual_columns(ranking, shown)
        rows = [[_show(trial, name, choice) for name in names] for trial in shown]
        table = format_table([find_column(name).heading for name in names], rows, style)
    return with_notes(heading, table, _describe_ranking(ranking, choice), style)


def _usual_columns(ranking: Ranking, shown: Sequence[RankedTrial]) -> list[str]:
    """Return the columns for people; parts of the study's name only if they vary."""
    varying = [
        name
        for name in _STUDY_COLUMNS
        if len({getattr(place, name) for place in ranking.places}) > 1
    ]
    reason = ["reason"] if any(trial.state in _EXPLAINED for trial in shown) else []
    origin = origin_columns(shown)
    return [*varying, *usual_columns(shown), *parameter_names(shown), *origin, *reason]


def _show(trial: RankedTrial, name: str, choice: Choice) -> str:
    if name == "reason" and trial.state not in _EXPLAINED and not choice.columns:
        return ""  # the column of epochs shows where successive halving stopped the trial
    return find_column(name).text(trial)


def _describe_ranking(ranking: Ranking, choice: Choice) -> list[str]:
    notes = []
    best = next((trial for trial in ranking.trials if trial.state == TrialState.COMPLETE), None)
    if best and best.edges:
        name = f"trial {best.number}"
        if len(ranking.places) > 1:
            name += f" of {best.place.name}"
        distances = ", ".join(map(_describe_edge, best.edges))
        notes.append(
            f"distance of the best ({name}) from the nearer edge, in % of the searched scale: "
            f"{distances}"
        )
    if len({(place.dataset, place.protocol) for place in ranking.places}) > 1:
        notes.append("scores on different data sets or under different protocols do not compare")
    if any(trial.folds_of and trial.state == TrialState.PRUNED for trial in ranking.trials):
        notes.append(
            "the score of a stopped trial is a mean over the folds that it trained; those with "
            "more folds are ranked first"
        )
    if choice.progress and len(ranking.places) == 1:
        notes.append(describe_progress(ranking))
    if len(ranking.procedures) > 1:
        numbers = ", ".join(map(str, sorted(ranking.procedures)))
        notes.append(
            f"scores under different training procedures ({numbers}) do not compare: "
            "docs/protocol.md"
        )
    if choice.against == PUBLISHED and len(ranking.places) == 1:
        notes.append(compare_trace(ranking))
    return notes


def _describe_edge(distance: EdgeDistance) -> str:
    share = f"{100 * distance.share:.2g}"
    return f"{distance.parameter} {share} ({distance.side} edge, {distance.edge:g})"


def _format_csv(rankings: Sequence[Ranking], choice: Choice) -> str:
    shown = [trial for ranking in rankings for trial in choice.apply(ranking)[: choice.top]]
    names = choice.columns
    if not names:
        before = [name for name in COLUMNS if name != "reason"]
        names = [*before, *parameter_names(shown), "reason"]
    columns = [find_column(name) for name in names]
    values = [[column.value(trial) for column in columns] for trial in shown]
    return format_csv(names, values)
