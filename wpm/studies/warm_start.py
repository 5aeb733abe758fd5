"""Which known configurations a search tries first, and how many: rules without a disk."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

from wpm.errors import UserError
from wpm.records.first_points import FirstPoint
from wpm.rows import Row
from wpm.space_files import PublishedPoint, Range
from wpm.spaces import SearchSpace

# Two points are the same guess if no parameter differs by more than this share of its range.
NEAR = 0.02
# At most one trial in so many is a known configuration: the others are the search.
TRIALS_PER_POINT = 4
_THRESHOLDS = "published thresholds"


class WarmStart(StrEnum):
    """Where the first configurations of a search come from."""

    AUTO = "auto"  # published points, then the best of earlier studies
    NONE = "none"  # nowhere: the sampler chooses every trial
    PUBLISHED = "published"  # published points only
    STUDIES = "studies"  # the best of earlier studies only
    TWIN = "twin"  # the best trials of the same loss without the miner


@dataclass(frozen=True)
class Known:
    """What is known about a loss before a search.

    Attributes:
        spaces: the search space of every row of the loss: alone, and behind each miner.
        dataset: the data set of the search; what was published for it comes first.
        earlier: by row, the best trial of each of its studies on other data sets or protocols.
    """

    spaces: Mapping[Row, SearchSpace]
    dataset: str
    earlier: Mapping[Row, Sequence[FirstPoint]] = field(default_factory=dict)


def choose_points(
    row: Row,
    choice: WarmStart,
    known: Known,
    most: int,
    begun: Mapping[str, int] = MappingProxyType({}),
) -> tuple[tuple[FirstPoint, ...], list[str]]:
    """Choose what the search of a row tries first.

    Every row of a loss gets the same number of complete configurations: as many as the row that
    has fewest. So a row and its twin are treated alike, whether or not they are launched together.

    Args:
        row: the row to search.
        choice: AUTO, NONE, PUBLISHED or STUDIES; `with_thresholds` makes the points of TWIN.
        known: what there is to choose from.
        most: the largest number of points.
        begun: with how many complete configurations studies of the loss's other rows began, by
            name; AUTO takes no more than any of them.

    Returns:
        The points in the order in which they are tried, and lines about those that are left out.

    Raises:
        UserError: there is nothing of what was asked for by name, or what was published for this
            very data set lies outside the searched ranges.
    """
    if choice is WarmStart.NONE:
        return (), []
    space = known.spaces[row]
    if choice is WarmStart.PUBLISHED:
        _refuse_unfit(space, known.dataset)
    usable, left_out = keep_usable(list_known(row, choice, known), space)
    if not usable and choice is not WarmStart.AUTO:
        raise UserError(f"row {row}: {_explain_absence(row, choice)}")
    counts = {
        str(other): len(keep_usable(list_known(other, choice, known), known.spaces[other])[0])
        for other in known.spaces
    }
    if choice is WarmStart.AUTO:
        counts |= begun
    fewest = min(counts, key=lambda other: counts[other])
    points = usable[: min(most, counts[fewest])]
    notes = [f"not tried first: {'; '.join(left_out)}"] if left_out else []
    if counts[fewest] < min(most, len(usable)):
        notes.append(
            f"tries {counts[fewest]} of {len(usable)} known configurations first, as many as "
            f"{fewest}"
        )
    # Where no margins are known, the thresholds still are: they hold for every loss.
    return tuple(points) or _thresholds_alone(space), notes


def _thresholds_alone(space: SearchSpace) -> tuple[FirstPoint, ...]:
    points = [FirstPoint(space.thresholds, _THRESHOLDS)] if space.thresholds else []
    return tuple(keep_usable(points, space)[0])


def _explain_absence(row: Row, choice: WarmStart) -> str:
    if choice is WarmStart.PUBLISHED:
        return "nothing was published for it that can be tried; leave out --warm-start published"
    twin = "" if row.twin is None else f" or {row.twin}"
    return (
        f"the run folder has no complete trial of {row}{twin} on another data set or protocol that "
        "can be tried here; search there first, or leave out --warm-start studies"
    )


def list_known(row: Row, choice: WarmStart, known: Known) -> list[FirstPoint]:
    """List every known configuration of a row, the most trusted first."""
    space = known.spaces[row]
    takes_published = choice in (WarmStart.AUTO, WarmStart.PUBLISHED)
    takes_studies = choice in (WarmStart.AUTO, WarmStart.STUDIES)
    points = list_published(space, known.dataset) if takes_published else []
    if takes_studies:
        points += known.earlier.get(row, ())
    if takes_studies and row.twin is not None:
        plain = _describe_published(space, None, known.dataset) if takes_published else []
        points += with_thresholds([*plain, *known.earlier.get(row.twin, ())], space)
    return points


def list_published(space: SearchSpace, dataset: str) -> list[FirstPoint]:
    """List what was published for a row: first for this data set, then for the others.

    A row with a miner has the published thresholds too. Where nothing was published with the miner,
    the points of the loss alone stand for it.
    """
    own = _describe_published(space, space.row.miner, dataset)
    if space.row.miner is None:
        return own
    if own:
        return [FirstPoint({**space.thresholds, **p.parameters}, p.origin) for p in own]
    return with_thresholds(_describe_published(space, None, dataset), space)


def _describe_published(space: SearchSpace, miner: str | None, dataset: str) -> list[FirstPoint]:
    points = [point for point in space.published if point.miner == miner]
    points.sort(key=lambda point: point.dataset != dataset)  # stable: else as in the file
    return [FirstPoint(point.parameters, _name_published(point)) for point in points]


def _name_published(point: PublishedPoint) -> str:
    where = point.source if point.dataset in ("", "any") else point.dataset
    return f"published {where}".rstrip()


def with_thresholds(points: Iterable[FirstPoint], space: SearchSpace) -> list[FirstPoint]:
    """Add a miner's published thresholds to configurations of the loss alone."""
    return [
        FirstPoint({**point.parameters, **space.thresholds}, f"{point.origin} + thresholds")
        for point in points
    ]


