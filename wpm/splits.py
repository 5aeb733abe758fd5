"""Class-disjoint splits: a test half that no search sees, and folds of the other half.

Source: Musgrave et al., "A Metric Learning Reality Check", ECCV 2020.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wpm.errors import UserError

MIN_VAL_CLASSES = 2  # with one class every neighbour is right, and the score means nothing


@dataclass(frozen=True)
class Fold:
    """Classes to train on and classes to validate on, as label values.

    Attributes:
        train_classes: disjoint from `val_classes`, unless `val_images` is given.
        val_images: positions of the images to validate on, where classes that are trained on are
            validated on too. All other images are then trained on.
    """

    train_classes: tuple[int, ...]
    val_classes: tuple[int, ...]
    val_images: tuple[int, ...] = ()


@dataclass(frozen=True)
class Splits:
    """The classes of the test half, and the folds of the other half, as label values."""

    test_classes: tuple[int, ...]
    folds: tuple[Fold, ...]

    @property
    def trainval_classes(self) -> tuple[int, ...]:
        """Every class that a search may see, sorted."""
        first = self.folds[0]
        return tuple(sorted(first.train_classes + first.val_classes))


def class_disjoint_splits(labels: Iterable[int], folds: int = 4) -> Splits:
    """Split classes, sorted by label, into a test half and folds of the first half.

    Of `total` classes the first `C = total // 2` are for training and validation. Each fold
    validates on `val = int(total * 0.5 / folds)` of them: fold k trains on the `C - val`
    classes from position `int(k / folds * C)` on, wrapping around, and validates on the next
    `val`.

    Args:
        labels: (N,) labels, one per image; equal values are one class.
        folds: number of folds, at least 2.

    Returns:
        The label values of the test half and of every fold.

    Raises:
        UserError: `folds` is below 2, or there are too few classes for two validation classes in
            every fold.

    References:
        Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV 2020.
    """
    if folds < 2:
        raise UserError(f"folds is {folds}, but cross-validation needs at least 2 folds")
    classes = [int(label) for label in np.unique(np.asarray(list(labels)))]
    total = len(classes)
    num_val = int(total * 0.5 / folds)
    if num_val < MIN_VAL_CLASSES:
        raise UserError(
            f"{total} classes are too few: {folds} folds with {MIN_VAL_CLASSES} validation "
            f"classes each need at least {2 * folds * MIN_VAL_CLASSES}; add classes (folders)"
        )
    return Splits(
        test_classes=tuple(classes[total // 2 :]),
        folds=_turn_folds(classes[: total // 2], num_val, folds),
    )


def folds_of_classes(labels: Iterable[int], folds: int) -> tuple[Fold, ...]:
    """Split classes into folds as `class_disjoint_splits` does, with no class kept for a test.

    Args:
        labels: (N,) labels, one per image.
        folds: number of folds, at least 2.

    Raises:
        UserError: there are too few classes for two validation classes in every fold.
    """
    classes = [int(label) for label in np.unique(np.asarray(list(labels)))]
    num_val = len(classes) // folds
    if num_val < MIN_VAL_CLASSES:
        raise UserError(
            f"{len(classes)} classes to train and validate on are too few: {folds} folds with "
            f"{MIN_VAL_CLASSES} validation classes each need at least {folds * MIN_VAL_CLASSES}"
        )
    return _turn_folds(classes, num_val, folds)


def _turn_folds(classes: Sequence[int], num_val: int, folds: int) -> tuple[Fold, ...]:
    """Validate on `num_val` classes in every fold, each fold's classes behind the last one's."""
    result = []
    for k in range(folds):
        start = int(k / folds * len(classes))
        turned = [*classes[start:], *classes[:start]]
        num_train = len(classes) - num_val
        result.append(Fold(tuple(turned[:num_train]), tuple(turned[num_train:])))
    return tuple(result)


def folds_of_images(labels: Sequence[int], numbers: Sequence[int], folds: int) -> tuple[Fold, ...]:
    """Return the folds that a user gives.

    Args:
        labels: (N,) labels of the images to train and validate on.
        numbers: (N,) for each image, the fold that validates on it; -1 for none.
        folds: number of folds.

    Returns:
        For every fold its classes; and its images, where it validates on classes it trains on.
    """
    of_images, of_folds = np.asarray(labels), np.asarray(numbers)
    result = []
    for k in range(folds):
        validates = of_folds == k
        train = np.unique(of_images[~validates]).tolist()
        val = np.unique(of_images[validates]).tolist()
        shared = set(train) & set(val)
        images = np.flatnonzero(validates).tolist() if shared else ()
        result.append(Fold(tuple(train), tuple(val), tuple(images)))
    return tuple(result)


def check_splits(splits: Splits, labels: Iterable[int]) -> None:
    """Refuse splits in which a fold or the test set would have nothing to retrieve.

    Args:
        splits: what `class_disjoint_splits` returned.
        labels: (N,) labels, one per image.

    Raises:
        UserError: every class of some training, validation or test set has a single image.
    """
    given = np.asarray(list(labels))
    sets = [(f"validation set of fold {k}", f.val_classes) for k, f in enumerate(splits.folds)]
    sets += [(f"training set of fold {k}", f.train_classes) for k, f in enumerate(splits.folds)]
    for name, classes in [*sets, ("test set", splits.test_classes)]:
        check_retrievable(name, given[np.isin(given, classes)])


def check_folds(folds: Sequence[Fold], labels: Iterable[int]) -> None:
    """Refuse folds with too little to train or validate on.

    Args:
        folds: of the images to train and validate on.
        labels: (N,) their labels.

    Raises:
        UserError: a fold has fewer than two validation classes, or nothing to retrieve.
    """
    given = np.asarray(list(labels))
    for k, fold in enumerate(folds):
        if len(fold.val_classes) < MIN_VAL_CLASSES:
            raise UserError(
                f"fold {k} validates on {len(fold.val_classes)} classes, and needs at least "
                f"{MIN_VAL_CLASSES}"
            )
        validates = np.isin(given, fold.val_classes)
        if fold.val_images:
            validates = np.zeros(len(given), dtype=bool)
            validates[list(fold.val_images)] = True
        check_retrievable(f"validation set of fold {k}", given[validates])
        check_retrievable(f"training set of fold {k}", given[~validates])


def check_retrievable(name: str, labels: NDArray[np.int64]) -> None:
    """Refuse a set of images in which no class has two of them.

    Args:
        name: of the set, for the message.
        labels: (N,) of its images.

    Raises:
        UserError: every class has a single image.
    """
    if not (np.unique(labels, return_counts=True)[1] > 1).any():
        raise UserError(
            f"every class of the {name} has a single image, so nothing could be retrieved; "
            "give each class at least two images"
        )
