"""How far a configuration lies from the edges of the searched ranges, and what to search next."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NEAR = 0.05  # share of the searched scale; a value as near as this to an edge is at the edge
_WIDE = 100.0  # if high / low is at least this, a linear range hides the decades at its low end
_DROPOUTS = ("embedding_dropout", "channel_dropout")
_MOST_DROPPED = 0.95  # largest dropout to suggest; a dropout of 1 leaves nothing


@dataclass(frozen=True)
class EdgeDistance:
    """The distance of a parameter's value from the nearer edge of its range.

    Attributes:
        parameter: name of the parameter.
        side: the nearer edge, "low" or "high".
        edge: the value at that edge.
        share: distance as a share of the searched scale: 0 at the edge, 0.5 in the middle, negative
            outside. On a log scale it is measured in decades.
    """

    parameter: str
    side: str
    edge: float
    share: float


def edge_distances(
    parameters: Mapping[str, float], searched: Mapping[str, Mapping[str, Any]]
) -> list[EdgeDistance]:
    """Return the distance of every searched parameter, the nearest to an edge first.

    Args:
        parameters: values of a configuration.
        searched: ranges by parameter, as study.json has them: low, high and scale.

    Raises:
        ValueError: a value on a log scale is not above zero.
    """
    distances = [
        _measure(name, parameters[name], bounds)
        for name, bounds in searched.items()
        if name in parameters
    ]
    return sorted(distances, key=lambda distance: distance.share)


def _measure(name: str, value: float, bounds: Mapping[str, Any]) -> EdgeDistance:
    low, high = bounds["low"], bounds["high"]
    scale = math.log if bounds["scale"] == "log" else float
    position = (scale(value) - scale(low)) / (scale(high) - scale(low))
    if position <= 0.5:
        return EdgeDistance(name, "low", low, position)
    return EdgeDistance(name, "high", high, 1 - position)


@dataclass(frozen=True)
class NextRange:
    """A range to search next. `scale` is "log" or "linear"."""

    low: float
    high: float
    scale: str

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}{' (log)' if self.scale == 'log' else ''}"


@dataclass(frozen=True)
class BoundaryCheck:
    """Where the best value of a parameter lies in its range.

    Attributes:
        distance: distance from the nearer edge.
        value: value in the best configuration.
        bounds: low, high, scale and type of the range, as study.json has them.
        next_range: range to search next if the value is at an edge, else None.
    """

    distance: EdgeDistance
    value: float
    bounds: Mapping[str, Any]
    next_range: NextRange | None

    @property
    def range_text(self) -> str:
        """The range that was searched, for people."""
        return str(NextRange(self.bounds["low"], self.bounds["high"], self.bounds["scale"]))


def check_boundaries(
    parameters: Mapping[str, float], searched: Mapping[str, Mapping[str, Any]]
) -> list[BoundaryCheck]:
    """Check every searched parameter of a configuration, the nearest to an edge first.

    Args:
        parameters: values of the best configuration.
        searched: ranges by parameter, as study.json has them.
    """
    return [
        BoundaryCheck(
            distance=distance,
            value=(value := parameters[distance.parameter]),
            bounds=(bounds := searched[distance.parameter]),
            next_range=_suggest(distance, value, bounds) if distance.share <= NEAR else None,
        )
        for distance in edge_distances(parameters, searched)
    ]


def describe_edges(checks: Sequence[BoundaryCheck]) -> str:
    """Say in one line which parameters are at an edge."""
    near = [check.distance for check in checks if check.next_range]
    if not near:
        return f"no parameter of the best trial is within {NEAR:.0%} of an edge of its range"
    names = ", ".join(f"{distance.parameter} ({distance.side})" for distance in near)
    return f"within {NEAR:.0%} of an edge of the range: {names}; search these further"


def _suggest(distance: EdgeDistance, value: float, bounds: Mapping[str, Any]) -> NextRange:
    """Return the half of the range at the edge, and as much beyond it.

    On a log scale the new range ends at most a decade beyond the edge.
    """
    low, high, edge = bounds["low"], bounds["high"], distance.edge
    if bounds["scale"] == "log":
        inside = math.sqrt(high / low)
        beyond = min(inside, 10.0)
        down, up = (beyond, inside) if distance.side == "low" else (inside, beyond)
        return _clip(distance, NextRange(edge / down, edge * up, "log"), bounds)
    if distance.side == "low" and low > 0 and value > 0 and high / low >= _WIDE:
        # Such a low end is a sliver of the linear range, so suggest its decades instead.
        return _clip(distance, NextRange(value / 10, value * 10, "log"), bounds)
    half = (high - low) / 2
    return _clip(distance, NextRange(edge - half, edge + half, "linear"), bounds)


def _clip(distance: EdgeDistance, wide: NextRange, bounds: Mapping[str, Any]) -> NextRange:
    """Clip a range to sensible values: for example, a size never becomes negative."""
    low, high = wide.low, wide.high
    if bounds["low"] >= 0:
        low = max(low, 0.0)
    if distance.parameter in _DROPOUTS:
        high = min(high, _MOST_DROPPED)
    if bounds["type"] == "int":
        low, high = float(max(round(low), 1)), float(round(high))
    return NextRange(low, high, wide.scale)
