"""What a search tries first: configurations that were known before, and where each comes from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

# Stands for the choice of a study of an earlier version, which recorded none.
UNRECORDED = "unrecorded"
# The parts of study.json that say what a search tries first.
START_KEYS = ("first_points", "twin_cost")


@dataclass(frozen=True)
class FirstPoint:
    """A configuration that was known before the search.

    Attributes:
        parameters: values of searched parameters; the sampler chooses the missing ones.
        origin: where it comes from, in words for people, such as "published cub200".
    """

    parameters: Mapping[str, float]
    origin: str


@dataclass(frozen=True)
class SearchCost:
    """What a search took.

    Attributes:
        trials: those that ended, in whatever way.
        epochs: of all trials together.
        hours: device-hours.
    """

    trials: int
    epochs: int
    hours: float

    def __add__(self, other: Self) -> "SearchCost":
        return SearchCost(
            self.trials + other.trials, self.epochs + other.epochs, self.hours + other.hours
        )


def describe_start(points: Sequence[FirstPoint], twin_cost: SearchCost | None) -> dict[str, Any]:
    """Return what study.json says of a search's start.

    Args:
        points: what the search tries first.
        twin_cost: what the search took whose best trials the points are; None where they are not
            those of the plain twin.
    """
    described: dict[str, Any] = {"first_points": [asdict(point) for point in points]}
    return described if twin_cost is None else {**described, "twin_cost": asdict(twin_cost)}


def read_first_points(study: Mapping[str, Any]) -> tuple[FirstPoint, ...] | None:
    """Return what the search of a study.json tries first; None if it says nothing about it."""
    if "first_points" not in study:
        return None
    return tuple(FirstPoint(**point) for point in study["first_points"])


def read_twin_cost(study: Mapping[str, Any]) -> SearchCost | None:
    """Return what the plain twin's search took, if the points of a study.json come from it."""
    return SearchCost(**study["twin_cost"]) if "twin_cost" in study else None


def count_known(study: Mapping[str, Any]) -> int | None:
    """Return how many complete configurations a study tries first; None if it does not say.

    A point that leaves parameters to the sampler is not counted.
    """
    points = read_first_points(study)
    if points is None:
        return None
    searched: Mapping[str, Any] = study["identity"].get("searched", {})
    return sum(searched.keys() <= point.parameters.keys() for point in points)
