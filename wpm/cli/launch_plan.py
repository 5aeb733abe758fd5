"""What one launch works on: its options, and what the checks made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.cli.options import LaunchOptions
from wpm.data.index import DataSource
from wpm.data.parts import SPLIT_FOLDERS
from wpm.errors import UserError
from wpm.formatting import name_first
from wpm.protocols import Protocol
from wpm.records import StudyPlace, find_studies
from wpm.rows import Row
from wpm.spaces import SearchSpace
from wpm.studies.seeds import RUNS_PER_SEARCH

_MOST_NAMED = 6  # a line lists at most this many searches


@dataclass(frozen=True)
class LaunchPlan:
    """What one launch works on.

    Folders are absolute here, because workers run with other working directories.

    Attributes:
        options: the flags.
        protocol: what all studies of the launch share.
        weights: file of the trunk's weights, or "random".
        source: where the images are.
        spaces: the search space of every study, in the order in which the user named the rows;
            the searches of a row follow one another.
    """

    options: LaunchOptions
    protocol: Protocol
    weights: str
    source: DataSource
    spaces: Mapping[StudyPlace, SearchSpace]

    @property
    def places(self) -> list[StudyPlace]:
        """Where the records of the studies are."""
        return list(self.spaces)

    @property
    def run_root(self) -> Path:
        """Folder of all records."""
        return self.options.run_root.resolve()

    @property
    def trials(self) -> int:
        """Trials per study."""
        return self.options.trials or self.protocol.trials

    @property
    def runs(self) -> int:
        """Final runs per configuration."""
        return self.options.runs or self.protocol.runs

    @property
    def stopping(self) -> str:
        """What becomes of trials that are behind at a rung."""
        return self.options.stopping or self.protocol.stopping

    def describe_further(self) -> list[str]:
        """Say which searches of the rows are on disk that this launch does not work on."""
        if self.options.published:
            return []  # it belongs to no search
        rows = {place.row for place in self.places if place.row.is_trained}
        found: dict[Row, list[int]] = {}
        for place in find_studies(self.run_root, self.options.dataset, self.protocol.name):
            if place.row in rows and place.search > self.options.searches:
                found.setdefault(place.row, []).append(place.search)
        return [
            f"{self.options.dataset}/{self.protocol.name}/{row}: left out "
            f"{'search' if len(numbers) == 1 else 'searches'} "
            f"{name_first(list(map(str, numbers)), _MOST_NAMED)}, which --searches {numbers[-1]} "
            "takes too"
            for row, numbers in found.items()
        ]


def locate_images(options: LaunchOptions) -> DataSource:
    """Return where the images are that the flags name."""
    return DataSource(
        options.dataset,
        None if options.data_root is None else options.data_root.resolve(),
        options.work_root.resolve(),
        options.skip_unreadable,
        options.classes_by,
        _locate_split(options.split),
        options.same_classes,
    )


def _locate_split(split: str | None) -> str | None:
    """Make the path of a split absolute, since workers run in other folders."""
    return split if split in (None, SPLIT_FOLDERS) else str(Path(split).resolve())


def make_plan(
    options: LaunchOptions,
    protocol: Protocol,
    source: DataSource,
    spaces: Sequence[SearchSpace],
    weights: str,
) -> LaunchPlan:
    """Return the plan of a launch whose flags were checked.

    Args:
        options: the flags.
        protocol: what all studies share.
        source: where the images are.
        spaces: the search space of each row.
        weights: file of the trunk's weights, or "random".

    Raises:
        UserError: there are more final runs than a search has seeds for.
    """
    run_root = options.run_root.resolve()
    placed = {
        StudyPlace(run_root, options.dataset, protocol.name, space.row, search): space
        for space in spaces
        # Without training there is nothing to search, and so nothing to search again.
        for search in range(1, (options.searches if space.row.is_trained else 1) + 1)
    }
    plan = LaunchPlan(options, protocol, weights, source, placed)
    if options.searches > 1 and plan.runs > RUNS_PER_SEARCH:
        raise UserError(
            f"{plan.runs} final runs (--runs, or the protocol's) are too many for several searches,"
            f" must be at most {RUNS_PER_SEARCH}: the next search's runs have the seeds after that"
        )
    return plan
