"""Search spaces: `search_spaces/` has a TOML file for every loss and miner; here they are read."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.loss_description import DESCRIPTION_KEYS, LossDescription, read_description, suggest
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
        loss: the classes that the row's file names; None for the row without training.
        datasets: names of the data sets for which the files have ranges of their own.
    """

    row: Row
    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    published: tuple[PublishedPoint, ...]
    thresholds: Mapping[str, float]
    loss: LossDescription | None = None
    datasets: tuple[str, ...] = ()

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


def load_spaces(
    rows: Iterable[Row], folder: Path = SPACES_FOLDER, dataset: str | None = None
) -> list[SearchSpace]:
    """Read the search spaces of rows. Each file is read once, however many rows it belongs to.

    Args:
        rows: with a miner, the miner's parameters are searched too.
        folder: where the TOML files lie.
        dataset: name of the data set; None for the ranges that hold where a file says nothing else.

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
    return [_make_space(row, folder, known, read, dataset) for row in rows]


def load_space(row: Row, folder: Path = SPACES_FOLDER, dataset: str | None = None) -> SearchSpace:
    """Read the search space of one row; see `load_spaces`."""
    return load_spaces([row], folder, dataset)[0]


@cache
def shipped_loss(name: str) -> LossDescription | None:
    """Return the loss of a row that ships; None where there is no such row, or no training.

    It is the loss of a study or search space that was written before files named their losses.
    """
    path = SPACES_FOLDER / f"{name}.toml"
    return _read_file(path).general.loss if name in known_losses() else None


def _make_space(
    row: Row,
    folder: Path,
    known: Sequence[str],
    read: "Callable[[Path], _File]",
    dataset: str | None,
) -> SearchSpace:
    """Join the file of a row's loss with that of its miner."""
    if row.loss not in known:
        raise _refuse_unknown(row, folder, known)
    path = folder / f"{row.loss}.toml"
    file, miner = read(path), find_miner(row)
    loss = file.values_for(dataset)
    published = tuple(_without_fixed(point, loss, dataset) for point in file.published)
    description = loss.loss or shipped_loss(row.loss)
    if description is None and row.is_trained:
        raise UserError(
            f'{path}: has no loss; name a class of pytorch-metric-learning (loss = "SupConLoss") '
            'or one of your own (loss = "module:Class")'
        )
    space = SearchSpace(
        row, loss.searched, loss.fixed, published, {}, description, tuple(file.datasets)
    )
    if miner is None:
        return space
    if file.nothing_to_mine:
        raise UserError(
            f"row {row}: there is no pair to mine within: {file.nothing_to_mine}; use {row.loss}"
        )
    miner_path = folder / f"{row.miner}.toml"
    if not miner_path.exists():
        raise UserError(
            f"{miner_path}: cannot be read (no such file); copy that of {SPACES_FOLDER}"
        )
    miner_file = read(miner_path)
    mined = miner_file.values_for(dataset)
    names = {*mined.searched, *mined.fixed}
    if names != set(miner.parameters):
        raise UserError(
            f"{miner_path} sets {', '.join(sorted(names))}; "
            f"it must set exactly {', '.join(miner.parameters)}"
        )
    both = sorted(names & {*loss.searched, *loss.fixed})
    if both:
        raise UserError(
            f"{path}: {both[0]} is also a parameter of {row.miner}; give it another name, and say "
            f'in [arguments] which argument it is: {both[0]} = "NAME"'
        )
    thresholds = miner_file.published[0].parameters if miner_file.published else {}
    return replace(
        space,
        searched={**loss.searched, **mined.searched},
        fixed={**loss.fixed, **mined.fixed},
        thresholds={name: v for name, v in thresholds.items() if name in mined.searched},
        datasets=tuple(dict.fromkeys([*file.datasets, *miner_file.datasets])),
    )


def _without_fixed(point: PublishedPoint, values: "_Values", dataset: str | None) -> PublishedPoint:
    """Leave out of a point what its data set does not search."""
    if point.dataset != dataset:
        return point
    kept = {name: v for name, v in point.parameters.items() if name in values.searched}
    return replace(point, parameters=kept)


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
class _Values:
    """What a file says for one data set."""

    searched: Mapping[str, Range]
    fixed: Mapping[str, float]
    loss: LossDescription | None


@dataclass(frozen=True)
class _File:
    """The checked content of one TOML file."""

    general: _Values
    datasets: Mapping[str, _Values]
    published: tuple[PublishedPoint, ...]
    nothing_to_mine: str

    def values_for(self, dataset: str | None) -> _Values:
        """Return what holds for a data set."""
        return self.general if dataset is None else self.datasets.get(dataset, self.general)


def _read_file(path: Path) -> _File:
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
    return _File(general, datasets, published, refusal)


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
) -> _Values:
    searched = {name: _read_range(path, f"{prefix}search.{name}", v) for name, v in search.items()}
    fixed = {name: _read_number(path, f"{prefix}fixed.{name}", v) for name, v in given.items()}
    both = sorted(searched.keys() & fixed.keys())
    if both:
        raise UserError(f"{path}: {prefix}{both[0]} is both searched and fixed; keep one")
    whole = {name for name, limits in searched.items() if limits.type == "int"}
    whole |= {name for name, value in given.items() if isinstance(value, int)}
    return _Values(searched, fixed, read_description(path, data, {*searched, *fixed}, whole))


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
