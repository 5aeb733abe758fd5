"""Search spaces: `search_spaces/` has a TOML file for every loss and miner; here they are read."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.miners import MINERS, WITHIN_PAIR, find_miner
from wpm.rows import Row
from wpm.toml_files import check_keys, read_table, read_toml

SPACES_FOLDER = Path(__file__).resolve().parent.parent / "search_spaces"


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
class SearchSpace:
    """What is searched for a row, what is fixed, and which values were published.

    Attributes:
        row: the row.
        searched: ranges of the loss's parameters, then of the miner's.
        fixed: values that are not searched.
        published: what was published for the loss, with and without a miner.
        thresholds: the published parameters of the miner; empty without a miner. They hold for
            every loss and data set.
    """

    row: Row
    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    published: tuple[PublishedPoint, ...]
    thresholds: Mapping[str, float]

    def find_published(self, dataset: str) -> PublishedPoint:
        """Return what was published for a data set and for this row's miner.

        Where nothing was published with the miner, the point of the loss alone is returned.

        Raises:
            UserError: nothing was published; the message lists the data sets that have a point.
        """
        points = [point for point in self.published if point.dataset == dataset]
        same = [point for point in points if point.miner == self.row.miner]
        plain = [point for point in points if point.miner is None]
        if not same and not plain:
            known = sorted({point.dataset for point in self.published}) or ["none"]
            raise UserError(
                f"row {self.row}: nothing was published for {dataset} (only: {', '.join(known)}); "
                "search instead"
            )
        return (same or plain)[0]

    def complete(self, sampled: Mapping[str, float]) -> dict[str, float]:
        """Add the fixed values to sampled ones."""
        return {**self.fixed, **sampled}

    def lowest(self) -> dict[str, float]:
        """Return the configuration with every searched parameter at its lowest value."""
        return self.complete({name: searched.low for name, searched in self.searched.items()})


def load_spaces(rows: Iterable[Row], folder: Path = SPACES_FOLDER) -> list[SearchSpace]:
    """Read the search spaces of rows. Each file is read once, however many rows it belongs to.

    Args:
        rows: with a miner, the miner's parameters are searched too.
        folder: where the TOML files lie.

    Returns:
        The spaces, in the order of the rows.

    Raises:
        UserError: there is no such file, there is a wrong name, range or type in it (one line with
            the file), or a miner has no meaning for the loss (one line with the reason).
    """
    read = cache(_read_file)
    known = known_losses(folder)
    if not known:
        raise UserError(f"{folder} holds no search space (*.toml); check --search-spaces")
    return [_make_space(row, folder, known, read) for row in rows]


def load_space(row: Row, folder: Path = SPACES_FOLDER) -> SearchSpace:
    """Read the search space of one row; see `load_spaces`."""
    return load_spaces([row], folder)[0]


def _make_space(
    row: Row, folder: Path, known: Sequence[str], read: "Callable[[Path], _File]"
) -> SearchSpace:
    """Join the file of a row's loss with that of its miner."""
    if row.loss not in known:
        raise _refuse_unknown(row, folder, known)
    loss, miner = read(folder / f"{row.loss}.toml"), find_miner(row)
    if miner is None:
        return SearchSpace(row, loss.searched, loss.fixed, loss.published, thresholds={})
    if loss.nothing_to_mine:
        raise UserError(
            f"row {row}: there is no pair to mine within: {loss.nothing_to_mine}; use {row.loss}"
        )
    path = folder / f"{row.miner}.toml"
    mined = read(path)
    names = {*mined.searched, *mined.fixed}
    if names != set(miner.parameters):
        raise UserError(
            f"{path} sets {', '.join(sorted(names))}; "
            f"it must set exactly {', '.join(miner.parameters)}"
        )
    return SearchSpace(
        row,
        {**loss.searched, **mined.searched},
        {**loss.fixed, **mined.fixed},
        loss.published,
        thresholds=mined.published[0].parameters if mined.published else {},
    )


def _refuse_unknown(row: Row, folder: Path, known: Sequence[str]) -> UserError:
    """Return the error for a loss without a file, which lists the rows that there are."""
    miners = "|".join(f"+{name}" for name in MINERS)
    choices = [name if nothing_to_mine(name, folder) else f"{name}[{miners}]" for name in known]
    return UserError(f"unknown row {str(row)!r}; choose from {', '.join(choices)}")


def nothing_to_mine(loss: str, folder: Path = SPACES_FOLDER) -> str:
    """Return why miners have no meaning for a loss, as its file says; empty where they have."""
    return str(read_toml(folder / f"{loss}.toml").get("nothing_to_mine", ""))


def known_losses(folder: Path = SPACES_FOLDER) -> list[str]:
    """Return the losses that have a search-space file, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem not in MINERS)


@dataclass(frozen=True)
class _File:
    """The checked content of one TOML file."""

    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    published: tuple[PublishedPoint, ...]
    nothing_to_mine: str


def _read_file(path: Path) -> _File:
    """Read and check one file."""
    data = read_toml(path)
    allowed = {"description", "nothing_to_mine", "search", "fixed", "published"}
    check_keys(path, "the file", data, allowed)
    refusal = data.get("nothing_to_mine", "")
    if not isinstance(refusal, str):
        raise UserError(f"{path}: nothing_to_mine is not text; give the reason, or leave it out")
    search, given = read_table(path, "search", data), read_table(path, "fixed", data)
    searched = {name: _read_range(path, name, value) for name, value in search.items()}
    fixed = {name: _read_number(path, name, value) for name, value in given.items()}
    both = sorted(searched.keys() & fixed.keys())
    if both:
        raise UserError(f"{path}: {both[0]} is both searched and fixed; keep one")
    points = data.get("published", [])
    if not isinstance(points, list):
        raise UserError(f"{path}: published is {points!r}, must be tables: [[published]]")
    published = tuple(_read_published(path, point, searched) for point in points)
    return _File(searched, fixed, published, refusal)


def _read_range(path: Path, name: str, data: Any) -> Range:
    where = f"search.{name}"
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
