"""What a launch says of its images, what it records, and that it decodes no test image."""

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.tiny import make_image_folder
from wpm.cli.arguments import build_parser
from wpm.cli.console import Console
from wpm.cli.image_findings import examine_images
from wpm.cli.launch_plan import LaunchPlan, locate_images, make_plan
from wpm.cli.options import LaunchOptions
from wpm.cli.prepare_images import PreparedImages, prepare_images
from wpm.data.datasets import load_index
from wpm.data.pixels import Pixels
from wpm.errors import UserError


class Lines(Console):
    """Keeps the lines instead of printing them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def live(self, describe: Any) -> None:
        """Show nothing."""


def plan(tmp_path: Path, *more: str) -> LaunchPlan:
    options = LaunchOptions.from_arguments(
        build_parser(None).parse_args(
            [
                "--dataset", "folder", "--data-root", str(tmp_path / "images"), "--protocol",
                "smoke", "--work-root", str(tmp_path / "work"), *more,
            ]
        )
    )  # fmt: skip
    protocol = options.find_protocol("smoke")
    return make_plan(options, protocol, locate_images(options), [], "random")


def prepare(tmp_path: Path, *more: str) -> tuple[PreparedImages, list[str]]:
    console = Lines()
    return prepare_images(plan(tmp_path, *more), console), console.lines


def write_split(tmp_path: Path) -> Path:
    """Keep two images of every class for the test."""
    paths = sorted((tmp_path / "images").glob("*/*.png"))
    with (tmp_path / "split.csv").open("w", newline="") as file:
        rows = [
            (path.relative_to(tmp_path / "images"), "test" if path.stem in "23" else "trainval")
            for path in paths
        ]
        csv.writer(file).writerows([("image", "part"), *rows])
    return tmp_path / "split.csv"


def test_plain_folder_needs_one_line_and_records_what_it_did_before(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "images")
    images, lines = prepare(tmp_path)
    assert lines == [
        "folder: 64 images, 16 classes, 8 of them to train and validate on, 8 kept for the test"
    ]
    assert images.identity == {"pixels": images.pixel_cache.name}
    assert images.split is None
    assert images.notes["duplicates"]["two_labels"] == 0
    assert images.notes["left_aside"] == {"endings": {}, "folders": []}


@pytest.mark.parametrize("own_split", [False, True])
def test_test_images_are_not_decoded(tmp_path: Path, own_split: bool) -> None:
    """None of them can be, and the search does not mind."""
    root = make_image_folder(tmp_path / "images")
    more: list[str] = []
    test = sorted(root.glob("*/*.png"))[32:]
    if own_split:
        more = ["--split", str(write_split(tmp_path)), "--same-classes"]
        test = [path for path in root.glob("*/*.png") if path.stem in "23"]
    for number, path in enumerate(test):
        path.write_bytes(b"no image %d" % number)
    images, _ = prepare(tmp_path, *more)
    assert len(Pixels(images.pixel_cache)) == 32


def test_split_and_its_choice_are_said_and_recorded(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "images")
    images, lines = prepare(tmp_path, "--split", str(write_split(tmp_path)), "--same-classes")
    assert "by --split split.csv 32 images of 16 classes are to train and validate on" in lines[0]
    assert images.split is not None
    assert (images.split["file"], images.split["shared_classes"]) == ("split.csv", 16)
    assert len(images.split["sha256"]) == 64


def test_copies_are_named_and_recorded(tmp_path: Path) -> None:
    root = make_image_folder(tmp_path / "images")
    shutil.copytree(root / "class_03", root / "class_03 (copy)")
    shutil.copy(root / "class_00" / "0.png", root / "class_14" / "same.png")
    shutil.copy(root / "class_01" / "0.png", root / "class_02" / "same.png")
    images, lines = prepare(tmp_path)
    said = "\n".join(lines)
    assert "class_03 and class_03 (copy) (4 of 4 images)" in said
    assert "class_14" not in said, "a search opens no file of a test image"
    assert "class_01/0.png = class_02/same.png" in said
    record = images.notes["duplicates"]
    assert "across" not in record
    assert record["under_two_labels"] == [["class_01/0.png", "class_02/same.png"]]
    assert record["classes"] == [["class_03", "class_03 (copy)", 4, 4]]


def test_doctor_compares_what_is_decoded(tmp_path: Path) -> None:
    """Another file format holds the same picture in other bytes."""
    from PIL import Image

    root = make_image_folder(tmp_path / "images")
    with Image.open(root / "class_00" / "0.png") as image:
        image.save(root / "class_14" / "same.bmp")
    _, lines = prepare(tmp_path)
    assert len(lines) == 1
    launch = plan(tmp_path)
    index = load_index(launch.source)
    (finding,) = examine_images(index, launch.source, launch.protocol)
    assert not finding.blocking
    assert "1 test images are the same, once decoded" in str(finding)
    assert "class_00/0.png = class_14/same.bmp" in str(finding)


def test_missing_split_is_refused(tmp_path: Path) -> None:
    make_image_folder(tmp_path / "images")
    with pytest.raises(UserError, match=r"nowhere.csv: cannot be read"):
        prepare(tmp_path, "--split", str(tmp_path / "nowhere.csv"))
