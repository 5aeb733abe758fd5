"""The columns of a ranking: what they are called, what they hold, how people see it."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.studies.conditions import Condition, check_names
from analysis.studies.ranking import RankedTrial
from analysis.text.layout import format_hours, format_percent

_REASON_WIDTH = 100


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        heading: for people; programs see the column's name.
        value: what a trial has in it, None for nothing; scores are fractions.
        show: a value for people.
        numeric: whether it can be compared with a number.
    """

    heading: str
    value: Callable[[RankedTrial], Any]
    show: Callable[[Any], str] = str
    numeric: bool = True


def _shorten(reason: str) -> str:
    """Return a reason in one cell of one line; CSV has the whole of it."""
    return textwrap.shorten(reason, _REASON_WIDTH, placeholder=" ...")


COLUMNS: Mapping[str, Column] = {
    "dataset": Column("data set", lambda trial: trial.place.dataset, numeric=False),
    "protocol": Column("protocol", lambda trial: trial.place.protocol, numeric=False),
    "row": Column("row", lambda trial: str(trial.place.row), numeric=False),
    "rank": Column("rank", lambda trial: trial.rank),
    "trial": Column("trial", lambda trial: trial.number),
    "state": Column("state", lambda trial: trial.state.for_people, numeric=False),
    "score": Column("MAP@R %", lambda trial: trial.score, format_percent),
    "score_deviation": Column("± sd", lambda trial: trial.deviation, format_percent),
    "epochs": Column("epochs", lambda trial: trial.epochs),
    "seconds": Column("seconds", lambda trial: trial.seconds, "{:.0f}".format),
    "device_hours": Column("device-h", lambda trial: trial.hours, format_hours),
    "edge_distance": Column(
        "to edge %", lambda trial: trial.edges[0].share if trial.edges else None, format_percent
    ),
    "edge": Column(
        "edge",
        lambda trial: f"{trial.edges[0].parameter} {trial.edges[0].side}" if trial.edges else None,
        numeric=False,
    ),
    "reason": Column("reason", lambda trial: trial.reason, _shorten, numeric=False),
}


def parameter_names(trials: Sequence[RankedTrial]) -> list[str]:
    """Return the names of all parameters that the trials have, sorted."""
    return sorted({name for trial in trials for name in trial.parameters})


def find_column(name: str) -> Column:
    """Return a column by its name; what is not one of `COLUMNS` is a parameter."""
    return COLUMNS.get(name) or Column(
        name, lambda trial: trial.parameters.get(name), "{:.4g}".format
    )


def choose_trials(
    trials: Sequence[RankedTrial],
    conditions: Sequence[Condition],
    sort: str | None,
    descending: bool = False,
) -> list[RankedTrial]:
    """Return the trials that meet all conditions.

    Args:
        trials: in their order.
        conditions: a trial without the value meets none.
        sort: a column to order by, trials without a value last; None: the order stays.
        descending: the largest value first.
    """
    chosen = [
        trial
        for trial in trials
        if all(c.holds(find_column(c.name).value(trial)) for c in conditions)
    ]
    if sort is None:
        return chosen
    value = find_column(sort).value
    known = [trial for trial in chosen if value(trial) is not None]
    unknown = [trial for trial in chosen if value(trial) is None]
    return [*sorted(known, key=value, reverse=descending), *unknown]


def check_columns(
    trials: Sequence[RankedTrial],
    conditions: Sequence[Condition],
    sort: str | None,
    columns: Sequence[str],
) -> None:
    """Refuse names that are neither columns nor parameters of any trial.

    Raises:
        UserError: the first of them, with the names there are.
    """
    parameters = parameter_names(trials)
    numeric = [name for name, column in COLUMNS.items() if column.numeric]
    check_names([c.name for c in conditions], [*numeric, *parameters], "--where")
    check_names([sort] if sort else [], [*COLUMNS, *parameters], "--sort")
    check_names(columns, [*COLUMNS, *parameters], "--columns")
