"""Listing image folders: which folders are classes, which trees are refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.errors import error_line
from tests.support.image_trees import make_tree
from wpm.data.index import index_class_folders
from wpm.errors import UserError


def test_every_folder_with_images_is_a_class(tmp_path: Path) -> None:
    make_tree(tmp_path, "b/2.png", "b/1.png", "a/x.png", "c/x.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.class_names == ("a", "b", "c")
    assert index.paths == ("a/x.png", "b/1.png", "b/2.png", "c/x.png")
    assert index.labels.tolist() == [0, 1, 1, 2]
    assert index.labels.dtype == np.int64
    assert (index.dataset, index.root, index.channels) == ("folder", tmp_path, 3)


def test_nested_classes_are_named_by_their_path(tmp_path: Path) -> None:
    make_tree(tmp_path, "greek/alpha/1.png", "greek/beta/1.png", "latin/a/1.png", "latin/1.png")
    index = index_class_folders("folder", tmp_path, channels=1)
    assert index.class_names == ("greek/alpha", "greek/beta", "latin", "latin/a")
    assert all(
        path.rpartition("/")[0] == index.class_names[label]
        for path, label in zip(index.paths, index.labels, strict=True)
    )


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        "a/1.png",
        "a/._1.png",
        "a/.cache/2.png",
        ".git/3.png",
        "__MACOSX/a/4.png",
        "b/__MACOSX/5.png",
        "b/1.png",
    )
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "readme.md").touch()
    (tmp_path / "empty").mkdir()
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == ("a/1.png", "b/1.png")
    assert index.class_names == ("a", "b")


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    names = ["1.PNG", "2.Jpg", "3.jpeg", "4.TIFF", "5.webp", "6.bmp", "7.gif", "8.pgm"]
    make_tree(tmp_path, *(f"a/{name}" for name in names), "a/9.svg", "b/1.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == (*(f"a/{name}" for name in names), "b/1.png")


@pytest.mark.parametrize("wrapper", ["data", "data/images/train"])
def test_wrapper_folders_do_not_change_the_names(tmp_path: Path, wrapper: str) -> None:
    make_tree(tmp_path / wrapper, "a/1.png", "b/1.png")
    make_tree(tmp_path, "__MACOSX/x.png", ".hidden/x.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.class_names == ("a", "b")
    assert index.root == tmp_path / wrapper


def test_one_class_is_not_a_wrapper(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "a/2.png")
    assert index_class_folders("folder", tmp_path, channels=3).class_names == ("a",)


def test_links_that_go_round_end(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == ("a/1.png", "b/1.png")


def test_tree_of_nothing_but_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(UserError, match="no images under"):
        index_class_folders("folder", tmp_path, channels=3)


def test_linked_folders_are_classes_too(tmp_path: Path) -> None:
    make_tree(tmp_path / "elsewhere", "x/1.png")
    make_tree(tmp_path / "tree", "a/1.png")
    (tmp_path / "tree" / "b").symlink_to(tmp_path / "elsewhere" / "x")
    index = index_class_folders("folder", tmp_path / "tree", channels=3)
    assert index.paths == ("a/1.png", "b/1.png")


def test_folder_with_two_names_always_gets_the_same_one(tmp_path: Path) -> None:
    """Labels, splits and scores depend on names: these must not depend on a disk's order."""
    first_name_won = set()
    for number in range(12):
        root = make_tree(tmp_path / f"tree_{number}", f"a{number}/1.png", f"z{number}/1.png")
        (root / f"b{number}").symlink_to(root / f"a{number}")
        (root / f"y{number}").symlink_to(root / f"z{number}")
        names = index_class_folders("folder", root, channels=3).class_names
        assert len(names) == 2
        first_name_won.add((names[0] == f"a{number}", names[1] == f"y{number}"))
    # Either the first in order or the real folder: any rule, but one.
    assert first_name_won in ({(True, True)}, {(True, False)})


def test_images_beside_the_class_folders_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png", "stray.png")
    with pytest.raises(UserError, match=r"holds images itself \(stray.png\)") as caught:
        index_class_folders("folder", tmp_path, channels=3)
    assert str(tmp_path) in error_line(caught)


def test_tree_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    for root in (tmp_path, tmp_path / "a"):
        with pytest.raises(UserError, match="no images under") as caught:
            index_class_folders("folder", root, channels=3)
        assert str(root) in error_line(caught)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_place_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        index_class_folders("folder", tmp_path / name, channels=3)


@pytest.mark.parametrize("closed", [".", "a", "b/inner"])
def test_folder_that_cannot_be_listed_is_a_user_error(tmp_path: Path, closed: str) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/inner/1.png")
    (root / closed).chmod(0)
    try:
        if os.access(root / closed, os.R_OK):
            pytest.skip("root may list every folder")
        with pytest.raises(UserError, match="cannot be listed"):
            index_class_folders("folder", root, channels=3)
    finally:
        (root / closed).chmod(0o700)


def test_subset_keeps_labels_and_names(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png", "b/2.png", "c/1.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    subset = index.subset([2, 1])
    assert subset.paths == ("b/1.png", "b/2.png", "c/1.png")
    assert subset.labels.tolist() == [1, 1, 2]
    assert subset.class_names == index.class_names
    assert index.subset([]).paths == ()
