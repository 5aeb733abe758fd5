"""All searches of a row together: what its line of the table and its comparisons are made of."""

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from analysis.numbers.search_curve import SearchCurve, average_curves, make_curve
from analysis.numbers.search_scores import independent_scores
from analysis.studies.row_record import FinalRuns, RowRecord, TrialOutcome
from wpm.records import StudyPlace, TrialState
from wpm.rows import Row
from wpm.spreads import VarianceSplit, split_variance


@dataclass(frozen=True)
class RowSearches:
    """A row on a data set under a protocol, with all of its searches that were selected.

    Attributes:
        searches: at least one, by number.
        label: name for people if the name of the row alone would be ambiguous, else "".
    """

    searches: Sequence[RowRecord]
    label: str = ""

    @property
    def place(self) -> StudyPlace:
        """The place of the first of these searches."""
        return self.searches[0].place

    @property
    def name(self) -> str:
        """Name of the row, for people; a single search that is not the first is named by number."""
        if self.label:
            return self.label
        return self.searches[0].name if len(self.searches) == 1 else str(self.place.row)

    @property
    def numbers(self) -> list[int]:
        """The numbers of the searches."""
        return [search.place.search for search in self.searches]

    def with_protocol(self) -> "RowSearches":
        """Return the row with names that say its protocol."""
        protocol = self.place.protocol
        named = [replace(s, label=f"{protocol}/{s.place.label}") for s in self.searches]
        return RowSearches(named, f"{protocol}/{self.name}")

    def only(self, numbers: Collection[int]) -> "RowSearches":
        """Return the row with the searches of some numbers; at least one must be there."""
        kept = [search for search in self.searches if search.place.search in numbers]
        return replace(self, searches=kept)

    def scores_by_run(self, view: str, metric: str) -> dict[int, dict[int, float]]:
        """Return the score of every tested run, by the number of its search and its seed."""
        return {
            search.place.search: {
                seed: scores[view, metric] for seed, scores in search.finals.tested.items()
            }
            for search in self.searches
            if search.finals and search.finals.tested
        }

    def scores(self, view: str, metric: str) -> list[float]:
        """Return what counts as one measurement each: every search, or the runs of the only one."""
        groups = self.scores_by_run(view, metric).values()
        return independent_scores([[*runs.values()] for runs in groups])

    def split(self, view: str, metric: str) -> VarianceSplit:
        """Split the variance of the scores into that of searches and that of seeds."""
        groups = self.scores_by_run(view, metric).values()
        return split_variance([[*runs.values()] for runs in groups])

    @property
    def finals(self) -> list[FinalRuns]:
        """The final runs that stand for each search that has some."""
        return [search.finals for search in self.searches if search.finals]

    @property
    def tested_runs(self) -> list[int]:
        """For each search with final runs, the number of those that were tested."""
        return [len(finals.tested) for finals in self.finals]

    @property
    def trials_ended(self) -> int:
        """Number of trials of all searches that have ended."""
        return sum(len(search.ended) for search in self.searches)

    @property
    def budget(self) -> int:
        """Number of trials that all searches together may run."""
        return sum(search.budget for search in self.searches)

    @property
    def ended_of_budget(self) -> str:
        """Number of trials that ended, and the budget, such as "54/60"; "+ 60" of the twin."""
        costs = [search.twin_cost.trials for search in self.searches if search.twin_cost]
        twin = f" + {sum(costs)}" if costs else ""
        return f"{self.trials_ended}/{self.budget}{twin}"

    @property
    def search_hours(self) -> float:
        """Device-hours of all searches, with those of the twin from whose trials they began."""
        return math.fsum(search.search_hours for search in self.searches)

    @property
    def final_hours(self) -> float:
        """Device-hours of the final runs that stand for the searches."""
        return math.fsum(search.final_hours for search in self.searches)

    @property
    def curves(self) -> list[SearchCurve]:
        """The progress of every search with trials, expected for the same numbers of trials."""
        begun = [search for search in self.searches if search.ended] or self.searches[:1]
        curves = [search_curve(search) for search in begun]
        counts = min(curves, key=lambda curve: len(curve.best)).counts
        return [
            curve if curve.counts == counts else search_curve(search, counts)
            for search, curve in zip(begun, curves, strict=True)
        ]

    @property
    def curve(self) -> SearchCurve:
        """The progress of one search of the row: the mean where there are several."""
        return average_curves(self.curves)

    def curve_at(self, trials: int) -> float:
        """Return the best score to expect of a search of some trials, the mean of all searches."""
        curves = [search_curve(search, [trials]) for search in self.searches if search.ended]
        return average_curves(curves).expected[0]

    @property
    def trial_scores(self) -> list[float]:
        """The comparable score of every trial of all searches that has ended; 0 of a failed one."""
        return [trial.comparable or 0.0 for search in self.searches for trial in search.ended]

    @property
    def pooled_curve(self) -> SearchCurve | None:
        """The expected best of the trials of all searches as if they were one; None for one."""
        if len(self.searches) == 1:
            return None
        trials = [*chain.from_iterable(map(_in_order, self.searches))]
        return _curve_of(trials, [trial.hours for trial in trials])


def group_searches(rows: Iterable[RowRecord]) -> list[RowSearches]:
    """Put the searches of each row together, in the order of the first search of each."""
    groups: dict[tuple[Path, Row], list[RowRecord]] = {}
    for row in rows:
        groups.setdefault((row.place.folder.parent, row.place.row), []).append(row)
    return [
        RowSearches(sorted(searches, key=lambda search: search.place.search))
        for searches in groups.values()
    ]


def search_curve(search: RowRecord, counts: Sequence[int] | None = None) -> SearchCurve:
    """Return the progress of a search.

    A trial counts with the best validation score that it reached, made comparable where it trained
    fewer folds than others, and a failed one with 0, as in the published protocol. Running trials
    are left out.

    Args:
        counts: numbers of trials to compute expectations for; None lets `make_curve` choose.
    """
    trials = _in_order(search)
    return _curve_of(trials, search.spread_hours(trials), counts)


def _in_order(search: RowRecord) -> list[TrialOutcome]:
    return sorted(search.ended, key=lambda trial: trial.number)


def _curve_of(
    trials: Sequence[TrialOutcome], hours: Sequence[float], counts: Sequence[int] | None = None
) -> SearchCurve:
    return make_curve(
        [trial.comparable or 0.0 for trial in trials],
        [trial.state == TrialState.COMPLETE for trial in trials],
        hours,
        counts,
    )
