"""Search spaces: one TOML file a loss under `search_spaces/`, read and checked here."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.config import MINER_PARAMETERS, Row
from wpm.errors import UserError

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
        UserError: no such file, or a wrong name, range or type in it; one line with the file.
    """
    known = known_losses(folder)
    if row.loss not in known:
        raise UserError(f"unknown row {str(row)!r}; choose from {', '.join(known)}, each also +wpm")
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


def known_losses(folder: Path = SPACES_FOLDER) -> list[str]:
    """Return the losses that have a search-space file, sorted."""
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem != MINER_FILE)


def _read_file(
    path: Path,
) -> tuple[dict[str, Range], dict[str, float], tuple[PublishedPoint, ...]]:
    """Read and check one file."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from error
    _check_keys(path, "the file", data, {"description", "search", "fixed", "published"})
    searched = {name: _read_range(path, name, v) for name, v in data.get("search", {}).items()}
    fixed = {name: _read_number(path, name, v) for name, v in data.get("fixed", {}).items()}
    both = sorted(searched.keys() & fixed.keys())
    if both:
        raise UserError(f"{path}: {both[0]} is both searched and fixed; keep one")
    published = tuple(_read_published(path, v, searched) for v in data.get("published", []))
    return searched, fixed, published


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
        for name, value in data.get("parameters", {}).items()
    }
    unknown = sorted(parameters.keys() - searched.keys())
    if unknown:
        raise UserError(
            f"{path}: published.parameters has {unknown[0]}, which is not searched; "
            f"searched are {', '.join(searched)}"
        )
    return PublishedPoint(
        dataset=str(data.get("dataset", "")),
        source=str(data.get("source", "")),
        within_pair_mining=bool(data.get("within_pair_mining", False)),
        parameters=parameters,
    )


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
