"""Read one file of a search space: the TOML file of a loss or of a miner."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.loss_description import DESCRIPTION_KEYS, LossDescription, read_description, suggest
from wpm.miners import MINERS, WITHIN_PAIR
from wpm.toml_files import check_keys, read_table, read_toml


@dataclass(frozen=True)
class Range:
    """The range over which a parameter is searched."""

    low: float
    high: float
    scale: str = "linear"
    type: str = "float"
    reason: str = ""

    def contains(self, value: float) -> bool:
        """Whether a value lies in the range."""
        return self.low <= value <= self.high


@dataclass(frozen=True)
class PublishedPoint:
    """Hyperparameters that somebody published for a loss and a data set.

    Attributes:
        dataset: name of the data set, or "any".
        source: short name of the publication.
        miner: the miner that stood before the loss; None if there was none.
        parameters: the published values.
    """

    dataset: str
    source: str
    miner: str | None
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class SpaceValues:
    """What a file says for one data set."""

    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    loss: LossDescription | None


@dataclass(frozen=True)
class SpaceFile:
    """The checked content of one TOML file."""

    general: SpaceValues
    datasets: Mapping[str, SpaceValues]
    published: tuple[PublishedPoint, ...]
    nothing_to_mine: str

    def values_for(self, dataset: str | None) -> SpaceValues:
        """Return what holds for a data set."""
        return self.general if dataset is None else self.datasets.get(dataset, self.general)


def read_space_file(path: Path) -> SpaceFile:
    """Read and check one file."""
    data = read_toml(path)
    allowed = {"description", "nothing_to_mine", "search", "fixed", "published", "dataset"}
    is_miner = path.stem in MINERS
    check_keys(path, "the file", data, allowed if is_miner else allowed | DESCRIPTION_KEYS)
    refusal = data.get("nothing_to_mine", "")
    if not isinstance(refusal, str):
        raise UserError(f"{path}: nothing_to_mine is not text; give the reason, or leave it out")
    search, fixed = read_table(path, "search", data), read_table(path, "fixed", data)
    general = _read_values(path, "", data, search, fixed)
    datasets = {}
    for dataset in read_table(path, "dataset", data):
        prefix = f"dataset.{dataset}."
        own = read_table(path, dataset, data["dataset"])
        check_keys(path, prefix.removesuffix("."), own, {"search", "fixed"})
        changed = _change_values(path, prefix, search, fixed, own)
        datasets[dataset] = _read_values(path, prefix, data, *changed)
    points = data.get("published", [])
    if not isinstance(points, list):
        raise UserError(f"{path}: published is {points!r}, must be tables: [[published]]")
    published = tuple(_read_published(path, point, general.searched) for point in points)
    return SpaceFile(general, datasets, published, refusal)


def _change_values(
    path: Path,
    prefix: str,
    search: Mapping[str, Any],
    fixed: Mapping[str, Any],
    own: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the tables search and fixed as a data set changes them.

    A range takes over what it does not set itself. Whatever is fixed is no longer searched, and
    the other way round.
    """
    own_search, own_fixed = read_table(path, "search", own), read_table(path, "fixed", own)
    known = {*search, *fixed}
    for name in (*own_search, *own_fixed):
        if name not in known:
            raise UserError(
                f"{path}: {prefix.removesuffix('.')} sets {name!r}, which other data sets neither "
                f"search nor fix{suggest(name, known)}"
            )
    changed: dict[str, Any] = {k: v for k, v in search.items() if k not in own_fixed}
    for name, value in own_search.items():
        before = search.get(name, {})
        mergeable = isinstance(before, dict) and isinstance(value, dict)
        changed[name] = {**before, **value} if mergeable else value
    return changed, {
        **{name: value for name, value in fixed.items() if name not in own_search},
        **own_fixed,
    }


def _read_values(
    path: Path,
    prefix: str,
    data: Mapping[str, Any],
    search: Mapping[str, Any],
    given: Mapping[str, Any],
) -> SpaceValues:
    searched = {name: _read_range(path, f"{prefix}search.{name}", v) for name, v in search.items()}
    fixed = {name: _read_number(path, f"{prefix}fixed.{name}", v) for name, v in given.items()}
    both = sorted(searched.keys() & fixed.keys())
    if both:
        raise UserError(f"{path}: {prefix}{both[0]} is both searched and fixed; keep one")
    whole = {name for name, limits in searched.items() if limits.type == "int"}
    whole |= {name for name, value in given.items() if isinstance(value, int)}
    return SpaceValues(searched, fixed, read_description(path, data, {*searched, *fixed}, whole))


def _read_range(path: Path, where: str, data: Any) -> Range:
    if not isinstance(data, dict):
        raise UserError(f"{path}: {where} is {data!r}, must be a table with low and high")
    check_keys(path, where, data, {"low", "high", "scale", "type", "reason"})
    missing = sorted({"low", "high"} - data.keys())
    if missing:
        raise UserError(f"{path}: {where} has no {missing[0]}")
    low = _read_number(path, f"{where}.low", data["low"])
    high = _read_number(path, f"{where}.high", data["high"])
    scale, kind = data.get("scale", "linear"), data.get("type", "float")
    if scale not in ("linear", "log"):
        raise UserError(f"{path}: {where}.scale is {scale!r}, must be 'linear' or 'log'")
    if kind not in ("float", "int"):
        raise UserError(f"{path}: {where}.type is {kind!r}, must be 'float' or 'int'")
    if low >= high:
        raise UserError(f"{path}: {where} runs from {low:g} to {high:g}, low must be below high")
    if scale == "log" and low <= 0:
        raise UserError(f"{path}: {where}.low is {low:g}, a log scale needs low > 0")
    if kind == "int" and (low != int(low) or high != int(high)):
        raise UserError(f"{path}: {where} is an int range, but {low:g} or {high:g} is not whole")
    return Range(low, high, scale, kind, str(data.get("reason", "")))


def _read_published(path: Path, data: Any, searched: Mapping[str, Range]) -> PublishedPoint:
    allowed = {"dataset", "source", "miner", "within_pair_mining", "parameters"}
    if not isinstance(data, dict):
        raise UserError(f"{path}: published is {data!r}, must be a table")
    check_keys(path, "published", data, allowed)
    parameters = {
        name: _read_number(path, f"published.{name}", value)
        for name, value in read_table(path, "parameters", data).items()
    }
    unknown = sorted(parameters.keys() - searched.keys())
    if unknown:
        raise UserError(
            f"{path}: published.parameters has {unknown[0]}, which is not searched; "
            f"searched are {', '.join(searched)}"
        )
    for name, value in parameters.items():
        if searched[name].type == "int":
            if value != int(value):
                raise UserError(f"{path}: published.{name} is {value:g}, must be a whole number")
            parameters[name] = int(value)
    return PublishedPoint(
        dataset=str(data.get("dataset", "")),
        source=str(data.get("source", "")),
        miner=_read_miner(path, data),
        parameters=parameters,
    )


def _read_miner(path: Path, data: Mapping[str, Any]) -> str | None:
    """Read which miner a published point belongs to; `within_pair_mining` is the older key."""
    if not isinstance(data.get("within_pair_mining", False), bool):
        raise UserError(f"{path}: published.within_pair_mining must be true or false")
    miner = data.get("miner", WITHIN_PAIR if data.get("within_pair_mining") else None)
    if miner is not None and not isinstance(miner, str):
        raise UserError(f"{path}: published.miner is {miner!r}, must be the name of a miner")
    return miner


def _read_number(path: Path, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {where} is {value!r}, must be a finite number")
    return float(value)
