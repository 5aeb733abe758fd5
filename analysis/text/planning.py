"""Lay out what it takes to find a difference between two rows."""

from collections.abc import Sequence
from typing import Any

from analysis.studies.planning import DifferencePlan, Step
from analysis.studies.row_record import METRICS
from analysis.text.layout import NotedTable, format_csv, format_hours, format_percent
from analysis.text.verdict import describe_spread
from wpm.spreads import spread_factors

_CSV_COLUMNS = ("first", "second", "view", "metric", "difference", "trials", "first_expected",
                "second_expected", "search_sd", "seed_sd", "runs", "searches",
                "device_hours")  # fmt: skip


def format_plans(plans: Sequence[DifferencePlan], style: str) -> str:
    """Lay out two tables for each pair of rows.

    Args:
        plans: at least one.
        style: "text" or "markdown".

    Returns:
        Text without a final newline.
    """
    tables = [table for plan in plans for table in (_lay_out_runs(plan), _lay_out_trials(plan))]
    return "\n\n".join(table.format(style) for table in tables)


def _lay_out_runs(plan: DifferencePlan) -> NotedTable:
    comparison, points = plan.comparison, f"{100 * plan.difference:g}"
    points += " point" if points == "1" else " points"
    trials = plan.by_runs[0].trials
    heading = (
        f"{comparison.name}: to find {points} of test {METRICS[comparison.metric]}, "
        f"{comparison.view}, with searches of {trials} trials"
    )
    columns = ["runs of each search", "searches of each row", "trials in all", "final runs in all",
               "device-hours"]  # fmt: skip
    rows = [[step.runs, *_format_totals(step)] for step in plan.by_runs]
    low, high = spread_factors(plan.split.searches)
    notes = [
        f"{describe_spread(plan.split)}, of the differences of {plan.split.runs} pairs of runs in "
        f"{plan.split.searches} searches",
        f"a spread seen in {plan.split.searches} searches is rough: the true one is between "
        f"{low:.1f} and {high:.1f} times it (95%), and the searches needed grow with its square",
        "4 of 5 such comparisons find the difference (t-test over searches, p < 0.05); trials, "
        "runs and hours are of both rows together",
        *comparison.unequal,
    ]
    if any(step.hours is None and step.searches for step in plan.by_runs):
        notes.append("the records do not say how long trials and final runs took")
    return NotedTable(heading, columns, rows, notes)


def _format_totals(step: Step) -> list[Any]:
    if step.searches is None:
        return ["above 200", "-", "-", "-"]
    hours = "-" if step.hours is None else format_hours(step.hours)
    both = 2 * step.searches
    return [step.searches, both * step.trials, both * step.runs, hours]


def _lay_out_trials(plan: DifferencePlan) -> NotedTable:
    first, second = (row.name for row in plan.comparison.rows)
    columns = ["trials of a search", f"{first}, expected", f"{second}, expected",
               "between searches", "runs of each search", "searches of each row", "trials in all",
               "final runs in all", "device-hours"]  # fmt: skip
    rows = [
        [
            step.trials,
            *map(format_percent, step.expected),
            format_percent(step.search_sd),
            step.runs,
            *_format_totals(step),
        ]
        for step in plan.by_trials
    ]
    notes = [
        "expected: best validation MAP@R % of so many trials in random order; where the two rows "
        "change order, shorter searches ask another question",
        "between searches: standard deviation in points, taken to change with the trials as that "
        "of the best validation score of random trials does",
    ]
    heading = "the cheapest numbers of runs and searches, by the trials of each search"
    return NotedTable(heading, columns, rows, notes)


def format_plans_csv(plans: Sequence[DifferencePlan]) -> str:
    """Return one line for each way to find the difference; scores are fractions."""
    rows = []
    for plan in plans:
        comparison = plan.comparison
        first, second = (f"{row.place.dataset}/{row.place.protocol}/{row.place.row}"
                         for row in comparison.rows)  # fmt: skip
        rows += [
            [first, second, comparison.view, comparison.metric, plan.difference, step.trials,
             *step.expected, step.search_sd, plan.split.seed_sd, step.runs, step.searches,
             step.hours]
            for step in [*plan.by_runs, *plan.by_trials[:-1]]
        ]  # fmt: skip
    return format_csv(_CSV_COLUMNS, rows)
