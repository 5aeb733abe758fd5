"""Class-disjoint splits: the protocol's table, and what must hold for every number of classes."""

from itertools import pairwise

import numpy as np
import pytest

from wpm.errors import UserError
from wpm.splits import Fold, Splits, check_splits, class_disjoint_splits


def span(*bounds: tuple[int, int]) -> tuple[int, ...]:
    """Return the positions in ranges that include both ends, as in the protocol's table."""
    return tuple(i for first, last in bounds for i in range(first, last + 1))


PROTOCOL_TABLE = {
    200: [
        Fold(span((0, 74)), span((75, 99))),
        Fold(span((25, 99)), span((0, 24))),
        Fold(span((50, 99), (0, 24)), span((25, 49))),
        Fold(span((75, 99), (0, 49)), span((50, 74))),
    ],
    196: [
        Fold(span((0, 73)), span((74, 97))),
        Fold(span((24, 97)), span((0, 23))),
        Fold(span((49, 97), (0, 24)), span((25, 48))),
        Fold(span((73, 97), (0, 48)), span((49, 72))),
    ],
    136: [
        Fold(span((0, 50)), span((51, 67))),
        Fold(span((17, 67)), span((0, 16))),
        Fold(span((34, 67), (0, 16)), span((17, 33))),
        Fold(span((51, 67), (0, 33)), span((34, 50))),
    ],
}


@pytest.mark.parametrize("total", PROTOCOL_TABLE)
def test_splits_equal_the_protocol_table(total: int) -> None:
    splits = class_disjoint_splits(range(total))
    assert list(splits.folds) == PROTOCOL_TABLE[total]
    assert splits.test_classes == tuple(range(total // 2, total))
    assert splits.trainval_classes == tuple(range(total // 2))


def test_splits_of_sixteen_classes_by_hand() -> None:
    splits = class_disjoint_splits(range(16))
    assert splits.folds == (
        Fold((0, 1, 2, 3, 4, 5), (6, 7)),
        Fold((2, 3, 4, 5, 6, 7), (0, 1)),
        Fold((4, 5, 6, 7, 0, 1), (2, 3)),
        Fold((6, 7, 0, 1, 2, 3), (4, 5)),
    )
    assert splits.test_classes == (8, 9, 10, 11, 12, 13, 14, 15)


def test_odd_number_of_classes_gives_the_test_half_one_more() -> None:
    splits = class_disjoint_splits(range(17))
    assert splits.trainval_classes == tuple(range(8))
    assert splits.test_classes == tuple(range(8, 17))


@pytest.mark.parametrize("folds", [2, 3, 4, 5, 10])
@pytest.mark.parametrize("extra", [0, 1, 2, 7, 40, 101])
def test_splits_hold_their_promises(extra: int, folds: int) -> None:
    total = 4 * folds + extra
    splits = class_disjoint_splits(range(total), folds)
    half, num_val = total // 2, int(total * 0.5 / folds)
    assert len(splits.folds) == folds
    assert splits.test_classes == tuple(range(half, total))
    validated: set[int] = set()
    for k, fold in enumerate(splits.folds):
        train, val = set(fold.train_classes), set(fold.val_classes)
        assert len(fold.train_classes) == half - num_val
        assert len(fold.val_classes) == num_val >= 2
        assert not train & val
        assert train | val == set(range(half)) == set(splits.trainval_classes)
        # Training starts at the fold's share of the classes; the order goes round once.
        order = fold.train_classes + fold.val_classes
        assert order[0] == k * half // folds
        assert all(b == (a + 1) % half for a, b in pairwise(order))
        assert not validated & val
        validated |= val


def test_labels_may_be_any_values_in_any_order() -> None:
    names = [-5, 3, 1000, 7, 42, 8, 99, 100, 2**40, 12, 13, 14, 15, 16, 17, 18]
    labels = np.random.default_rng(0).permutation(np.repeat(names, 3))
    splits = class_disjoint_splits(labels)
    ordered = sorted(names)
    assert splits.trainval_classes == tuple(ordered[:8])
    assert splits.test_classes == tuple(ordered[8:])
    positions = class_disjoint_splits(range(16))
    assert [f.val_classes for f in splits.folds] == [
        tuple(ordered[i] for i in f.val_classes) for f in positions.folds
    ]
    values = (*splits.test_classes, *splits.folds[0].train_classes)
    assert all(type(value) is int for value in values)


def test_labels_may_be_any_iterable() -> None:
    expected = class_disjoint_splits(range(16))
    assert class_disjoint_splits(list(range(16))) == expected
    assert class_disjoint_splits(label for label in range(16)) == expected
    assert class_disjoint_splits(set(range(16))) == expected


@pytest.mark.parametrize(("total", "folds"), [(15, 4), (0, 4), (1, 4), (7, 2), (39, 10)])
def test_too_few_classes_are_refused(total: int, folds: int) -> None:
    with pytest.raises(UserError) as caught:
        class_disjoint_splits(range(total), folds)
    assert f"{total} classes are too few" in str(caught.value)
    assert f"at least {4 * folds}" in str(caught.value)
    class_disjoint_splits(range(4 * folds), folds)  # and the number it asks for is enough


@pytest.mark.parametrize("folds", [1, 0, -1])
def test_too_few_folds_are_refused(folds: int) -> None:
    with pytest.raises(UserError, match=f"folds is {folds}"):
        class_disjoint_splits(range(100), folds)


def labels_with_single_images(total: int, singles: tuple[int, ...]) -> list[int]:
    return [label for label in range(total) for _ in range(1 if label in singles else 3)]


def test_check_splits_accepts_one_pair_a_set() -> None:
    splits = class_disjoint_splits(range(16))
    # Each validation pair keeps one class with several images, and so does the test half.
    labels = labels_with_single_images(16, (0, 2, 4, 6, *range(9, 16)))
    check_splits(splits, labels)


@pytest.mark.parametrize(
    ("singles", "name"),
    [
        ((6, 7), "validation set of fold 0"),
        ((2, 3), "validation set of fold 2"),
        (tuple(range(8, 16)), "test set"),
    ],
)
def test_check_splits_names_the_set_without_pairs(singles: tuple[int, ...], name: str) -> None:
    labels = labels_with_single_images(16, singles)
    with pytest.raises(UserError, match=f"every class of the {name} has a single image"):
        check_splits(class_disjoint_splits(labels), labels)


def test_check_splits_refuses_training_without_pairs() -> None:
    splits = Splits(test_classes=(4,), folds=(Fold((0, 1), (2, 3)), Fold((2, 3), (0, 1))))
    with pytest.raises(UserError, match="training set of fold 0"):
        check_splits(Splits(splits.test_classes, splits.folds[:1]), [0, 1, 2, 2, 3, 4, 4])
