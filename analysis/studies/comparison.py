"""Compare two rows: their final runs, seed by seed, and their searches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.numbers.paired import PairedDifference, correct_holm, paired_difference
from analysis.numbers.search_curve import SearchCurve, make_curve
from analysis.studies.fairness import (
    describe_budgets,
    describe_choice,
    describe_runs,
    describe_search,
    describe_settings,
)
from analysis.studies.row_results import RowRecord
from analysis.studies.selection import report_problems
from wpm.errors import UserError
from wpm.records import TrialState


@dataclass(frozen=True)
class Comparison:
    """The difference between two rows, and whether the comparison is fair.

    Attributes:
        view: "concatenated" or "separated".
        metric: name of the test score.
        seeds: seeds of the final runs that both rows have; runs with one seed start from the same
            weights.
        difference: difference of the test scores of these runs, second minus first, in fractions;
            None without a common seed.
        curves: progress of the first search and of the second.
        unequal: one line for each budget or setting that makes the comparison unfair.
        notes: one line for each other fact that a reader must know.
        t_p: p-value of the t-test, corrected for all pairs that are compared together.
        flip_p: p-value of the sign-flip test, corrected in the same way.
    """

    first: RowRecord
    second: RowRecord
    view: str
    metric: str
    seeds: tuple[int, ...]
    difference: PairedDifference | None
    curves: tuple[SearchCurve, SearchCurve]
    unequal: tuple[str, ...]
    notes: tuple[str, ...]
    t_p: float | None
    flip_p: float | None

    @property
    def rows(self) -> tuple[RowRecord, RowRecord]:
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
    first: RowRecord, second: RowRecord, view: str = "concatenated", metric: str = "map_at_r"
) -> Comparison:
    """Compare two rows of one data set.

    The folds of a run train on overlapping classes and are tested on the same images. So they are
    not independent measurements, and count as one score for each run. Runs are paired by seed.

    Args:
        view: "concatenated" or "separated".
        metric: "precision_at_1", "r_precision" or "map_at_r".
    """
    if first.place.protocol != second.place.protocol:
        first, second = (
            replace(row, label=f"{row.place.protocol}/{row.place.label}") for row in (first, second)
        )
    scores = [_scores_by_seed(row, view, metric) for row in (first, second)]
    seeds = tuple(sorted(scores[0].keys() & scores[1].keys()))
    differences = [scores[1][seed] - scores[0][seed] for seed in seeds]
    difference = paired_difference(differences) if seeds else None
    return Comparison(
        first=first,
        second=second,
        view=view,
        metric=metric,
        seeds=seeds,
        difference=difference,
        curves=(search_curve(first), search_curve(second)),
        unequal=(*describe_settings(second, first), *describe_budgets(first, second)),
        notes=(*_describe(first, seeds), *_describe(second, seeds)),
        t_p=difference.t_p if difference else None,
        flip_p=difference.flip_p if difference else None,
    )


def correct_comparisons(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of comparisons that are made together, by Holm's method."""
    t_ps = correct_holm([comparison.t_p for comparison in comparisons])
    flip_ps = correct_holm([comparison.flip_p for comparison in comparisons])
    return [
        replace(comparison, t_p=t_p, flip_p=flip_p)
        for comparison, t_p, flip_p in zip(comparisons, t_ps, flip_ps, strict=True)
    ]


def search_curve(row: RowRecord, counts: Sequence[int] | None = None) -> SearchCurve:
    """Return the progress of a row's search.

    A trial counts with the best validation score that it reached, and a failed one with 0, as in
    the published protocol. Running trials are left out.

    Args:
        counts: numbers of trials to compute expectations for; None lets `make_curve` choose.
    """
    trials = sorted(row.ended, key=lambda trial: trial.number)
    return make_curve(
        [trial.score or 0.0 for trial in trials],
        [trial.state == TrialState.COMPLETE for trial in trials],
        row.spread_hours(trials),
        counts,
    )


def _scores_by_seed(row: RowRecord, view: str, metric: str) -> dict[int, float]:
    tested = row.finals.tested if row.finals else {}
    return {seed: scores[view, metric] for seed, scores in tested.items()}


def _describe(row: RowRecord, seeds: Sequence[int]) -> list[str]:
    if row.finals is None:
        lines = [f"{row.name}: no final runs (python launch.py --best-only makes them)"]
    else:
        # The seeds without a partner show if the other row has more runs.
        lines = [*describe_choice(row), *describe_runs(row, most=len(row.finals.tested))]
        alone = sorted(row.finals.tested.keys() - set(seeds))
        if alone:
            lines.append(
                f"{row.name}: runs without a partner left out (seed {', '.join(map(str, alone))})"
            )
    return [*lines, *describe_search(row)]


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
