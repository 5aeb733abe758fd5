"""Figures of the final runs: every run is a point, with intervals beside the points."""

from collections.abc import Sequence
from typing import Any

from analysis.numbers.means import confidence_half_width, mean
from analysis.report_page.theme import (
    BLACK,
    BLUE,
    EDGE_LINE,
    ORANGE,
    Figure,
    axis,
    marker_of,
    percent,
    plain,
    vertical,
)
from analysis.studies.comparison import Comparison
from analysis.studies.row_searches import RowSearches
from analysis.studies.validation import Point
from analysis.text.verdict import THESE_CONFIGURATIONS, name_scope
from wpm.miners import WITHIN_PAIR

_SPREAD = 0.22  # how far the runs of a row are spread, as a share of the height of a line
_BELOW = 0.32  # how far the mean lies below its runs, as a share of the height of a line


def final_runs(rows: Sequence[RowSearches], view: str) -> Figure | None:
    """Return the test MAP@R of every run of every search, with the mean and its interval below."""
    tested = [row for row in rows if sum(row.tested_runs)]
    if not tested:
        return None
    data: list[dict[str, Any]] = []
    for miner in sorted({row.place.row.miner for row in tested}, key=lambda name: name or ""):
        label = "runs, plain" if miner is None else f"runs, +{miner}"
        colour, symbol = (BLUE, "circle-open") if miner is None else (ORANGE, "diamond")
        x: list[float | None] = []
        y: list[float] = []
        seeds: list[int] = []
        for place, row in enumerate(tested):
            if row.place.row.miner == miner:
                searches = row.scores_by_run(view, "map_at_r").values()
                scores = {seed: score for runs in searches for seed, score in runs.items()}
                x += [percent(score) for score in scores.values()]
                y += [place - offset for offset in _offsets(len(scores))]
                seeds += list(scores)
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": label, "x": x, "y": y,
                "customdata": seeds, "hovertemplate": "seed %{customdata}<br>%{x:.2f} %",
                "marker": {"color": colour, "symbol": symbol, "size": 9,
                           "line": {"color": BLACK if miner else colour, "width": 1.5}},
            }
        )  # fmt: skip
    data.append(_means(tested, view))
    layout = {
        "xaxis": axis(f"test MAP@R, {view}, %"),
        "yaxis": {
            "tickvals": list(range(len(tested))), "ticktext": [plain(row.name) for row in tested],
            "range": [len(tested) - 0.4, -0.6], "zeroline": False,
        },
    }  # fmt: skip
    caption = (
        "Each point is a final run; below them are the mean and its 95% interval (Student t): of "
        f"{THESE_CONFIGURATIONS} with other seeds where a row was searched once, and of other "
        "searches too where it was searched several times."
    )
    title = f"Final runs, {view}"
    return Figure(title, caption, data, layout, height=150 + 46 * len(tested))


def _offsets(count: int) -> list[float]:
    """Spread runs evenly, so that equal scores do not hide one another."""
    if count == 1:
        return [0.0]
    return [_SPREAD * (2 * i / (count - 1) - 1) for i in range(count)]


def _means(tested: Sequence[RowSearches], view: str) -> dict[str, Any]:
    scores = [row.scores(view, "map_at_r") for row in tested]
    return {
        "type": "scatter", "mode": "markers", "name": "mean, 95% interval",
        "x": [percent(mean(values)) for values in scores],
        "y": [place + _BELOW for place in range(len(scores))],
        "error_x": {
            "type": "data", "array": [_half_width(values) for values in scores], "color": BLACK,
            "thickness": 2, "width": 5,
        },
        "marker": {"color": BLACK, "symbol": "line-ns", "size": 12, "line": {"width": 3}},
        "hovertemplate": "mean %{x:.2f} %",
    }  # fmt: skip


def _half_width(scores: Sequence[float]) -> float:
    """Return the half-width of the interval in percent; 0 for a single score, which has none."""
    return percent(confidence_half_width(scores)) or 0.0


