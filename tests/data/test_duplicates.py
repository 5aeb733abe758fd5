"""Pictures that a data set holds more than once: counted and named, in both halves or in one."""

from pathlib import Path

import numpy as np

from tests.support.tiny import make_image_folder
from wpm.data.datasets import load_index
from wpm.data.digests import digest_images
from wpm.data.duplicates import FILES, AlikeClasses, Duplicates, find_duplicates
from wpm.data.halves import Halves
from wpm.data.index import DataSource, ImageIndex

# Four classes, of which c and d are kept for the test.
PATHS = ("a/1", "a/2", "a/3", "b/1", "b/2", "b/3", "c/1", "c/2", "c/3", "d/1", "d/2", "d/3")


def compare(**same: str) -> Duplicates:
    """Compare the images, whose digests are their names except for those that are given."""
    labels = np.arange(len(PATHS)) // 3
    index = ImageIndex("folder", Path(), PATHS, labels, ("a", "b", "c", "d"), 3)
    test = np.flatnonzero(labels >= 2)
    halves = Halves(index.subset([0, 1]), test, (2, 3))
    named = {path.replace("_", "/"): digest for path, digest in same.items()}
    return find_duplicates(index, halves, {path: path for path in PATHS} | named, FILES)


def test_different_pictures_are_no_duplicates() -> None:
    assert compare() == Duplicates(FILES)
    assert compare().describe() == []


def test_picture_in_both_halves_is_named() -> None:
    found = compare(a_2="x", d_1="x")
    assert found == Duplicates(FILES, across=(("a/2", "d/1"),))
    (line,) = found.describe()
    assert line.startswith("1 test images are the same, byte for byte, as images to train")
    assert "a/2 = d/1" in line


def test_picture_under_two_labels_of_one_half_is_named() -> None:
    found = compare(a_2="x", b_1="x", c_1="y", d_3="y")
    assert found.across == ()
    assert found.two_labels == (("a/2", "b/1"), ("c/1", "d/3"))
    assert "2 pairs of images of one half are the same picture under two" in found.describe()[0]


def test_copies_within_a_class_are_no_matter() -> None:
    assert compare(a_1="x", a_2="x", a_3="x").describe() == []


def test_many_copies_make_no_more_pairs_than_images() -> None:
    found = compare(a_1="x", b_1="x", c_1="x", c_2="x", d_1="x")
    assert found.across == (("a/1", "c/1"), ("a/1", "c/2"), ("a/1", "d/1"))
    assert found.two_labels == (("a/1", "b/1"), ("c/1", "d/1"))


def test_classes_that_share_most_images_are_named_once() -> None:
    found = compare(a_1="x", b_1="x", a_2="y", b_3="y")
    assert found.classes == (AlikeClasses("a", "b", shared=2, size=3),)
    assert found.two_labels == ()
    (line,) = found.describe()
    assert "a and b (2 of 3 images)" in line


def test_record_has_the_counts_and_the_pairs() -> None:
    assert compare(a_1="x", c_1="x", c_2="x").to_json() == {
        "same": "byte for byte",
        "test_images": 2,
        "two_labels": 0,
        "across": [["a/1", "c/1"], ["a/1", "c/2"]],
        "under_two_labels": [],
        "classes": [],
    }


def test_image_without_a_digest_is_not_compared(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images", classes=8, images=2)
    index = load_index(DataSource("folder", root, tmp_path / "work"))
    (root / index.paths[0]).unlink()
    digests = digest_images(index, tmp_path / "work")
    assert digests.keys() == set(index.paths[1:])
    halves = Halves(index, np.array([], dtype=np.int64), ())
    assert find_duplicates(index, halves, digests, FILES).across == ()
