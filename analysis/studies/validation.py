"""Correlate validation and test scores of final runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.numbers.correlation import SMALLEST, Correlation, correlate
from analysis.numbers.means import mean
from analysis.studies.row_results import FinalRuns, RowRecord

ALL_ROWS = "all rows"


@dataclass(frozen=True)
class Point:
    """A configuration with tested final runs.

    Attributes:
        row: the row's name.
        trial: the configuration, by the trial that it comes from.
        searched: validation MAP@R in the search.
        retrained: mean validation MAP@R of the final runs, None where no fold's record is left.
        tests: test score of every run.
    """

    row: str
    trial: int | str
    searched: float
    retrained: float | None
    tests: Sequence[float]

    @property
    def test(self) -> float:
        """Mean test score of the runs."""
        return mean(self.tests)


@dataclass(frozen=True)
class Agreement:
    """How well validation and test agree on some configurations.

    Attributes:
        rows: the row's name, or `ALL_ROWS`.
        source: which validation score: "search" or "final runs".
        spearman: correlation of the ranks.
        pearson: correlation of the scores.
        lost: test score of the best configuration in the test, minus that of the best in
            validation; a fraction.
    """

    rows: str
    source: str
    spearman: Correlation
    pearson: Correlation
    lost: float


@dataclass(frozen=True)
class Validation:
    """A data set under a protocol.

    Attributes:
        name: DATASET/PROTOCOL.
        points: its configurations, by row, the best in validation first.
        agreements: of every row with enough configurations, then of all rows.
    """

    name: str
    points: Sequence[Point]
    agreements: Sequence[Agreement]


def validate_rows(rows: Sequence[RowRecord], view: str, metric: str) -> list[Validation]:
    """Correlate validation with test scores, a data set and protocol at a time.

    Args:
        rows: as `analysis.studies.row_results.read_row` returns them.
        view: "concatenated" or "separated".
        metric: test score; validation is MAP@R always, by which configurations are chosen.
    """

    def place_of(row: RowRecord) -> str:
        return f"{row.place.dataset}/{row.place.protocol}"

    validations = []
    for name, group in groupby(sorted(rows, key=lambda r: (place_of(r), r.name)), key=place_of):
        points = [
            _describe(row.name, finals, view, metric)
            for row in group
            for finals in row.configurations
            # Without a search, or a tested run, there is nothing to lay side by side.
            if finals.tested and math.isfinite(finals.score)
        ]
        validations.append(Validation(name, points, _correlate_points(points)))
    return validations


def _describe(row: str, finals: FinalRuns, view: str, metric: str) -> Point:
    validation = list(finals.validation.values())
    return Point(
        row=row,
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
