"""Does validation rank configurations as the test does?"""

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from analysis.correlation import SMALLEST, Correlation, correlate
from analysis.layout import NotedTable, format_csv, format_mean, format_percent, with_notes
from analysis.options import build_parser, read_studies, run_main, select_studies
from analysis.rows import METRICS, FinalRuns, RowRecord, add_score_flags, read_row
from analysis.statistics import mean
from wpm.errors import UserError
from wpm.tables import format_table

DESCRIPTION = """Does validation rank configurations as the test does?

Needs final runs of several configurations: python launch.py --best-only --top 5 trains the five
best of every search. A configuration is one point: its test score is the mean over its runs. Two
scores are laid beside it: validation MAP@R in the search, by which it was chosen, and that of the
final runs' own models. Spearman's and Pearson's correlation with 95% intervals, over the
configurations of every row that has at least three, and of all rows of a data set together. Lost by
choosing: how much worse in the test the configuration is that validation puts first than the one
that is best in the test. docs/statistics.md says what this can tell.
"""
EXAMPLES = """  python -m analysis.validate --dataset omniglot
  python -m analysis.validate --dataset omniglot --row triplet --view separated --format markdown
  python -m analysis.validate --format csv --points > configurations.csv
"""

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
        rows: as `analysis.rows.read_row` returns them.
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


def format_validations(
    validations: Sequence[Validation], view: str, metric: str, style: str
) -> str:
    """Lay validations out: the correlations, then the configurations.

    Args:
        validations: at least one.
        view: of the test scores.
        metric: of the test scores.
        style: text or markdown.

    Returns:
        Text without a final newline.
    """
    test = f"test {METRICS[metric]}, {view}"
    sections = []
    for validation in validations:
        sections += [
            lay_out_agreements(validation, test).format(style),
            _format_points(validation, test, style),
        ]
    return "\n\n".join(sections)


def lay_out_agreements(validation: Validation, test: str) -> NotedTable:
    """Return the table of correlations.

    Args:
        validation: of a data set and protocol.
        test: name of the test score, for people.
    """
    columns = [
        "rows", "validation of", "configurations", "Spearman", "95% interval", "Pearson",
        "95% interval", "lost by choosing",
    ]  # fmt: skip
    cells = [
        [
            agreement.rows,
            agreement.source,
            agreement.pearson.points,
            *_format_correlation(agreement.spearman),
            *_format_correlation(agreement.pearson),
            format_percent(agreement.lost),
        ]
        for agreement in validation.agreements
    ]
    heading = f"{validation.name}: validation MAP@R against {test}"
    counts = {
        row: sum(point.row == row for point in validation.points)
        for row in sorted({point.row for point in validation.points})
    }
    few = [f"{row} {count}" for row, count in counts.items() if count < SMALLEST]
    notes = []
    if few:
        notes.append(
            f"rows with fewer than {SMALLEST} configurations (python launch.py --best-only --top 5 "
            f"makes more): {', '.join(few)}"
        )
    if cells:
        notes.append("lost by choosing: in points, by the configuration that validation puts first")
    if any(None in (a.spearman.low, a.pearson.low) for a in validation.agreements):
        notes.append("no interval: three points, all in line, or a score that does not vary")
    return NotedTable(heading, columns, cells, notes, "too few configurations to correlate")


def _format_correlation(correlation: Correlation) -> tuple[str, str]:
    if correlation.value is None:
        return "-", "-"
    if correlation.low is None:
        return f"{correlation.value:.2f}", "-"
    return f"{correlation.value:.2f}", f"[{correlation.low:.2f}, {correlation.high:.2f}]"


def _format_points(validation: Validation, test: str, style: str) -> str:
    columns = ["row", "trial", "search", "final runs", test, "runs"]
    cells = [
        [
            point.row,
            point.trial,
            format_percent(point.searched),
            format_percent(point.retrained),
            format_mean(point.tests),
            len(point.tests),
        ]
        for point in validation.points
    ]
    return with_notes(
        f"{validation.name}: configurations, in percent",
        format_table(columns, cells, style),
        [],
        style,
    )


def format_agreements_csv(validations: Sequence[Validation], view: str, metric: str) -> str:
    """Return a line a correlation."""
    columns = [
        "study", "rows", "validation", "view", "metric", "configurations",
        *(f"{kind}{end}" for kind in ("spearman", "pearson") for end in ("", "_low", "_high")),
        "lost",
    ]  # fmt: skip
    rows = [
        [
            validation.name, agreement.rows, agreement.source, view, metric,
            agreement.pearson.points, *_values(agreement.spearman), *_values(agreement.pearson),
            agreement.lost,
        ]
        for validation in validations
        for agreement in validation.agreements
    ]  # fmt: skip
    return format_csv(columns, rows)


def _values(correlation: Correlation) -> tuple[float | None, ...]:
    return correlation.value, correlation.low, correlation.high


def format_points_csv(validations: Sequence[Validation], view: str, metric: str) -> str:
    """Return a line a configuration; scores are fractions."""
    columns = ["study", "row", "trial", "search_validation", "final_validation", "view", "metric",
               "test_mean", "runs"]  # fmt: skip
    rows = [
        [
            validation.name, point.row, point.trial, point.searched, point.retrained, view, metric,
            point.test, len(point.tests),
        ]
        for validation in validations
        for point in validation.points
    ]  # fmt: skip
    return format_csv(columns, rows)


def _print_validations(args: argparse.Namespace) -> None:
    if args.points and args.format != "csv":
        raise UserError("--points is for --format csv; text and markdown show them anyway")
    rows = read_studies(select_studies(args), read_row)
    validations = [v for v in validate_rows(rows, args.view, args.metric) if v.points]
    if not validations:
        raise UserError(
            "no tested final runs in the selected studies; make them with python launch.py "
            "--best-only --top 5"
        )
    if args.format == "csv":
        write = format_points_csv if args.points else format_agreements_csv
        print(write(validations, args.view, args.metric))
    else:
        print(format_validations(validations, args.view, args.metric, args.format))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.validate", DESCRIPTION, EXAMPLES)
    add_score_flags(parser)
    parser.add_argument(
        "--points", action="store_true", help="in CSV the configurations, not the correlations"
    )
    return run_main(parser, _print_validations, arguments)


if __name__ == "__main__":
    sys.exit(main())
