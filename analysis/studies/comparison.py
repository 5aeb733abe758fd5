"""Two rows compared: their final runs, seed by seed, and their searches."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

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
from wpm.miners import MINERS
from wpm.records import StudyPlace, TrialState
from wpm.rows import Row


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
        first: a row, as `analysis.studies.row_results.read_row` returns it.
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
        [trial.state == TrialState.COMPLETE for trial in trials],
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


_Pair = tuple[RowRecord, RowRecord]


def choose_pairs(rows: Sequence[RowRecord], names: Sequence[str]) -> list[_Pair]:
    """Return the pairs of rows that two names mean, one a data set and protocol.

    Args:
        rows: to choose from.
        names: ROW, DATASET/ROW or DATASET/PROTOCOL/ROW, twice.

    Raises:
        UserError: a name means no row, or there is no data set with both.
    """
    firsts, seconds = ([row for row in rows if _matches(row.place, name)] for name in names)
    for name, found in zip(names, (firsts, seconds), strict=True):
        if not found:
            there = ", ".join(row.place.name for row in rows)
            raise UserError(f"no row {name} among the selected studies (there are: {there})")
    pairs = [
        (a, b) for a in firsts for b in seconds if a.place.folder.parent == b.place.folder.parent
    ]
    if not pairs and len(firsts) == len(seconds) == 1:  # two protocols, each given by name
        pairs = [(firsts[0], seconds[0])]
    pairs = [(a, b) for a, b in pairs if a.place != b.place and a.place.dataset == b.place.dataset]
    if not pairs:
        raise UserError(
            f"{names[0]} and {names[1]} are no two rows of one data set and protocol: "
            "scores on different test images do not compare"
        )
    return pairs


def _matches(place: StudyPlace, name: str) -> bool:
    *where, row = name.split("/")
    parts = {0: [], 1: [place.dataset], 2: [place.dataset, place.protocol]}
    return row == str(place.row) and parts.get(len(where)) == where


def choose_twins(rows: Sequence[RowRecord]) -> list[_Pair]:
    """Return every plain row with each of its twins, the rows of the same loss behind a miner.

    Raises:
        UserError: there is no such pair.
    """
    mined: dict[tuple[Path, Row], list[RowRecord]] = defaultdict(list)
    for row in rows:
        if row.place.row.twin is not None:
            mined[row.place.folder.parent, row.place.row.twin].append(row)
    twins = [
        (row, other) for row in rows for other in mined[row.place.folder.parent, row.place.row]
    ]
    if not twins:
        there = ", ".join(row.place.name for row in rows)
        miners = " or ".join(f"+{name}" for name in MINERS)
        raise UserError(f"no row has its {miners} twin among the selected studies ({there})")
    return twins


def drop_unequal(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Leave out comparisons that are not fair, each named on stderr.

    Raises:
        UserError: none is left.
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
