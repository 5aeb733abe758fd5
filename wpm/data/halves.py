"""Divide a data set into the images to train and validate on, and those kept for the test."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wpm.data.index import DataSource, ImageIndex, OwnSplit
from wpm.data.own_splits import read_given_split
from wpm.data.parts import Part
from wpm.splits import (
    Fold,
    check_folds,
    check_retrievable,
    check_splits,
    class_disjoint_splits,
    folds_of_classes,
    folds_of_images,
)


@dataclass(frozen=True)
class Halves:
    """The two halves of a data set.

    Attributes:
        trainval: the images to train and validate on.
        test_positions: (M,) positions in the index of the images kept for the test;
            `select_test_images` makes an index of them.
        test_classes: labels of these.
        split: how the user splits the images, for the record; None for the protocol's halves.
    """

    trainval: ImageIndex
    test_positions: NDArray[np.int64]
    test_classes: tuple[int, ...]
    split: Mapping[str, Any] | None = None

    @property
    def trainval_classes(self) -> list[int]:
        """Labels of the images to train and validate on, each once."""
        return sorted(set(self.trainval.labels.tolist()))


def divide_images(index: ImageIndex, source: DataSource, folds: int) -> Halves:
    """Divide all images by the user's own split, or else by the protocol's rule.

    Args:
        index: all images.
        source: names the user's split.
        folds: of the protocol.

    Raises:
        UserError: the classes or the user's split allow no such halves and folds.
    """
    if source.split is None:
        splits = class_disjoint_splits(index.labels, folds)
        check_splits(splits, index.labels)
        positions = np.flatnonzero(np.isin(index.labels, splits.test_classes))
        return Halves(index.subset(splits.trainval_classes), positions, splits.test_classes)
    given = read_given_split(index, source.split, folds, source.same_classes)
    is_test = np.array([part is Part.TEST for part in given.parts])
    numbers = None
    if given.folds is not None:
        numbers = tuple(n for n, test in zip(given.folds, is_test, strict=True) if not test)
    trainval = index.keep(np.flatnonzero(~is_test))
    labels = trainval.labels.tolist()
    check_folds(folds_of_split(labels, numbers, folds), labels)
    test = np.flatnonzero(is_test)
    check_retrievable("test set", index.labels[test])
    return Halves(
        dataclasses.replace(trainval, split=OwnSplit(Part.TRAINVAL, numbers)),
        test,
        tuple(np.unique(index.labels[test]).tolist()),
        given.identity,
    )


def select_test_images(index: ImageIndex, halves: Halves) -> ImageIndex:
    """Return the images kept for the test: for final runs, and for nothing else.

    Args:
        index: all images.
        halves: how they were divided.
    """
    test = index.keep(halves.test_positions)
    return test if halves.split is None else dataclasses.replace(test, split=OwnSplit(Part.TEST))


def describe_halves(index: ImageIndex, halves: Halves) -> str:
    """Return a line with the numbers of images and classes of both halves."""
    counts = f"{index.dataset}: {len(index.paths)} images, {len(index.class_names)} classes"
    trainval, test = len(halves.trainval_classes), len(halves.test_classes)
    if halves.split is None:
        return f"{counts}, {trainval} of them to train and validate on, {test} kept for the test"
    line = (
        f"{counts}; by --split {halves.split['file']} {len(halves.trainval.paths)} images of "
        f"{trainval} classes are to train and validate on, {len(halves.test_positions)} of {test} "
        "kept for the test"
    )
    shared = halves.split["shared_classes"]
    return f"{line}; {shared} classes are in both" if shared else line


def folds_of_split(
    labels: Sequence[int], numbers: Sequence[int] | None, folds: int
) -> tuple[Fold, ...]:
    """Return the folds of the images to train and validate on under a user's split.

    Args:
        labels: (N,) their labels.
        numbers: (N,) the fold that validates on each; None where the user names no folds.
        folds: number of folds.
    """
    if numbers is None:
        return folds_of_classes(labels, folds)
    return folds_of_images(labels, numbers, folds)
