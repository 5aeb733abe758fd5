"""Which protocol a folder of images gets: what it looks like decides, and one line says why."""

from pathlib import Path

import pytest
import torch

import launch
from tests.support.pictures import (
    Make,
    make_blue_drawing,
    make_drawing,
    make_grey_photograph,
    make_photograph,
    write_pictures,
)
from wpm.cli.arguments import build_parser
from wpm.cli.console import Console
from wpm.cli.launch_plan import locate_images
from wpm.cli.options import LaunchOptions
from wpm.cli.protocol_choice import MIN_SIDE, MIN_SPREAD, choose_for, choose_protocol
from wpm.data.appearance import Appearance
from wpm.errors import UserError
from wpm.records import StudyPlace, write_study
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def options_of(tmp_path: Path, *arguments: str) -> LaunchOptions:
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    words = ["--dataset", "folder", "--data-root", str(tmp_path / "images"), *roots, *arguments]
    return LaunchOptions.from_arguments(build_parser(None).parse_args(words))


def choose(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], *arguments: str
) -> tuple[str, list[str]]:
    """Return the protocol's name and the lines that were printed."""
    options = options_of(tmp_path, *arguments)
    with Console() as console:
        protocol = choose_protocol(options, locate_images(options), console)
    return protocol.name, capfd.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("makes", "side", "ending", "name", "reason"),
    [
        ([make_photograph], 64, "jpg", "photos", "the median of 32 images has 64 px"),
        ([make_photograph], MIN_SIDE, "png", "photos", "32 images has 48 px on its shorter"),
        ([make_photograph], MIN_SIDE - 1, "png", "small", "images are small: the median of 32"),
        ([make_grey_photograph], 64, "jpg", "small", "greyscale or drawn in one colour"),
        ([make_drawing], 105, "png", "small", "greyscale or drawn in one colour"),
        ([make_blue_drawing], 105, "jpg", "small", "greyscale or drawn in one colour"),
        # Mixed: the median image decides.
        ([make_photograph] * 3 + [make_grey_photograph], 64, "jpg", "photos", "are in colour"),
        ([make_photograph] + [make_grey_photograph] * 3, 64, "jpg", "small", "greyscale or"),
    ],
)  # fmt: skip
def test_images_decide_and_one_line_says_why(
    makes: list[Make], side: int, ending: str, name: str, reason: str,
    tmp_path: Path, capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    write_pictures(tmp_path / "images", makes, side, ending=ending)
    chosen, lines = choose(tmp_path, capfd)
    assert chosen == name
    assert len(lines) == 1
    assert lines[0].startswith(f"protocol {name}, because ")
    assert reason in lines[0]
    assert lines[0].endswith("; --protocol sets another")


def test_limits_belong_to_photographs() -> None:
    photograph = Appearance(32, MIN_SIDE, MIN_SPREAD)
    assert choose_for(photograph, on_gpu=False).name == "photos"
    assert choose_for(photograph, on_gpu=True).name == "photos_gpu"
    for other in (
        Appearance(32, MIN_SIDE - 0.5, MIN_SPREAD),
        Appearance(32, MIN_SIDE, MIN_SPREAD - 0.01),
        Appearance(0, 0.0, 0.0),
    ):
        assert choose_for(other, on_gpu=True).name == "small"


@pytest.mark.parametrize(
    ("arguments", "here", "name"),
    [
        ([], True, "photos_gpu"),
        (["--gpus-per-trial", "0"], True, "photos"),
        (["--gpus-per-trial", "0.5"], False, "photos_gpu"),
        (["--gpus-per-trial", "auto"], False, "photos_gpu"),
    ],
)
def test_gpu_gets_a_larger_trunk(
    arguments: list[str], here: bool, name: str,
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    write_pictures(tmp_path / "images", [make_photograph], 64)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: here)
    assert choose(tmp_path, capfd, *arguments)[0] == name


def test_no_image_of_a_test_class_is_opened(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_pictures(tmp_path / "images", [make_photograph], 64)
    for number in range(8, 16):  # the second half of the classes, in colour or not
        for path in (root / f"class_{number:02d}").iterdir():
            path.write_bytes(b"not an image")
    name, lines = choose(tmp_path, capfd)
    assert name == "photos"
    assert "median of 32 images " in lines[0]


def test_changes_apply_to_what_was_chosen(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "images", [make_photograph], 64, classes=10)
    name, lines = choose(tmp_path, capfd, "--set", "crop=100", "--set", "folds=2")
    assert name == "photos-crop_100-folds_2"
    assert lines[0].startswith("protocol photos-crop_100-folds_2, because ")
    with pytest.raises(UserError, match="10 classes are too few: 4 folds"):
        choose(tmp_path, capfd)


@pytest.mark.parametrize("arguments", [["--protocol", "small"], ["--protocol", "photos"]])
def test_named_protocol_is_taken_without_a_look_at_the_images(
    arguments: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert choose(tmp_path, capfd, *arguments) == (arguments[1], [])


@pytest.mark.parametrize("dataset", ["glyphs", "omniglot"])
def test_other_data_sets_keep_small(
    dataset: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert choose(tmp_path, capfd, "--dataset", dataset) == ("small", [])


def test_studies_of_before_are_pointed_to_until_there_are_new_ones(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "images", [make_photograph], 64)
    rows = ["--rows", "triplet", "nca"]
    hint = (
        f"{tmp_path}/runs/folder/small has studies of triplet; if they are of these images, "
        "--protocol small continues them"
    )
    for protocol, expected in (("small", [hint]), ("photos", [])):
        place = StudyPlace(tmp_path / "runs", "folder", protocol, Row("triplet"))
        write_study(place, {"trials": 7, "identity": {}, "provenance": {}})
        assert choose(tmp_path, capfd, *rows)[1][1:] == expected


def test_missing_weights_are_one_line_that_says_how_to_get_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_pictures(tmp_path / "images", [make_photograph], 64)
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    command = ["--dataset", "folder", "--data-root", str(tmp_path / "images"), *roots]
    assert launch.main(command) == 2
    out, err = capfd.readouterr()
    assert out.startswith("protocol photos, because ")
    (line,) = err.splitlines()
    assert "no weights of trunk mobilenet_v1_0.25 at " in line
    assert "add --fetch" in line
    assert not (tmp_path / "runs").exists()
