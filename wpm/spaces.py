"""Search spaces: the TOML files of `search_spaces/`, joined to what is searched for a row."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from wpm.errors import UserError
from wpm.loss_description import LossDescription
from wpm.miners import MINERS, find_miner
from wpm.rows import Row
from wpm.space_files import PublishedPoint, Range, SpaceFile, SpaceValues, read_space_file
from wpm.toml_files import read_toml

SPACES_FOLDER = Path(__file__).resolve().parent.parent / "search_spaces"


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
    read = cache(read_space_file)
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
    return read_space_file(path).general.loss if name in known_losses() else None


def _make_space(
    row: Row,
    folder: Path,
    known: Sequence[str],
    read: Callable[[Path], SpaceFile],
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


def _without_fixed(
    point: PublishedPoint, values: SpaceValues, dataset: str | None
) -> PublishedPoint:
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