def keep_usable(
    points: Iterable[FirstPoint], space: SearchSpace
) -> tuple[list[FirstPoint], list[str]]:
    """Keep the points that a search can try, and only one of those that are nearly the same.

    Returns:
        The points with searched parameters only, and why others lie outside what is searched.
    """
    kept: list[FirstPoint] = []
    left_out = []
    for point in points:
        trouble = _find_trouble(point, space)
        if trouble:
            left_out.append(f"{point.origin} ({trouble})")
            continue
        searched = {n: _convert(point.parameters[n], limits) for n, limits in
                    space.searched.items() if n in point.parameters}  # fmt: skip
        if searched and not any(is_near(searched, other.parameters, space) for other in kept):
            kept.append(FirstPoint(searched, point.origin))
    return kept, left_out


def _convert(value: float, limits: Range) -> float:
    return int(value) if limits.type == "int" else value


def _find_trouble(point: FirstPoint, space: SearchSpace) -> str:
    """Say why a search cannot try a point; "" if it can."""
    for name, value in point.parameters.items():
        limits = space.searched.get(name)
        if limits is not None and not limits.contains(value):
            return f"{name} {value:g} is outside the searched {limits.low:g} to {limits.high:g}"
        if limits is not None and limits.type == "int" and value != int(value):
            return f"{name} {value:g} is not whole"
        if limits is None and name not in space.fixed:
            return f"{name} is no parameter here"
        if limits is None and space.fixed[name] != value:
            return f"{name} {value:g} is fixed at {space.fixed[name]:g} here"
    return ""


def is_near(first: Mapping[str, float], second: Mapping[str, float], space: SearchSpace) -> bool:
    """Whether two points are the same guess.

    The distance is the largest difference of a parameter, as a share of its searched range, which
    is measured in logarithms where its scale is logarithmic.
    """
    if first.keys() != second.keys():
        return False
    return all(
        abs(_position(value, space.searched[name]) - _position(second[name], space.searched[name]))
        <= NEAR
        for name, value in first.items()
    )


def _position(value: float, limits: Range) -> float:
    """Return where a value lies in its range: 0 at the low end, 1 at the high one."""
    scale = math.log if limits.scale == "log" else float
    low, high = scale(limits.low), scale(limits.high)
    return (scale(value) - low) / (high - low)


def _refuse_unfit(space: SearchSpace, dataset: str) -> None:
    """Refuse ranges without what was published for this very data set, which was asked for.

    Raises:
        UserError: names the parameter and the range.
    """
    own = tuple(point for point in space.published if point.dataset == dataset)
    for point in list_published(replace(space, published=own), dataset):
        trouble = _find_trouble(point, space)
        if trouble:
            raise UserError(
                f"row {space.row}: published {trouble}; widen it with --search-spaces, or leave "
                "out --warm-start published"
            )


def most_points(trials: int) -> int:
    """Return how many known configurations a search of so many trials tries at most."""
    return max(1, trials // TRIALS_PER_POINT)
