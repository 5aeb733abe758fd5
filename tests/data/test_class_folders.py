"""Listing image folders: which folders are classes, which trees are refused."""

import os
from pathlib import Path

import numpy as np
import pytest

from tests.support.errors import error_line
from tests.support.image_trees import image_bytes, make_tree
from wpm.data.class_folders import index_class_folders
from wpm.data.datasets import load_index
from wpm.data.image_tree import image_suffixes
from wpm.data.index import DataSource, ImageIndex
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
    make_tree(tmp_path, "greek/alpha/1.png", "greek/beta/1.png", "latin/a/1.png", "other/1.png")
    index = index_class_folders("folder", tmp_path, channels=1)
    assert index.class_names == ("greek/alpha", "greek/beta", "latin/a", "other")
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


# What is never a class


ASIDE = [
    "@eaDir", ".thumbnails", "__MACOSX", "Thumbs", "thumbnails", "#recycle", "@Recycle", ".git",
    "$RECYCLE.BIN", "lost+found", "System Volume Information",
]  # fmt: skip


@pytest.mark.parametrize("name", ASIDE)
@pytest.mark.parametrize("place", ["", "a/", "b/"])
def test_thumbnails_and_bins_are_no_classes_wherever_they_lie(
    tmp_path: Path, name: str, place: str
) -> None:
    make_tree(
        tmp_path, "a/1.png", "b/1.png", f"{place}{name}/1.jpg", f"{place}{name}/1.jpg.d/2.jpg"
    )
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.class_names == ("a", "b")
    assert index.paths == ("a/1.png", "b/1.png")
    hidden = name.startswith(".")
    assert index.left_aside.folders == (() if hidden else (f"{place}{name}",))
    assert "".join(index.left_aside.describe()).count(name) == (0 if hidden else 1)


def test_class_with_thumbnails_is_no_wrapper(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "a/@eaDir/1.png")
    assert index_class_folders("folder", tmp_path, channels=3).class_names == ("a",)


OWN = ["glyphs/latin/a", "unpacked/photos-0123/x", "pixels/x", "weights/x", "cub2011/images/x"]


@pytest.mark.parametrize("own", OWN)
def test_folders_that_the_program_wrote_are_no_classes(tmp_path: Path, own: str) -> None:
    """Also where the images are wrapped: the wrapper counts as before anything was written."""
    make_tree(tmp_path, "photos/a/1.png", "photos/b/1.png")
    source = DataSource("folder", tmp_path, tmp_path)
    before = load_index(source)
    make_tree(tmp_path, f"{own}/1.png")
    again = load_index(source)
    assert (again.root, again.paths) == (before.root, before.paths)
    assert again.class_names == ("a", "b")


def test_own_folders_of_another_work_root_are_no_classes(tmp_path: Path) -> None:
    make_tree(tmp_path, "photos/a/1.png", "photos/b/1.png", "old/glyphs/latin/a/1.png")
    (tmp_path / "old" / "pixels").mkdir()
    (tmp_path / "old" / "pixels" / "digests-0123.json").touch()
    index = index_class_folders("folder", tmp_path, channels=3, work_root=tmp_path / "new")
    assert index.class_names == ("photos/a", "photos/b")


def test_folders_with_such_names_elsewhere_are_classes(tmp_path: Path) -> None:
    make_tree(tmp_path / "gym", "weights/1.png", "glyphs/1.png", "pixels/1.png")
    index = index_class_folders("folder", tmp_path / "gym", channels=3, work_root=tmp_path)
    assert index.class_names == ("glyphs", "pixels", "weights")


# What could mean two things


def refusal(root: Path, **options: str) -> str:
    with pytest.raises(UserError) as caught:
        index_class_folders("folder", root, channels=3, **options)  # type: ignore[arg-type]
    return error_line(caught)


def classes(first: str, second: str, count: int = 4) -> list[str]:
    return [f"{top}/class_{i}/{top[-1]}.png" for top in (first, second) for i in range(count)]


@pytest.mark.parametrize(
    ("first", "second", "halves"),
    [
        ("train", "val", True),
        ("Train", "Test", True),
        ("cars_train", "cars_test", True),
        ("a/train", "b/val", False),
        ("session1", "session2", False),
        ("images", "masks", False),
    ],
)
def test_same_names_in_two_folders_are_refused_with_what_may_be_meant(
    tmp_path: Path, first: str, second: str, halves: bool
) -> None:
    line = refusal(make_tree(tmp_path, *classes(first, second)))
    one, other = sorted((first, second))
    assert f"4 folders have the same names in {one} and in {other} (class_0, " in line
    take = first if "rain" in first else other
    assert f"--data-root {tmp_path / take} " in line
    assert "--classes-by name" in line
    assert "--classes-by path" in line
    assert ("--split folders" in line) is halves


