"""Two rows compared: their final runs, seed by seed, and their searches."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.fairness import (
    describe_budgets,
    describe_choice,
    describe_runs,
    describe_search,
    describe_settings,
)
from analysis.paired import PairedDifference, correct_holm, paired_difference
from analysis.rows import RowRecord
from analysis.search_curve import SearchCurve, make_curve
from wpm.records import COMPLETE


@dataclass(frozen=True)
class Comparison:
    """What is known of the difference between two rows.

    Attributes:
        first: a row.
        second: the row that is compared with it.
        view: "concatenated" or "separated".
        metric: which test score.
        seeds: of the final runs that both have; run by run they start from the same weights.
        difference: of the test scores of these runs, second minus first, fractions; None without
            a common seed.
        curves: progress of the first search and of the second.
        unequal: what makes the comparison unfair: budgets and settings that differ, a line each.
        notes: what else a reader must know, a line each.
        t_p: p-value of the t-test, corrected over all pairs that were compared together.
        flip_p: p-value of the sign-flip test, corrected likewise.
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
        """Both rows."""
        return self.first, self.second

    @property
    def name(self) -> str:
        """Which rows, on which data set, under which protocol."""
        return (
            f"{self.first.place.dataset}/{self.first.place.protocol}: "
            f"{self.second.name} against {self.first.name}"
        )


def compare_rows(
    first: RowRecord, second: RowRecord, view: str = "concatenated", metric: str = "map_at_r"
) -> Comparison:
    """Compare two rows of one data set.

    The folds of a run train on overlapping classes and are tested on the same images: they are no
    independent measurements, and enter as one score a run. Runs are paired by seed.

    Args:
        first: a row, as `analysis.rows.read_row` returns it.
        second: the row to compare with it.
        view: "concatenated" or "separated".
        metric: "precision_at_1", "r_precision" or "map_at_r".
    """
    if first.place.protocol != second.place.protocol:
        first, second = (
            replace(row, label=f"{row.place.protocol}/{row.place.row}") for row in (first, second)
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
    """Correct the p-values of comparisons that are made together (Holm)."""
    t_ps = correct_holm([comparison.t_p for comparison in comparisons])
    flip_ps = correct_holm([comparison.flip_p for comparison in comparisons])
    return [
        replace(comparison, t_p=t_p, flip_p=flip_p)
        for comparison, t_p, flip_p in zip(comparisons, t_ps, flip_ps, strict=True)
    ]


def search_curve(row: RowRecord, counts: Sequence[int] | None = None) -> SearchCurve:
    """Return the progress of a row's search.

    A trial counts with the best validation score that it reached, a failed one with 0, as in the
    published protocol; one that still runs is left out.

    Args:
        row: the row.
        counts: numbers of trials to give expectations for; None: a choice of them.
    """
    trials = sorted(row.ended, key=lambda trial: trial.number)
    return make_curve(
        [trial.score or 0.0 for trial in trials],
        [trial.state == COMPLETE for trial in trials],
        [trial.hours for trial in trials],
        counts,
    )


def _scores_by_seed(row: RowRecord, view: str, metric: str) -> dict[int, float]:
    tested = row.finals.tested if row.finals else {}
    return {seed: scores[view, metric] for seed, scores in tested.items()}


def _describe(row: RowRecord, seeds: Sequence[int]) -> list[str]:
    if row.finals is None:
        lines = [f"{row.name}: no final runs (python launch.py --best-only makes them)"]
    else:
        # That the other row has more runs shows in the seeds without a partner.
        lines = [*describe_choice(row), *describe_runs(row, most=len(row.finals.tested))]
        alone = sorted(row.finals.tested.keys() - set(seeds))
        if alone:
            lines.append(
                f"{row.name}: runs without a partner left out (seed {', '.join(map(str, alone))})"
            )
    return [*lines, *describe_search(row)]
