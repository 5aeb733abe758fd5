"""How far a configuration lies from the edges of the ranges that were searched."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EdgeDistance:
    """A parameter's distance from the nearer edge of its range.

    Attributes:
        parameter: its name.
        side: the nearer edge, "low" or "high".
        edge: its value.
        share: distance as a share of the searched scale: 0 on the edge, 0.5 in the middle, negative
            outside. On a log scale in decades, not in units.
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
        parameters: of a configuration.
        searched: ranges by parameter, as study.json holds them: low, high, scale.

    Raises:
        ValueError: a value that its log scale does not have.
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


NEAR = 0.05  # share of the range, on the searched scale, within which the best point is at an edge
_WIDE = 100.0  # a linear range from above zero over so large a factor hides its low end
_DROPOUTS = ("embedding_dropout", "channel_dropout")
_MOST_DROPPED = 0.95  # of a dropout: at 1 nothing is left


@dataclass(frozen=True)
class NextRange:
    """A range to search next."""

    low: float
    high: float
    scale: str

    def __str__(self) -> str:
        return f"{self.low:.3g} to {self.high:.3g}{' (log)' if self.scale == 'log' else ''}"


@dataclass(frozen=True)
class BoundaryCheck:
    """Where the best value of a parameter lies in its range.

    Attributes:
        distance: from the nearer edge.
        value: of the best configuration.
        bounds: low, high, scale and type of the range, as study.json holds them.
        next_range: to search next, if the value is at an edge; None if it is not.
    """

    distance: EdgeDistance
    value: float
    bounds: Mapping[str, Any]
    next_range: NextRange | None

    @property
    def range_text(self) -> str:
        """What was searched, for people."""
        return str(NextRange(self.bounds["low"], self.bounds["high"], self.bounds["scale"]))


def check_boundaries(
    parameters: Mapping[str, float], searched: Mapping[str, Mapping[str, Any]]
) -> list[BoundaryCheck]:
    """Check every searched parameter of a configuration, those nearest to an edge first.

    Args:
        parameters: of the best configuration.
        searched: ranges by parameter, as study.json holds them.
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
    """Say in a line which parameters are at an edge."""
    near = [check.distance for check in checks if check.next_range]
    if not near:
        return f"no parameter of the best trial is within {NEAR:.0%} of an edge of its range"
    names = ", ".join(f"{distance.parameter} ({distance.side})" for distance in near)
    return f"within {NEAR:.0%} of an edge of the range: {names}; search these further"


def _suggest(distance: EdgeDistance, value: float, bounds: Mapping[str, Any]) -> NextRange:
    """Return the half of the range at the edge, and as much beyond; of a log scale a decade."""
    low, high, edge = bounds["low"], bounds["high"], distance.edge
    if bounds["scale"] == "log":
        inside = math.sqrt(high / low)
        beyond = min(inside, 10.0)
        down, up = (beyond, inside) if distance.side == "low" else (inside, beyond)
        return _clip(distance, NextRange(edge / down, edge * up, "log"), bounds)
    if distance.side == "low" and low > 0 and value > 0 and high / low >= _WIDE:
        # The low end is a sliver of a linear range: look at its decades instead.
        return _clip(distance, NextRange(value / 10, value * 10, "log"), bounds)
    half = (high - low) / 2
    return _clip(distance, NextRange(edge - half, edge + half, "linear"), bounds)


def _clip(distance: EdgeDistance, wished: NextRange, bounds: Mapping[str, Any]) -> NextRange:
    """Keep a range within what makes sense: a size does not become negative."""
    low, high = wished.low, wished.high
    if bounds["low"] >= 0:
        low = max(low, 0.0)
    if distance.parameter in _DROPOUTS:
        high = min(high, _MOST_DROPPED)
    if bounds["type"] == "int":
        low, high = float(max(round(low), 1)), float(round(high))
    return NextRange(low, high, wished.scale)
