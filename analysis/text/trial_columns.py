"""The columns of a ranking: their names, their values, and how people see these."""

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
    """A column of a ranking.

    Attributes:
        heading: heading for people; programs see the column's name.
        value: returns the value of a trial, None if it has none; scores are fractions.
        show: writes a value for people.
        numeric: whether a condition can compare the value with a number.
        whole: returns the number of which the value is a part, None if people need not know it.
    """

    heading: str
    value: Callable[[RankedTrial], Any]
    show: Callable[[Any], str] = str
    numeric: bool = True
    whole: Callable[[RankedTrial], int | None] = lambda trial: None

    def text(self, trial: RankedTrial) -> str:
        """Write the value of a trial for people."""
        value, whole = self.value(trial), self.whole(trial)
        if value is None:
            return "-"
        return self.show(value) + ("" if whole is None else f" of {whole}")


def _shorten(reason: str) -> str:
    """Shorten a reason to one line; CSV has the complete text."""
    return textwrap.shorten(reason, _REASON_WIDTH, placeholder=" ...")


COLUMNS: Mapping[str, Column] = {
    "dataset": Column("data set", lambda trial: trial.place.dataset, numeric=False),
    "protocol": Column("protocol", lambda trial: trial.place.protocol, numeric=False),
    "row": Column("row", lambda trial: str(trial.place.row), numeric=False),
    "search": Column("search", lambda trial: trial.place.search),
    "rank": Column("rank", lambda trial: trial.rank),
    "trial": Column("trial", lambda trial: trial.number),
    "state": Column("state", lambda trial: trial.state.for_people, numeric=False),
    "score": Column("MAP@R %", lambda trial: trial.score, format_percent),
    "score_deviation": Column("± sd", lambda trial: trial.deviation, format_percent),
    "epochs": Column("epochs", lambda trial: trial.epochs),
    "folds": Column("folds", lambda trial: trial.folds, whole=lambda trial: trial.folds_of),
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
    "origin": Column("origin", lambda trial: trial.origin or None, numeric=False),
    "reason": Column("reason", lambda trial: trial.reason, _shorten, numeric=False),
}


def parameter_names(trials: Sequence[RankedTrial]) -> list[str]:
    """Return the names of all parameters of the trials, sorted."""
    return sorted({name for trial in trials for name in trial.parameters})


def origin_columns(trials: Sequence[RankedTrial]) -> list[str]:
    """Return the column of origins if any trial was known before its search."""
    return ["origin"] if any(trial.origin for trial in trials) else []


def usual_columns(trials: Sequence[RankedTrial]) -> list[str]:
    """Return the columns that people see before those of the parameters.

    Folds are among them where trials do not train all of them in lockstep.
    """
    folds = ["folds"] if any(trial.folds_of is not None for trial in trials) else []
    return ["rank", "trial", "state", "score", "score_deviation", "epochs", *folds, "device_hours"]


def find_column(name: str) -> Column:
    """Return a column by its name; a name that is not in `COLUMNS` is a parameter."""
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
        conditions: a trial without a value for a condition does not meet it.
        sort: column to sort by, with trials that have no value last; None keeps the order.
        descending: sort the largest value first.
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
        UserError: names the first of them and lists the known names.
    """
    parameters = parameter_names(trials)
    numeric = [name for name, column in COLUMNS.items() if column.numeric]
    check_names([c.name for c in conditions], [*numeric, *parameters], "--where")
    check_names([sort] if sort else [], [*COLUMNS, *parameters], "--sort")
    check_names(columns, [*COLUMNS, *parameters], "--columns")
