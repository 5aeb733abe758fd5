"""How far a configuration lies from the edges of the ranges that were searched."""

import math
from collections.abc import Mapping
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
