"""Plan the searches, trials and runs that find a difference, from the spreads in given records."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from analysis.numbers.search_curve import ROUND_COUNTS, best_spread
from analysis.studies.comparison import Comparison
from analysis.studies.row_searches import RowSearches
from analysis.studies.selection import report_problems
from wpm.errors import UserError
from wpm.spreads import VarianceSplit, needed_searches

_RUNS = (1, 2, 3, 5, 10)  # final runs of each search that are considered


@dataclass(frozen=True)
class Step:
    """One way to find a difference.

    Attributes:
        trials: of each search.
        expected: the best validation score to expect from so many trials, of the first row and of
            the second.
        search_sd: standard deviation between searches of so many trials, of the difference.
        runs: final runs of each search.
        searches: of each row; None if even many would not find the difference.
        hours: device-hours of both rows together; None if the records do not say, or there is no
            number of searches.
    """

    trials: int
    expected: tuple[float, float]
    search_sd: float
    runs: int
    searches: int | None
    hours: float | None


@dataclass(frozen=True)
class DifferencePlan:
    """What it takes to find a difference between two rows.

    Attributes:
        difference: true difference that 4 of 5 such comparisons shall find, a fraction.
        split: the spreads that the plan is made from.
        by_runs: searches with as many trials as those of the records, by the number of their runs.
        by_trials: shorter searches, each with the number of runs that is cheapest.
    """

    comparison: Comparison
    difference: float
    split: VarianceSplit
    by_runs: Sequence[Step]
    by_trials: Sequence[Step]


def plan_difference(comparison: Comparison, difference: float) -> DifferencePlan:
    """Plan what finds a difference between two rows.

    Args:
        comparison: of records of both rows.
        difference: above 0, a fraction.

    Raises:
        UserError: the records do not say how searches or how runs vary.
    """
    split = comparison.split
    _refuse_few(comparison, split)
    trials = min(len(curve.best) for curve in comparison.curves)
    if trials == 0:
        raise UserError(f"{comparison.name}: no trial has ended, so no curve says what trials find")
    counts = sorted({trials, *(count for count in ROUND_COUNTS if count < trials)})
    steps = [_plan_steps(comparison, split, difference, count) for count in counts]
    cheapest = [min(choices, key=_cost) for choices in steps]
    return DifferencePlan(comparison, difference, split, steps[-1], cheapest)


def _refuse_few(comparison: Comparison, split: VarianceSplit) -> None:
    name = comparison.name
    if split.runs == 0:
        raise UserError(
            f"{name}: no final runs of both rows (python launch.py --best-only makes them)"
        )
    if split.searches == 1:
        raise UserError(
            f"{name}: one search of each row has final runs, which does not say how searches vary; "
            "make more with python launch.py --searches 3, then --best-only --searches 3"
        )
    if split.search_sd is None or split.seed_sd is None:
        raise UserError(
            f"{name}: each search has one final run, which does not say how runs vary; make more "
            "with python launch.py --best-only --runs 3"
        )


def _plan_steps(
    comparison: Comparison, split: VarianceSplit, difference: float, trials: int
) -> list[Step]:
    """Plan with searches of some trials, for each number of runs."""
    search_sd = (split.search_sd or 0.0) * _relative_spread(comparison, trials)
    first, second = (row.curve_at(trials) for row in comparison.rows)
    each = [_hours_each(row) for row in comparison.rows]
    steps = []
    for runs in _RUNS:
        mean_sd = replace(split, search_sd=search_sd).mean_sd(runs)
        assert mean_sd is not None  # `_refuse_few` has checked the split
        searches = needed_searches(difference, mean_sd)
        hours = None
        if searches is not None and None not in each:
            one = math.fsum(trials * trial + runs * run for trial, run in filter(None, each))
            hours = searches * one
        steps.append(Step(trials, (first, second), search_sd, runs, searches, hours))
    return steps


def _relative_spread(comparison: Comparison, trials: int) -> float:
    """Return the spread of searches with fewer trials, in that of the searches that were made.

    It is taken to change as that of the best validation score of so many trials in random order.
    """
    made = min(len(curve.best) for curve in comparison.curves)
    spreads = [
        math.hypot(*(best_spread(row.trial_scores, count) for row in comparison.rows))
        for count in (trials, made)
    ]
    return spreads[0] / spreads[1] if spreads[1] > 0 else 1.0


def _hours_each(row: RowSearches) -> tuple[float, float] | None:
    """Return the device-hours of a trial and of a final run; None if the records do not say."""
    runs = sum(row.tested_runs)
    if row.search_hours == 0 or row.final_hours == 0 or runs == 0:
        return None
    return row.search_hours / row.trials_ended, row.final_hours / runs


def _cost(step: Step) -> tuple[float, float, int]:
    """Return a sort key: the cheapest, without known hours the one with the fewest searches."""
    searches = math.inf if step.searches is None else step.searches
    return (math.inf if step.hours is None else step.hours, searches, step.runs)


def plan_differences(comparisons: Sequence[Comparison], difference: float) -> list[DifferencePlan]:
    """Plan what finds a difference for each pair of rows; name those without the records on stderr.

    Raises:
        UserError: the records of no pair suffice.
    """
    plans, refused = [], []
    for comparison in comparisons:
        try:
            plans.append(plan_difference(comparison, difference))
        except UserError as error:
            refused.append(str(error))
    if not plans:
        raise UserError(refused[0])
    report_problems(refused)
    return plans
