"""Class-disjoint splits: a test half that no search sees, and folds of the other half.

Source: Musgrave et al., "A Metric Learning Reality Check", ECCV 2020.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from wpm.errors import UserError

MIN_VAL_CLASSES = 2  # with one class every neighbour is right, and the score means nothing


@dataclass(frozen=True)
class Fold:
    """Classes to train on and classes to validate on, disjoint, as label values."""

    train_classes: tuple[int, ...]
    val_classes: tuple[int, ...]


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
    trainval = classes[: total // 2]
    num_trainval = len(trainval)
    result = []
    for k in range(folds):
        start = int(k / folds * num_trainval)
        turned = trainval[start:] + trainval[:start]
        num_train = num_trainval - num_val
        result.append(Fold(tuple(turned[:num_train]), tuple(turned[num_train:])))
    return Splits(test_classes=tuple(classes[total // 2 :]), folds=tuple(result))


def check_splits(splits: Splits, labels: Iterable[int]) -> None:
    """Refuse splits in which a fold or the test set would have nothing to retrieve.

    Args:
        splits: what `class_disjoint_splits` returned.
        labels: (N,) labels, one per image.

    Raises:
        UserError: every class of some training, validation or test set has a single image.
    """
    values, counts = np.unique(np.asarray(list(labels)), return_counts=True)
    with_pairs = set(values[counts > 1].tolist())
    sets = [(f"validation set of fold {k}", f.val_classes) for k, f in enumerate(splits.folds)]
    sets += [(f"training set of fold {k}", f.train_classes) for k, f in enumerate(splits.folds)]
    for name, classes in [*sets, ("test set", splits.test_classes)]:
        if not with_pairs & set(classes):
            raise UserError(
                f"every class of the {name} has a single image, so nothing could be retrieved; "
                "give each class at least two images"
            )