def test_copy_of_the_folder_in_itself_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, *(f"{top}class_{i}/1.png" for top in ("", "old/") for i in range(4)))
    line = refusal(tmp_path)
    assert "same names in the folder itself and in old" in line


def test_smaller_half_with_some_of_the_names_is_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, *(f"part_a/{i}/1.png" for i in range(40)))
    make_tree(tmp_path, *(f"part_b/{i}/2.png" for i in range(36, 42)))
    assert "4 folders have the same names" in refusal(tmp_path)


def test_halves_with_other_classes_are_refused_too(tmp_path: Path) -> None:
    """Sorted by name, test/... would be trained on and train/... tested."""
    make_tree(tmp_path, "train/a/1.png", "train/b/1.png", "test/c/1.png", "test/d/1.png")
    assert "test, train look like a split" in refusal(tmp_path)


def test_one_shared_name_means_nothing(tmp_path: Path) -> None:
    make_tree(tmp_path, *(f"{top}/{top}_{i}/1.png" for top in ("cats", "dogs") for i in range(4)))
    make_tree(tmp_path, "cats/other/1.png", "dogs/other/1.png")
    assert len(index_class_folders("folder", tmp_path, channels=3).class_names) == 10


def test_what_is_meant_can_be_said(tmp_path: Path) -> None:
    make_tree(tmp_path, *classes("s1", "s2", 2))

    def index(by: str) -> ImageIndex:
        return index_class_folders("folder", tmp_path, channels=3, classes_by=by)

    assert index("path").class_names == ("s1/class_0", "s1/class_1", "s2/class_0", "s2/class_1")
    assert index("name").class_names == ("class_0", "class_1")
    assert index("name").paths == (
        "s1/class_0/1.png", "s2/class_0/2.png", "s1/class_1/1.png", "s2/class_1/2.png",
    )  # fmt: skip
    assert index("name").labels.tolist() == [0, 0, 1, 1]


def test_images_in_and_below_a_class_folder_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png", "b/crops/small/2.png")
    line = refusal(tmp_path)
    assert "class folder b holds images itself (1.png) and in b/crops/small below it" in line


def test_names_with_backslashes_are_explained(tmp_path: Path) -> None:
    (tmp_path / "class_00\\1.png").write_bytes(image_bytes())
    assert "unpack the zip again with a program that makes them folders" in refusal(tmp_path)


@pytest.mark.parametrize("path", [b"caf\xe9/1.png", b"a/caf\xe9.png"])
def test_names_that_are_not_utf8_are_refused(tmp_path: Path, path: bytes) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png")
    full = tmp_path / os.fsdecode(path)
    full.parent.mkdir(exist_ok=True)
    full.write_bytes(image_bytes())
    line = refusal(tmp_path)
    assert "1 images have names that are not UTF-8 (" in line
    assert "caf\\xe9" in line
    line.encode()  # a terminal can show it


# Endings


def test_every_format_that_pillow_decodes_is_read() -> None:
    assert image_suffixes() >= {
        ".png", ".jpg", ".jpeg", ".jfif", ".jpe", ".avif", ".bmp", ".dib", ".gif", ".tif", ".tiff",
        ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".jp2", ".tga",
    }  # fmt: skip
    assert not image_suffixes() & {".eps", ".pdf", ".wmf", ".txt", ".mpg", ".h5", ""}


def test_other_endings_are_counted_and_named_by_class(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "a/2.jpg", "b/1.jfif", "b/2.JPE", "b/3.avif")
    for name in (
        "a/3.heic",
        "c/1.HEIC",
        "c/2.cr2",
        "c/plain",
        "a/1.txt",
        "Thumbs.db",
        "b/Thumbs.db",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == ("a/1.png", "a/2.jpg", "b/1.jfif", "b/2.JPE", "b/3.avif")
    (line,) = index.left_aside.describe()
    assert line == (
        "left out for their ending: 4 files in 2 folders: c 3 of 3 (1 without ending, 1 .cr2, "
        "1 .heic), a 1 of 3 (1 .heic); convert those that are images to PNG or JPEG"
    )


def test_tree_of_nothing_but_other_endings_says_so(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.heic").touch()
    assert "it holds 2 .heic, which Pillow cannot read: convert them" in refusal(tmp_path)


def test_archives_in_place_of_images_are_named(tmp_path: Path) -> None:
    for name in ("one.zip", "two.7z"):
        (tmp_path / name).touch()
    assert "it holds one.zip, two.7z: give --data-root one of them" in refusal(tmp_path)
