"""Correlate validation and test scores of final runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.numbers.correlation import SMALLEST, Correlation, correlate
from analysis.numbers.means import mean
from analysis.studies.row_record import FinalRuns, RowRecord
from wpm.procedure import PROCEDURE

ALL_ROWS = "all rows"


@dataclass(frozen=True)
class Point:
    """A configuration with tested final runs.

    Attributes:
        row: name of the row, which may have been searched several times.
        search: which search of the row the configuration comes from, from 1.
        trial: the trial of that search.
        searched: validation MAP@R in the search.
        retrained: mean validation MAP@R of the final runs; None if no record of a fold exists.
        tests: test score of every run.
    """

    row: str
    search: int
    trial: int | str
    searched: float
    retrained: float | None
    tests: Sequence[float]

    @property
    def origin(self) -> str:
        """The trial, and which search it is of unless that is the first."""
        return f"{self.trial} of search {self.search}" if self.search > 1 else str(self.trial)

    @property
    def test(self) -> float:
        """The mean test score of the runs."""
        return mean(self.tests)


@dataclass(frozen=True)
class Agreement:
    """How well validation and test agree on some configurations.

    Attributes:
        rows: name of a row, or `ALL_ROWS`.
        source: origin of the validation score, "search" or "final runs".
        spearman: correlation of the ranks.
        pearson: correlation of the scores.
        lost: test score of the configuration that is best in the test, minus that of the one that
            is best in validation; a fraction.
    """

    rows: str
    source: str
    spearman: Correlation
    pearson: Correlation
    lost: float


@dataclass(frozen=True)
class Validation:
    """Validation against test on a data set under a protocol.

    Attributes:
        name: DATASET/PROTOCOL, with the training procedure if it is not this version's.
        points: the configurations, by row, the best in validation first.
        agreements: those of every row with enough configurations, then those of all rows together.
    """

    name: str
    points: Sequence[Point]
    agreements: Sequence[Agreement]


def validate_rows(rows: Sequence[RowRecord], view: str, metric: str) -> list[Validation]:
    """Correlate validation with test scores, for each data set, protocol and training procedure.

    Args:
        view: "concatenated" or "separated".
        metric: metric of the test score. The validation score is always MAP@R, because it chooses
            the configurations.
    """

    def place_of(row: RowRecord) -> str:
        age = "" if row.procedure == PROCEDURE else f", procedure {row.procedure}"
        return f"{row.place.dataset}/{row.place.protocol}{age}"

    ordered = sorted(rows, key=lambda r: (place_of(r), str(r.place.row), r.place.search))
    validations = []
    for name, group in groupby(ordered, key=place_of):
        points = [
            _describe(row, finals, view, metric)
            for row in group
            for finals in row.configurations
            # Without a search or a tested run there is nothing to compare.
            if finals.tested and math.isfinite(finals.score)
        ]
        validations.append(Validation(name, points, _correlate_points(points)))
    return validations


def _describe(row: RowRecord, finals: FinalRuns, view: str, metric: str) -> Point:
    validation = list(finals.validation.values())
    return Point(
        row=str(row.place.row),
        search=row.place.search,
        trial=finals.trial,
        searched=finals.score,
        retrained=mean(validation) if validation else None,
        tests=finals.scores(view, metric),
    )


def _correlate_points(points: Sequence[Point]) -> list[Agreement]:
    rows = sorted({point.row for point in points})
    groups = {row: [point for point in points if point.row == row] for row in rows}
    if len(rows) > 1:
        groups[ALL_ROWS] = list(points)
    return [
        agreement
        for name, members in groups.items()
        for agreement in _correlate_group(name, members)
        if agreement.pearson.points >= SMALLEST
    ]


def _correlate_group(name: str, points: Sequence[Point]) -> list[Agreement]:
    retrained = [(point.retrained, point.test) for point in points if point.retrained is not None]
    searched = [(point.searched, point.test) for point in points]
    return [
        _measure(name, source, scores)
        for source, scores in (("search", searched), ("final runs", retrained))
        if scores
    ]


def _measure(rows: str, source: str, scores: Sequence[tuple[float, float]]) -> Agreement:
    validation, test = ([pair[i] for pair in scores] for i in (0, 1))
    return Agreement(
        rows=rows,
        source=source,
        spearman=correlate(validation, test, ranks=True),
        pearson=correlate(validation, test, ranks=False),
        lost=max(test) - max(scores, key=lambda pair: pair[0])[1],
    )
