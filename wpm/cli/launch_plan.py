"""What one launch works on: its options, and what the checks made of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.cli.options import LaunchOptions
from wpm.data.index import DataSource
from wpm.data.parts import SPLIT_FOLDERS
from wpm.protocols import Protocol
from wpm.records import StudyPlace
from wpm.spaces import SearchSpace


@dataclass(frozen=True)
class LaunchPlan:
    """What one launch works on.

    Folders are absolute here, because workers run with other working directories.

    Attributes:
        options: the flags.
        protocol: what all studies of the launch share.
        weights: file of the trunk's weights, or "random".
        source: where the images are.
        spaces: the search space of every study, in the order in which the user named the rows.
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
    """
    run_root = options.run_root.resolve()
    places = [StudyPlace(run_root, options.dataset, protocol.name, space.row) for space in spaces]
    return LaunchPlan(
        options, protocol, weights, source, spaces=dict(zip(places, spaces, strict=True))
    )
