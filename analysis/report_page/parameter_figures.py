"""Figures of the searched parameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report_page.theme import (
    BEST,
    BLACK,
    BLUE,
    COLOUR_SCALE,
    EDGE_LINE,
    GREEN,
    GREY,
    MAP_AT_R,
    PUBLISHED_LINE,
    STATE_STYLES,
    VERMILION,
    Figure,
    axis,
    beside,
    describe_origins,
    percent,
    plain,
    shorten,
    vertical,
)
from analysis.studies.histories import Search, TrialHistory, with_values
from analysis.studies.parameter_importance import Importance
from analysis.studies.score_surface import Surface
from wpm.records import TrialState


def slices(search: Search, published: Mapping[str, float]) -> list[Figure]:
    """Return a plot for each parameter: scores against its values, with the published value."""
    return [
        _slice(search, name, bounds, published.get(name))
        for name, bounds in search.searched.items()
    ]


def _slice(search: Search, name: str, bounds: Mapping[str, Any], published: float | None) -> Figure:
    data = []
    for state, look in STATE_STYLES.items():
        trials = with_values(search.in_state(state), [name])
        if trials:
            marker = {"color": look.colour, "symbol": look.symbol, "size": 7}
            data.append(_points(state.for_people, trials, name, {**marker, "opacity": 0.8}))
    if search.best and name in search.best.outcome.parameters:
        data.append(_points("best", [search.best], name, BEST))
    shapes = [vertical(bounds[edge], EDGE_LINE) for edge in ("low", "high")]
    caption = f"Searched from {bounds['low']:g} to {bounds['high']:g} ({bounds['scale']} scale)."
    annotations = []
    if published is not None:
        shapes.append(vertical(published, PUBLISHED_LINE))
        place = math.log10(published) if bounds["scale"] == "log" else published
        annotations.append(beside(place, "published", top=True))
        caption += f" Published: {published:.4g} (long dashes)."
    layout = {
        "xaxis": {**axis(name), **_span(bounds)},
        "yaxis": axis(MAP_AT_R),
        "shapes": shapes,
        "annotations": annotations,
        "showlegend": False,
    }
    return Figure(name, caption, data, layout, height=260)


def _points(
    label: str, trials: Sequence[TrialHistory], name: str, marker: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "type": "scatter", "mode": "markers", "name": label, "marker": dict(marker),
        "x": [shorten(t.outcome.parameters[name]) for t in trials],
        "y": [percent(t.outcome.score) for t in trials],
        "customdata": [t.outcome.number for t in trials],
        "text": describe_origins([t.outcome.origin for t in trials]),
        "hovertemplate": "trial %{customdata}%{text}<br>%{x:.4g}<br>%{y:.2f} %<extra></extra>",
    }  # fmt: skip


def _span(bounds: Mapping[str, Any]) -> dict[str, Any]:
    """Return the type and the range of an axis: the searched range, and a little on both sides."""
    low, high = bounds["low"], bounds["high"]
    if bounds["scale"] != "log":
        space = 0.04 * (high - low)
        return {"type": "linear", "range": [low - space, high + space]}
    low, high = math.log10(low), math.log10(high)
    space = 0.04 * (high - low)
    # Put labels at 1, 2 and 5 of every decade; if there are many decades, only at 1.
    tick = "D2" if high - low < 3 else 1
    return {"type": "log", "range": [low - space, high + space], "dtick": tick}


def importance(estimates: Importance) -> Figure:
    """Return both estimates for every parameter, joined by a line that shows their difference."""
    names = list(estimates.fanova)[::-1]
    both = {"fANOVA": estimates.fanova, "permutation": estimates.permutation}
    gaps: dict[str, list[Any]] = {"x": [], "y": []}
    for name in names:
        gaps["x"] += [*(percent(shares[name]) for shares in both.values()), None]
        gaps["y"] += [plain(name), plain(name), None]
    markers = (
        {"color": BLUE, "symbol": "circle", "size": 12},
        {"color": VERMILION, "symbol": "diamond-open", "size": 12, "line": {"width": 2}},
    )
    data: list[dict[str, Any]] = [
        {
            "type": "scatter", "mode": "lines", **gaps, "line": {"color": GREY, "width": 2},
            "showlegend": False, "hoverinfo": "skip",
        }
    ]  # fmt: skip
    data += [
        {
            "type": "scatter", "mode": "markers", "name": label, "marker": marker,
            "x": [percent(shares[name]) for name in names], "y": [plain(name) for name in names],
            "hovertemplate": "%{y}: %{x:.1f} %",
        }
        for (label, shares), marker in zip(both.items(), markers, strict=True)
    ]  # fmt: skip
    layout = {
        "xaxis": axis("share of importance, %", rangemode="tozero"),
        "yaxis": {"type": "category"},
    }
    caption = (
        "Two estimates of how much each parameter mattered; the line shows how much they differ."
    )
    return Figure("Importance", caption, data, layout, height=150 + 38 * len(names))


def contour(
    search: Search, surface: Surface, target: str, published: Mapping[str, float]
) -> Figure:
    """Return the predicted score over two parameters, with the trials drawn on it."""
    x_name, y_name = surface.parameters
    trials = with_values(
        search.in_state(TrialState.COMPLETE, TrialState.PRUNED), surface.parameters
    )
    data: list[dict[str, Any]] = [
        {
            "type": "contour", "colorscale": [list(stop) for stop in COLOUR_SCALE], "ncontours": 12,
            "x": [shorten(v) for v in surface.x], "y": [shorten(v) for v in surface.y],
            "z": [[percent(float(v)) for v in row] for row in surface.score],
            "contours": {"coloring": "fill", "showlabels": True, "labelfont": {"color": BLACK}},
            "line": {"color": BLACK, "width": 0.5}, "hovertemplate": "%{z:.2f} %<extra></extra>",
            "colorbar": {"title": {"text": "MAP@R, %"}, "thickness": 12, "len": 1, "y": 0.5},
        },
        _marks("trials", trials, surface.parameters, {
            "color": "white", "size": 6, "line": {"color": BLACK, "width": 1.5},
        }),
    ]  # fmt: skip
    if search.best:
        data.append(_marks("best", [search.best], surface.parameters, {**BEST, "size": 18}))
    if set(surface.parameters) <= published.keys():
        data.append(
            {
                "type": "scatter", "mode": "markers", "name": "published",
                "x": [published[x_name]], "y": [published[y_name]],
                "marker": {"symbol": "x", "size": 14, "color": GREEN,
                           "line": {"color": "white", "width": 1.5}},
            }
        )  # fmt: skip
    layout = {
        "xaxis": {**axis(x_name), **_span(search.searched[x_name])},
        "yaxis": {**axis(y_name), **_span(search.searched[y_name])},
    }
    caption = (
        f"The {target}, as a random forest predicts it over the two most important parameters, "
        "averaged over the others; darker is better. Far from any trial it is only a guess."
    )
    return Figure("Two most important parameters", caption, data, layout, height=460)


def _marks(
    label: str, trials: Sequence[TrialHistory], names: tuple[str, str], marker: Mapping[str, Any]
) -> dict[str, Any]:
    x, y = ([shorten(t.outcome.parameters[name]) for t in trials] for name in names)
    return {
        "type": "scatter", "mode": "markers", "name": label, "x": x, "y": y,
        "customdata": [[t.outcome.number, percent(t.outcome.score)] for t in trials],
        "marker": dict(marker),
        "hovertemplate": "trial %{customdata[0]}<br>%{customdata[1]:.2f} %<extra></extra>",
    }  # fmt: skip
