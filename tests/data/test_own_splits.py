"""Splits that the user gives: what the halves and folds are, and what is refused."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.errors import error_line
from tests.support.image_trees import make_tree
from tests.support.tiny import make_image_folder
from wpm.data.datasets import load_index
from wpm.data.halves import (
    Halves,
    describe_halves,
    divide_images,
    folds_of_split,
    select_test_images,
)
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.splits import Fold

# Every second class is for the test, where the protocol's rule takes the last ones.
BY_CLASS = [(f"class_{i:02d}", "test" if i % 2 else "trainval") for i in range(16)]


def write_csv(path: Path, columns: str, rows: Iterable[Sequence[object]]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns.split(), *rows])
    return path


class Place:
    """Sixteen classes of four images, divided by a file or by folders."""

    def __init__(self, tmp_path: Path) -> None:
        self.tmp, self.images = tmp_path, tmp_path / "images"

    def source(self, split: Path | str, *, same_classes: bool = False) -> DataSource:
        return DataSource(
            "folder", self.images, self.tmp / "work", split=str(split), same_classes=same_classes
        )

    def divide(self, split: Path | str, *, same_classes: bool = False, folds: int = 4) -> Halves:
        source = self.source(split, same_classes=same_classes)
        return divide_images(load_index(source), source, folds)

    def refusal(self, split: Path | str, *, same_classes: bool = False, folds: int = 4) -> str:
        with pytest.raises(UserError) as caught:
            self.divide(split, same_classes=same_classes, folds=folds)
        return error_line(caught)

    def write(self, columns: str, rows: Iterable[Sequence[object]]) -> Path:
        return write_csv(self.tmp / "split.csv", columns, rows)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    make_image_folder(tmp_path / "images")
    return Place(tmp_path)


def folds_of(halves: Halves) -> tuple[Fold, ...]:
    split = halves.trainval.split
    assert split is not None
    return folds_of_split(halves.trainval.labels.tolist(), split.folds, 4)


def test_classes_are_divided_as_the_file_says(place: Place) -> None:
    halves = place.divide(place.write("class part", BY_CLASS))
    assert halves.trainval_classes == [0, 2, 4, 6, 8, 10, 12, 14]
    assert halves.test_classes == (1, 3, 5, 7, 9, 11, 13, 15)
    assert len(halves.trainval.paths) == len(halves.test_positions) == 32
    assert [f.val_classes for f in folds_of(halves)] == [(12, 14), (0, 2), (4, 6), (8, 10)]
    assert halves.split is not None
    assert halves.split["file"] == "split.csv"
    assert halves.split["shared_classes"] == 0


def test_folds_of_the_file_are_used(place: Place) -> None:
    rows = [
        (name, part, "" if part == "test" else i // 4) for i, (name, part) in enumerate(BY_CLASS)
    ]
    halves = place.divide(place.write("class part fold", rows))
    assert [f.val_classes for f in folds_of(halves)] == [(0, 2), (4, 6), (8, 10), (12, 14)]
    assert folds_of(halves)[1] == Fold((0, 2, 8, 10, 12, 14), (4, 6))


def by_image(place: Place) -> list[tuple[str, str]]:
    """Divide every class: its last two images are for the test."""
    paths = sorted(p.relative_to(place.images).as_posix() for p in place.images.glob("*/*.png"))
    return [(path, "test" if path.endswith(("2.png", "3.png")) else "trainval") for path in paths]


def test_images_of_one_class_in_both_halves_are_a_named_choice(place: Place) -> None:
    file = place.write("image part", by_image(place))
    line = place.refusal(file)
    assert "16 classes have images in both halves (class_00, class_01, class_02, ...)" in line
    assert "--same-classes" in line
    halves = place.divide(file, same_classes=True)
    assert (len(halves.trainval.paths), len(halves.test_positions)) == (32, 32)
    assert halves.split is not None
    assert halves.split["shared_classes"] == 16
    index = load_index(place.source(file))
    assert describe_halves(index, halves).endswith(
        "32 of 16 kept for the test; 16 classes are in both"
    )


def test_test_of_single_images_is_refused(place: Place) -> None:
    rows = [
        (path, "trainval" if "class_00/0" not in path else "test") for path, _ in by_image(place)
    ]
    line = place.refusal(place.write("image part", rows), same_classes=True)
    assert "every class of the test set has a single image" in line


def test_folds_of_images_validate_on_other_images_of_trained_classes(place: Place) -> None:
    rows = [
        (path, "test", "") if path < "class_02" else (path, "trainval", int(path[-5]) % 2)
        for path, _ in by_image(place)
    ]
    file = place.write("image part fold", rows)
    assert "14 classes have images in several folds" in place.refusal(file, folds=2)
    halves = place.divide(file, same_classes=True, folds=2)
    split = halves.trainval.split
    assert split is not None
    first, second = folds_of_split(halves.trainval.labels.tolist(), split.folds, 2)
    assert first.train_classes == first.val_classes == tuple(range(2, 16))
    assert first.val_images == tuple(range(0, 56, 2))
    assert second.val_images == tuple(range(1, 56, 2))


def test_train_and_test_folders_are_used_as_given(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "images" / "train", classes=8)
    make_image_folder(tmp_path / "images" / "test", classes=4)
    for path in sorted((tmp_path / "images" / "test").iterdir()):
        path.rename(path.with_name(path.name.replace("class", "other")))
    halves = Place(tmp_path).divide("folders")
    assert halves.trainval_classes == list(range(8))
    assert halves.test_classes == (8, 9, 10, 11)
    assert halves.trainval.class_names[7:9] == ("class_07", "other_00")


def test_validation_folder_joins_training_or_is_the_test_without_one(tmp_path: Path) -> None:
    for part in ("train", "val", "test"):
        make_image_folder(tmp_path / "images" / part, classes=8)
    place = Place(tmp_path)
    halves = place.divide("folders", same_classes=True)
    assert (len(halves.trainval.paths), len(halves.test_positions)) == (64, 32)
    (tmp_path / "images" / "test").rename(tmp_path / "elsewhere")
    halves = place.divide("folders", same_classes=True)
    assert {path.partition("/")[0] for path in halves.trainval.paths} == {"train"}


@pytest.mark.parametrize(
    ("paths", "says"),
    [
        (["train/a/1.png", "test/b/1.png", "extra/c/1.png"], "extra is no half of a split"),
        (["train/1.png", "test/b/1.png"], "train holds images itself"),
        (["train/a/1.png", "train2/b/1.png"], "no image is test"),
    ],
)
def test_folders_that_are_no_halves_are_refused(
    tmp_path: Path, paths: list[str], says: str
) -> None:
    make_tree(tmp_path / "images", *paths)
    assert says in Place(tmp_path).refusal("folders")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "the first line is ''; it must name the columns image or class, part"),
        ("name,part\n", "the first line is 'name,part'; it must name the columns"),
        ("class,part\nclass_00,train\n", "line 2: part is 'train', must be trainval or test"),
        ("class,part\nclass_00\n", "line 2: has 1 values, not 2"),
        ("class,part\nklass,test\n", "1 classes are not in"),
        ("class,part\nclass_00,test\n", "has no line for 15 of the 16 classes in"),
        ("class,part\nclass_00,test\nclass_00,trainval\n", "line 3: class class_00 is there again"),
        ("class,part,fold\nclass_00,test,1\n", "line 2: a class of the test is in no fold, not 1"),
        ("class,part,fold\nclass_00,trainval,one\n", "line 2: fold is 'one', must be a whole"),
        ('class,part\n"class_00,test\n', "is not a CSV file"),
    ],
)
def test_files_that_cannot_be_understood_are_refused(place: Place, text: str, says: str) -> None:
    file = place.tmp / "split.csv"
    file.write_text(text)
    line = place.refusal(file)
    assert says in line
    assert str(file) in line


@pytest.mark.parametrize("folds", [(1, 2, 3, 4), (0, 1, 2), (0, 1, 2, 4)])
def test_folds_that_are_not_those_of_the_protocol_are_refused(
    place: Place, folds: tuple[int, ...]
) -> None:
    rows = [
        (name, part, "" if part == "test" else folds[i // 2 % len(folds)])
        for i, (name, part) in enumerate(BY_CLASS)
    ]
    line = place.refusal(place.write("class part fold", rows))
    assert f"folds are {', '.join(map(str, sorted(folds)))}, but the protocol has 4" in line


def test_file_of_other_habits_is_read(place: Place) -> None:
    """A byte order mark, semicolons, spaces, capitals, and the wrapper in front of a path."""
    rows = [
        f"images\\{path.replace('/', chr(92))}; {part.capitalize()} ;x"
        for path, part in by_image(place)
    ]
    file = place.tmp / "split.csv"
    file.write_text("\n".join(["\ufeffImage;Part;comment", *rows, ""]), encoding="utf-8")
    assert len(place.divide(file, same_classes=True).test_positions) == 32


@pytest.mark.parametrize("name", ["nowhere.csv", "images"])
def test_file_that_is_not_there_is_refused(place: Place, name: str) -> None:
    assert "cannot be read (" in place.refusal(place.tmp / name)


def test_file_that_is_not_utf8_is_refused(place: Place) -> None:
    (place.tmp / "split.csv").write_bytes(b"class,part\ncaf\xe9,test\n")
    assert "is not UTF-8" in place.refusal(place.tmp / "split.csv")


def test_cache_knows_its_half_and_folds_and_the_name_tells_splits_apart(place: Place) -> None:
    """The same images under other folds are another cache, as a training reads the folds there."""
    caches = []
    for shift in (0, 1):
        rows = [
            (name, part, "" if part == "test" else (i // 4 + shift) % 4)
            for i, (name, part) in enumerate(BY_CLASS)
        ]
        halves = place.divide(place.write("class part fold", rows))
        caches.append(build_pixel_cache(halves.trainval, 20, place.tmp / "work"))
        split = Pixels(caches[-1]).split
        assert split == halves.trainval.split
        index = load_index(place.source(place.tmp / "split.csv"))
        test = build_pixel_cache(select_test_images(index, halves), 20, place.tmp / "work")
        assert Pixels(test).split is not None
        assert set(Pixels(test).labels.tolist()) == set(range(1, 16, 2))
    assert caches[0] != caches[1]
    assert np.array_equal(Pixels(caches[0]).labels, Pixels(caches[1]).labels)
