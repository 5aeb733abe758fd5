"""What folders of a tree may mean: classes, or the halves of a split."""

import re
from collections.abc import Iterable
from enum import StrEnum

# What makes a class of a tree of folders: the path of a folder, or its name alone.
CLASSES_BY_PATH, CLASSES_BY_NAME = "path", "name"
SPLIT_FOLDERS = "folders"  # instead of a file: the top folders are the halves of the split


class Part(StrEnum):
    """Which half of a split an image belongs to."""

    TRAINVAL = "trainval"
    TEST = "test"


_TRAIN = {"train", "training", "trainval"}
_VALIDATION = {"val", "valid", "validation"}
_TEST = {"test", "testing"}
PART_NAMES = "train, val or test"


def is_part(folder: str) -> bool:
    """Whether a folder's name says that it is a half of a split, such as train or cars_test."""
    return bool(_kinds(folder))


def name_parts(folders: Iterable[str]) -> dict[str, Part]:
    """Return which half each of the top folders of a tree is.

    The folder for validation belongs to the first half, as that is validated on; without a test
    folder it is the test.

    Args:
        folders: names for all of which `is_part` is true.
    """
    kinds = {folder: _kinds(folder) for folder in folders}
    has_test = any("test" in found for found in kinds.values())
    is_test = {"test"} if has_test else {"validation"}
    return {
        folder: Part.TEST if found & is_test else Part.TRAINVAL for folder, found in kinds.items()
    }


def _kinds(folder: str) -> set[str]:
    words = set(re.findall("[a-z]+", folder.lower()))
    kinds = (("train", _TRAIN), ("validation", _VALIDATION), ("test", _TEST))
    found = {kind for kind, names in kinds if words & names}
    # A name with two of the words, such as test_of_training, says neither.
    return found if len(found) == 1 else set()
