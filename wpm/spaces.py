"""Search spaces: one TOML file a loss under `search_spaces/`, read and checked here."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.rows import MINER_PARAMETERS, Row

SPACES_FOLDER = Path(__file__).resolve().parent.parent / "search_spaces"
MINER_FILE = "wpm"  # search_spaces/wpm.toml: the thresholds that `+wpm` adds to any row


@dataclass(frozen=True)
class Range:
    """What a parameter is searched over."""

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
    """Hyperparameters that somebody published for a row and a data set."""

    dataset: str
    source: str
    within_pair_mining: bool
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class SearchSpace:
    """A row's space: what is searched, what is fixed, points from the literature."""

    row: Row
    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    published: tuple[PublishedPoint, ...]

    def find_published(self, dataset: str) -> PublishedPoint:
        """Return what was published for a data set: with mining if the row mines, else without.

        A mined row that nobody published falls back to its plain twin's point, whose loss it is.

        Raises:
            UserError: nothing was published; the message lists the data sets that have a point.
        """
        points = [point for point in self.published if point.dataset == dataset]
        same = [point for point in points if point.within_pair_mining == self.row.mined]
        plain = [point for point in points if not point.within_pair_mining]
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


def load_space(row: Row, folder: Path = SPACES_FOLDER) -> SearchSpace:
    """Read the search space of a row.

    Args:
        row: the row; with mining, the miner's thresholds are searched too.
        folder: where the TOML files lie.

    Returns:
        The space.

    Raises:
        UserError: no such file, a wrong name, range or type in it (one line with the file), or
            mining has no meaning for the loss (one line with the reason).
    """
    known = known_losses(folder)
    if not known:
        raise UserError(f"{folder} holds no search space (*.toml); check --search-spaces")
    if row.loss not in known:
        choices = [name + "[+wpm]" * (not nothing_to_mine(name, folder)) for name in known]
        raise UserError(f"unknown row {str(row)!r}; choose from {', '.join(choices)}")
    refusal = nothing_to_mine(row.loss, folder) if row.mined else ""
    if refusal:
        raise UserError(f"row {row}: there is no pair to mine within: {refusal}; use {row.loss}")
    searched, fixed, published = _read_file(folder / f"{row.loss}.toml")
    if row.mined:
        miner_searched, miner_fixed, _ = _read_file(folder / f"{MINER_FILE}.toml")
        names = {*miner_searched, *miner_fixed}
        if names != set(MINER_PARAMETERS):
            raise UserError(
                f"{folder / MINER_FILE}.toml sets {', '.join(sorted(names))}; "
                f"it must set exactly {', '.join(MINER_PARAMETERS)}"
            )
        searched, fixed = {**searched, **miner_searched}, {**fixed, **miner_fixed}
    return SearchSpace(row, searched, fixed, published)


def published_thresholds(folder: Path = SPACES_FOLDER) -> dict[str, float]:
    """Return the miner's thresholds as published, the first point of every `+wpm` study."""
    _, _, published = _read_file(folder / f"{MINER_FILE}.toml")
    return dict(published[0].parameters) if published else {}


def nothing_to_mine(loss: str, folder: Path = SPACES_FOLDER) -> str:
    """Return why `+wpm` has no meaning for a loss, as its file says; empty where it has."""
    return str(_parse_file(folder / f"{loss}.toml").get("nothing_to_mine", ""))


def known_losses(folder: Path = SPACES_FOLDER) -> list[str]:
    """Return the losses that have a search-space file, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem != MINER_FILE)


def _read_file(
    path: Path,
) -> tuple[dict[str, Range], dict[str, float], tuple[PublishedPoint, ...]]:
    """Read and check one file."""
    data = _parse_file(path)
    allowed = {"description", "nothing_to_mine", "search", "fixed", "published"}
    _check_keys(path, "the file", data, allowed)
    if not isinstance(data.get("nothing_to_mine", ""), str):
        raise UserError(f"{path}: nothing_to_mine is not text; give the reason, or leave it out")
    search, given = _read_table(path, "search", data), _read_table(path, "fixed", data)
    searched = {name: _read_range(path, name, value) for name, value in search.items()}
    fixed = {name: _read_number(path, name, value) for name, value in given.items()}
    both = sorted(searched.keys() & fixed.keys())
    if both:
        raise UserError(f"{path}: {both[0]} is both searched and fixed; keep one")
    points = data.get("published", [])
    if not isinstance(points, list):
        raise UserError(f"{path}: published is {points!r}, must be tables: [[published]]")
    published = tuple(_read_published(path, point, searched) for point in points)
    return searched, fixed, published


def _parse_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error


def _read_range(path: Path, name: str, data: Any) -> Range:
    where = f"search.{name}"
    if not isinstance(data, dict):
        raise UserError(f"{path}: {where} is {data!r}, must be a table with low and high")
    _check_keys(path, where, data, {"low", "high", "scale", "type", "reason"})
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
    allowed = {"dataset", "source", "within_pair_mining", "parameters"}
    if not isinstance(data, dict):
        raise UserError(f"{path}: published is {data!r}, must be a table")
    _check_keys(path, "published", data, allowed)
    parameters = {
        name: _read_number(path, f"published.{name}", value)
        for name, value in _read_table(path, "parameters", data).items()
    }
    if not isinstance(data.get("within_pair_mining", False), bool):
        raise UserError(f"{path}: published.within_pair_mining must be true or false")
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
        within_pair_mining=bool(data.get("within_pair_mining", False)),
        parameters=parameters,
    )


def _read_table(path: Path, name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: {name} is {table!r}, must be a table")
    return table


def _read_number(path: Path, where: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"{path}: {where} is {value!r}, must be a finite number")
    return float(value)


def _check_keys(path: Path, where: str, data: Mapping[str, Any], allowed: set[str]) -> None:
    unknown = sorted(data.keys() - allowed)
    if unknown:
        raise UserError(
            f"{path}: {where} has {unknown[0]!r}, which is not known; "
            f"allowed are {', '.join(sorted(allowed))}"
        )