def differences(comparisons: Sequence[Comparison]) -> Figure | None:
    """Return the mean difference of every two rows, its interval, and all pairs of runs."""
    known = [c for c in comparisons if c.difference is not None]
    if not known:
        return None
    runs: dict[str, list[Any]] = {"x": [], "y": [], "customdata": []}
    means: list[float | None] = []
    widths: list[float] = []
    for place, comparison in enumerate(known):
        difference = comparison.difference
        assert difference is not None
        runs["x"] += [percent(value) for value in comparison.run_differences]
        runs["y"] += [place - offset for offset in _offsets(len(comparison.seeds))]
        runs["customdata"] += list(comparison.seeds)
        means.append(percent(difference.mean))
        widths.append(percent(difference.half_width) or 0.0)
    places = {(c.first.place.dataset, c.first.place.protocol) for c in known}
    data = [
        {
            "type": "scatter", "mode": "markers", "name": "pairs of runs", **runs,
            "marker": {"color": BLUE, "symbol": "circle-open", "size": 8, "line": {"width": 1.5}},
            "hovertemplate": "seed %{customdata}<br>%{x:+.2f} points",
        },
        {
            "type": "scatter", "mode": "markers", "name": "mean difference, 95% interval",
            "x": means, "y": [place + _BELOW for place in range(len(known))],
            "error_x": {"type": "data", "array": widths, "color": BLACK, "thickness": 2.5,
                        "width": 6},
            "marker": {"color": BLACK, "symbol": "square", "size": 9},
            "hovertemplate": "%{x:+.2f} points",
        },
    ]  # fmt: skip
    ends = [0.0, *runs["x"]]
    for centre, width in zip(means, widths, strict=True):
        ends += [(centre or 0.0) - width, (centre or 0.0) + width]
    space = 0.06 * (max(ends) - min(ends)) or 1.0
    layout = {
        "xaxis": axis(
            "difference in test MAP@R, points",
            range=[min(ends) - space, max(ends) + space],
        ),
        "yaxis": {
            "tickvals": list(range(len(known))),
            "ticktext": [plain(_name(c, several=len(places) > 1)) for c in known],
            "range": [len(known) - 0.4, -0.6], "zeroline": False,
        },
        "shapes": [vertical(0, {**EDGE_LINE, "color": BLACK, "dash": "solid"})],
    }  # fmt: skip
    better = "the second row"
    if all(c.second.place.row.miner == WITHIN_PAIR for c in known):
        better = "mining"
    scopes = sorted({name_scope(len(comparison.pairs)) for comparison in known})
    caption = (
        f"Second row minus first, seed by seed; right of the line {better} is better. Intervals "
        f"are of {' or '.join(scopes)}."
    )
    return Figure("Differences and their intervals", caption, data, layout,
                  height=160 + 46 * len(known))  # fmt: skip


def _name(comparison: Comparison, *, several: bool) -> str:
    place = comparison.first.place
    where = f"{place.dataset}/{place.protocol} " if several else ""
    return f"{where}{comparison.second.name}"


def validation_against_test(points: Sequence[Point], view: str) -> Figure | None:
    """Return the test score of every configuration against its validation score."""
    if not points:
        return None
    data = []
    for position, row in enumerate(sorted({point.row for point in points})):
        own = [point for point in points if point.row == row]
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": plain(row),
                "x": [percent(point.searched) for point in own],
                "y": [percent(point.test) for point in own],
                "customdata": [point.origin for point in own],
                "error_y": {"type": "data", "array": [_half_width(p.tests) for p in own],
                            "thickness": 1, "width": 3},
                "marker": marker_of(position, size=10),
                "hovertemplate": "trial %{customdata}<br>validation %{x:.2f} %<br>test %{y:.2f} %",
            }
        )  # fmt: skip
    layout = {
        "xaxis": axis("validation MAP@R in the search, %"),
        "yaxis": axis(f"test MAP@R, {view}, %"),
    }
    caption = (
        "Each point is a configuration with final runs: the mean test score and its 95% interval, "
        "against the validation score by which it was chosen."
    )
    return Figure("Validation against test", caption, data, layout, height=400)
