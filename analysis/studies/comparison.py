"""Compare two rows: their final runs, seed by seed, and their searches."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from analysis.numbers.paired import PairedDifference, correct_holm, paired_difference
from analysis.numbers.search_curve import SearchCurve
from analysis.numbers.search_scores import independent_scores
from analysis.studies.fairness import (
    describe_budgets,
    describe_choice,
    describe_runs,
    describe_search,
    describe_settings,
)
from analysis.studies.row_record import RowRecord
from analysis.studies.row_searches import RowSearches
from analysis.studies.selection import report_problems
from wpm.errors import UserError
from wpm.spreads import VarianceSplit, pair_scores, split_variance


@dataclass(frozen=True)
class Comparison:
    """The difference between two rows, and whether the comparison is fair.

    Attributes:
        first: a row, with the searches that both rows have.
        second: the other row.
        view: "concatenated" or "separated".
        metric: name of the test score.
        pairs: for each search and each seed that both rows have, the difference of the test scores
            of the two runs, second minus first, in fractions.
        difference: of the means of the searches, or of the runs where there is one search; None
            without a common run.
        unequal: one line for each budget or setting that makes the comparison unfair.
        notes: one line for each other fact that a reader must know.
        t_p: p-value of the t-test, corrected for all pairs that are compared together.
        flip_p: p-value of the sign-flip test, corrected in the same way.
    """

    first: RowSearches
    second: RowSearches
    view: str
    metric: str
    pairs: Mapping[int, Mapping[int, float]]
    difference: PairedDifference | None
    unequal: tuple[str, ...]
    notes: tuple[str, ...]
    t_p: float | None
    flip_p: float | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds of the paired runs; runs with one seed start from the same weights."""
        return tuple(seed for runs in self.pairs.values() for seed in runs)

    @property
    def run_differences(self) -> tuple[float, ...]:
        """The difference of every pair of runs, in the order of `seeds`."""
        return tuple(value for runs in self.pairs.values() for value in runs.values())

    @property
    def split(self) -> VarianceSplit:
        """The variance of the differences, split into that of searches and that of seeds."""
        return split_variance([[*runs.values()] for runs in self.pairs.values()])

    @cached_property
    def curves(self) -> tuple[SearchCurve, SearchCurve]:
        """The progress of a search of the first row and of the second; means of several."""
        return self.first.curve, self.second.curve

    @property
    def rows(self) -> tuple[RowSearches, RowSearches]:
        """The first row and the second."""
        return self.first, self.second

    @property
    def name(self) -> str:
        """The two rows, with their data set and protocol."""
        return (
            f"{self.first.place.dataset}/{self.first.place.protocol}: "
            f"{self.second.name} against {self.first.name}"
        )


def compare_rows(
    first: RowSearches,
    second: RowSearches,
    view: str = "concatenated",
    metric: str = "map_at_r",
) -> Comparison:
    """Compare two rows of one data set.

    The folds of a run train on overlapping classes and are tested on the same images. So they are
    not independent measurements, and count as one score for each run. Runs are paired by search
    and seed. Where both rows have several searches, each search counts once.

    Args:
        view: "concatenated" or "separated".
        metric: "precision_at_1", "r_precision" or "map_at_r".
    """
    if first.place.protocol != second.place.protocol:
        first, second = first.with_protocol(), second.with_protocol()
    alone = (*_name_unpaired(first, second), *_name_unpaired(second, first))
    common = {*first.numbers} & {*second.numbers}
    if common:
        first, second = first.only(common), second.only(common)
    pairs = pair_scores(first.scores_by_run(view, metric), second.scores_by_run(view, metric))
    differences = independent_scores([[*runs.values()] for runs in pairs.values()])
    difference = paired_difference(differences) if differences else None
    return Comparison(
        first=first,
        second=second,
        view=view,
        metric=metric,
        pairs=pairs,
        difference=difference,
        unequal=tuple(_find_unequal(first, second)),
        notes=(*alone, *_describe(first, pairs), *_describe(second, pairs)),
        t_p=difference.t_p if difference else None,
        flip_p=difference.flip_p if difference else None,
    )


def _name_unpaired(row: RowSearches, other: RowSearches) -> list[str]:
    """Name the searches that are left out, because the other row has none of the number.

    Both searches of a pair have the same seeds, so that only such searches can be paired.
    """
    alone = [number for number in row.numbers if number not in other.numbers]
    return [
        f"{row.name}: search {number} is left out: {other.name} has no search {number} "
        f"(launch.py --searches {number} adds it)"
        for number in alone
    ]


def _find_unequal(first: RowSearches, second: RowSearches) -> list[str]:
    lines = [
        line
        for one, two in zip(first.searches, second.searches, strict=False)
        for line in (*describe_settings(two, one), *describe_budgets(one, two))
    ]
    return [*dict.fromkeys(lines)]


def correct_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of comparisons that are made together, by Holm's method."""
    t_ps = correct_holm([comparison.t_p for comparison in comparisons])
    flip_ps = correct_holm([comparison.flip_p for comparison in comparisons])
    return [
        replace(comparison, t_p=t_p, flip_p=flip_p)
        for comparison, t_p, flip_p in zip(comparisons, t_ps, flip_ps, strict=True)
    ]


def _describe(row: RowSearches, pairs: Mapping[int, Mapping[int, float]]) -> list[str]:
    return [
        line
        for search in row.searches
        for line in _describe_search(search, pairs.get(search.place.search, {}))
    ]


def _describe_search(search: RowRecord, paired: Mapping[int, float]) -> list[str]:
    if search.finals is None:
        lines = [f"{search.name}: no final runs (python launch.py --best-only makes them)"]
    else:
        # The seeds without a partner show if the other row has more runs.
        most = len(search.finals.tested)
        lines = [*describe_choice(search), *describe_runs(search, most)]
        alone = sorted(search.finals.tested.keys() - paired.keys())
        if alone:
            seeds = ", ".join(map(str, alone))
            lines.append(f"{search.name}: runs without a partner left out (seed {seeds})")
    return [*lines, *describe_search(search)]


def drop_unequal(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Leave out comparisons that are not fair, and name each on stderr.

    Raises:
        UserError: no comparison remains.
    """
    refused = [
        f"{comparison.name}: {'; '.join(comparison.unequal)}"
        for comparison in comparisons
        if comparison.unequal
    ]
    if len(refused) == len(comparisons):
        raise UserError(f"{refused[0]}; --allow-unequal compares and flags them")
    report_problems([f"left out without --allow-unequal: {line}" for line in refused])
    return [comparison for comparison in comparisons if not comparison.unequal]
