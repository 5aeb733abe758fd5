"""The list of a data set's images and classes, and where it was read from."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wpm.data.parts import Part
from wpm.formatting import name_first

_SHOWN = 5  # folders that a line names


@dataclass(frozen=True)
class LeftAside:
    """What lies in a data folder and is not in the index.

    Attributes:
        endings: by folder: files that are not read for their ending, images that are read, and
            how many files there are of each ending.
        folders: those that are never classes, such as thumbnails.
    """

    endings: Mapping[str, tuple[int, int, str]] = field(default_factory=dict)
    folders: tuple[str, ...] = ()

    def describe(self) -> list[str]:
        """Return a line for each kind of what is left aside."""
        lines = []
        if self.endings:
            files = sum(left for left, _, _ in self.endings.values())
            # The folders that lose most come first.
            order = sorted(self.endings, key=lambda name: (-self._share_left(name), name))
            named = [
                f"{name} {self.endings[name][0]} of {sum(self.endings[name][:2])} "
                f"({self.endings[name][2]})"
                for name in order
            ]
            lines.append(
                f"left out for their ending: {files} files in {len(named)} folders: "
                f"{name_first(named, _SHOWN)}; convert those that are images to PNG or JPEG"
            )
        if self.folders:
            lines.append(
                f"left out as no classes: {len(self.folders)} folders: "
                f"{name_first(self.folders, _SHOWN)}; rename those that are classes"
            )
        return lines

    def to_json(self) -> dict[str, Any]:
        """Return what records keep."""
        return {
            "endings": {name: list(counts) for name, counts in self.endings.items()},
            "folders": list(self.folders),
        }

    def _share_left(self, folder: str) -> float:
        left, read, _ = self.endings[folder]
        return left / (left + read)


@dataclass(frozen=True)
class OwnSplit:
    """What a cache must know of a split that the user gives.

    Attributes:
        part: which half the images are.
        folds: the fold that validates on each image, -1 for none; None where the folds are made
            of the classes.
    """

    part: Part
    folds: tuple[int, ...] | None = None


@dataclass(frozen=True)
class ImageIndex:
    """The files of an image set and their classes. Making an index opens no image.

    Attributes:
        dataset: a name from `wpm.data.datasets.DATASETS`.
        root: folder that `paths` are relative to.
        paths: N image files, sorted by class, then by name.
        labels: (N,) int64, position of each file's class in `class_names`.
        class_names: all classes of the set, sorted; a subset of the images keeps the full list.
        channels: 1 for greyscale sets, 3 for colour.
        left_aside: what was found beside the images.
        split: of the images of one half of a split that the user gives, else None.
    """

    dataset: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    channels: int
    left_aside: LeftAside = field(default_factory=LeftAside)
    split: OwnSplit | None = None

    def subset(self, classes: Iterable[int]) -> "ImageIndex":
        """Return the images of some classes, in order, with their labels unchanged."""
        return self.keep(np.flatnonzero(np.isin(self.labels, list(classes))))

    def without(self, paths: Collection[str]) -> "ImageIndex":
        """Return all images but some."""
        return self.keep(np.flatnonzero([path not in paths for path in self.paths]))

    def keep(self, positions: NDArray[np.int64]) -> "ImageIndex":
        """Return the images at some positions, in order."""
        split = self.split
        if split is not None and split.folds is not None:
            split = replace(split, folds=tuple(split.folds[i] for i in positions))
        return replace(
            self,
            paths=tuple(self.paths[i] for i in positions),
            labels=self.labels[positions],
            split=split,
        )


@dataclass(frozen=True)
class DataSource:
    """Where a data set's images are and where derived files may be written.

    Attributes:
        dataset: a name from `DATASETS`.
        data_root: the user's images (a folder or a zip), or None for the default place.
        work_root: folder for rendered, unpacked and cached files.
        skip_unreadable: whether images that cannot be read are left out and recorded, instead of
            ending the launch.
        classes_by: what makes a class of a tree of folders, `CLASSES_BY_PATH` or
            `CLASSES_BY_NAME`; None to refuse a tree in which that is not clear.
        split: file of the user's own split, or `SPLIT_FOLDERS`; None for the protocol's halves.
        same_classes: whether that split may have classes in both halves.
    """

    dataset: str
    data_root: Path | None
    work_root: Path
    skip_unreadable: bool = False
    classes_by: str | None = None
    split: str | None = None
    same_classes: bool = False
