"""The figure of all parameters of a search together: parallel coordinates."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.report_page.theme import (
    BLACK,
    BLUE,
    GREEN,
    PUBLISHED_LINE,
    VERMILION,
    Figure,
    plain,
    shorten,
)
from analysis.studies.histories import Search, TrialHistory, with_values
from wpm.records import TrialState

_TOP_SHARE = 0.1  # share of the complete trials that are drawn in front


def parallel_coordinates(search: Search, published: Mapping[str, float]) -> Figure | None:
    """Return every trial as a line over its parameters and its score.

    These are plain lines, because plotly's own parallel coordinates are pictures without text that
    differ by colour only, and a browser can draw only a few of them on a page.
    """
    names = list(search.searched)
    complete = with_values(search.in_state(TrialState.COMPLETE), names)
    stopped = with_values(search.in_state(TrialState.PRUNED), names)
    if not names or len(complete) + len(stopped) < 2:
        return None
    ranked = sorted(complete, key=lambda t: -(t.outcome.score or 0.0))
    top = max(1, round(_TOP_SHARE * len(ranked))) if ranked else 0
    scores = [t.outcome.score or 0.0 for t in (*complete, *stopped)]
    bounds = {**search.searched, "MAP@R": {"low": min(scores), "high": max(scores), "scale": ""}}
    groups = (
        ("stopped", stopped, {"color": VERMILION, "width": 1, "dash": "dash"}, 0.6),
        ("complete", ranked[top:], {"color": BLUE, "width": 1}, 0.6),
        (f"best {top} of complete", ranked[:top], {"color": BLACK, "width": 3}, 1.0),
    )
    data = [_crossing(*group, bounds) for group in groups if group[1]]
    if published.keys() & search.searched.keys():
        data.append(_published_crossing(published, bounds))
    annotations = [
        {
            "x": i, "y": place, "text": plain(_edge_text(bounds[name], edge)), "showarrow": False,
            "yanchor": anchor, "font": {"size": 11},
        }
        for i, name in enumerate(bounds)
        for edge, place, anchor in (("high", 1.02, "bottom"), ("low", -0.02, "top"))
    ]  # fmt: skip
    layout = {
        "xaxis": {
            "tickvals": list(range(len(bounds))),
            "ticktext": [plain(name).replace("_", "_<br>") for name in bounds],
            "range": [-0.3, len(bounds) - 0.7], "gridcolor": "#888888", "gridwidth": 1,
            "ticklabeloverflow": "allow",
        },
        "yaxis": {"visible": False, "range": [-0.14, 1.14]},
        "annotations": annotations,
        "margin": {"l": 20, "r": 30},
    }  # fmt: skip
    caption = (
        "Each line is a trial, drawn over its parameters and its score. Every axis covers the "
        "searched range, on a logarithmic scale if the search used one."
    )
    return Figure("Parallel coordinates", caption, data, layout, height=420)


def _edge_text(bounds: Mapping[str, Any], edge: str) -> str:
    return f"{bounds[edge]:g}" if bounds["scale"] else f"{100 * bounds[edge]:.1f} %"


def _crossing(
    label: str,
    trials: Sequence[TrialHistory],
    line: Mapping[str, Any],
    opacity: float,
    bounds: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        values = [*(trial.outcome.parameters[n] for n in list(bounds)[:-1]), trial.outcome.score]
        for i, (value, edges) in enumerate(zip(values, bounds.values(), strict=True)):
            x.append(i)
            y.append(_height(value or 0.0, edges))
            numbers.append(trial.outcome.number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    return {
        "type": "scatter", "mode": "lines", "name": label, "x": x, "y": y, "customdata": numbers,
        "line": dict(line), "opacity": opacity, "hovertemplate": "trial %{customdata}",
    }  # fmt: skip


def _published_crossing(
    published: Mapping[str, float], bounds: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    heights = [
        _height(published[name], edges) if name in published else None  # None leaves a gap
        for name, edges in bounds.items()
    ]
    return {
        "type": "scatter", "mode": "lines+markers", "name": "published", "line": PUBLISHED_LINE,
        "marker": {"symbol": "square", "size": 9, "color": GREEN},
        "x": list(range(len(heights))), "y": heights, "hovertemplate": "published",
    }  # fmt: skip


def _height(value: float, bounds: Mapping[str, Any]) -> float:
    """Return where a value lies between the edges: 0 at the low edge, 1 at the high one."""
    low, high = bounds["low"], bounds["high"]
    if bounds["scale"] == "log":
        value, low, high = math.log(value), math.log(low), math.log(high)
    return shorten((value - low) / (high - low)) if high > low else 0.5
