"""`--check-pipeline`: what a user sees, the exit codes, and what is refused in one line."""

import csv
import dataclasses
import json
from decimal import Decimal
from pathlib import Path

import pytest
from PIL import Image

import launch
from tests.support.pipeline_images import CLASSES, class_name, draw_images, pipeline_protocol
from wpm.cli.check_pipeline import read_figures
from wpm.cli.checks import PIPELINE_DATASETS
from wpm.cli.options import LaunchOptions
from wpm.cli.pipeline_verdict import PublishedFigures
from wpm.data.datasets import DATASETS
from wpm.data.published_listings import load_cub200
from wpm.data.published_sets import CUB200
from wpm.retrieval import RetrievalScores

CUB = RetrievalScores(0.5105, 0.2485, 0.1421)
FAR = PublishedFigures(CUB, CUB, test_images=124)


def make_cub(place: Path) -> int:
    """Write a miniature of CUB-200-2011; return the number of its images."""
    top = place / "CUB_200_2011"
    listing, numbers = [], []
    for label, of_class in enumerate(draw_images()):
        (top / "images" / class_name(label)).mkdir(parents=True)
        for number, image in enumerate(of_class):
            path = f"{class_name(label)}/{number:02d}.png"
            Image.fromarray(image).save(top / "images" / path)
            listing.append(path)
            numbers.append(label + 1)
    (top / "images.txt").write_text("".join(f"{i} {p}\n" for i, p in enumerate(listing, 1)))
    (top / "image_class_labels.txt").write_text(
        "".join(f"{i} {c}\n" for i, c in enumerate(numbers, 1))
    )
    (top / "classes.txt").write_text("".join(f"{c + 1} {class_name(c)}\n" for c in range(CLASSES)))
    return len(listing)


def error_line(err: str) -> str:
    (line,) = err.splitlines()
    return line


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the set by one in miniature, and the published protocol by one with a tiny trunk."""
    images = make_cub(tmp_path / "data" / "cub2011")
    small = dataclasses.replace(CUB200, images=images, classes=CLASSES)
    monkeypatch.setitem(DATASETS, "cub200", lambda source, fetch: load_cub200(source, fetch, small))
    protocol = dataclasses.replace(pipeline_protocol(), name="mlrc")
    monkeypatch.setattr(LaunchOptions, "find_protocol", lambda options, name: protocol)
    monkeypatch.setattr("wpm.cli.check_pipeline.read_figures", lambda dataset: FAR)
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "data")]
    return ["--dataset", "cub200", "--check-pipeline", *roots]


def figures_in(table: str, heading: str) -> RetrievalScores:
    """Read the three 16-d figures of a line of the printed table."""
    line = next(line for line in table.splitlines() if line.startswith(heading))
    numbers = [float(word) for word in line.split() if word.replace(".", "").isdigit()]
    return RetrievalScores(*(float(Decimal(f"{number:.2f}") / 100) for number in numbers[:3]))


def test_figures_of_another_pipeline_end_with_code_1_and_its_own_with_0(
    command: list[str],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert launch.main(command) == 1
    out, err = capfd.readouterr()
    assert err == ""
    assert "cub200: 184 images, 16 classes, 8 of them to train and validate on, 8 kept" in out
    assert "scoring the trunk without training on 124 test images (cpu), by our pipeline" in out
    assert "1 of 10: our pipeline (" in out
    assert "10 of 10: images squeezed into 27 x 27 px before the crop (" in out
    assert "unit: the same of unit-norm features" in out
    assert figures_in(out, "published  ") == RetrievalScores(0.5105, 0.2485, 0.1421)
    assert "\nverdict: does not agree: the nearest of the three reductions, " in out
    assert "\nverdict: likely wrong: none of the 9 mistakes that were tried" in out

    # The printed figures stand for a table that was published with two digits.
    ours = figures_in(out, "our pipeline")
    published = PublishedFigures(FAR.separated, ours, test_images=124)
    monkeypatch.setattr("wpm.cli.check_pipeline.read_figures", lambda dataset: published)
    assert launch.main(command) == 0
    out, _ = capfd.readouterr()
    assert "\nverdict: 16-d: agrees within 0.05 points: trainval (off by 0.00)\n" in out
    assert "\nverdict: 4-d: none of the three reductions agrees; the nearest, " in out
    assert "\nverdict: so weights, decoding, sizes, colours, classes and metrics are as" in out

    place = tmp_path / "runs" / "cub200" / "mlrc" / "pretrained"
    assert [path.name for path in place.iterdir()] == ["test_access.jsonl"]
    lines = [json.loads(line) for line in (place / "test_access.jsonl").read_text().splitlines()]
    assert [line["reason"] for line in lines] == 2 * [
        "check of our pipeline",
        "check of a shorter side of 24 px in place of 27",
    ]


def test_missing_image_is_one_line(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"data/cub2011/CUB_200_2011/images/{class_name(15)}/00.png").unlink()
    assert launch.main(command) == 2
    assert "1 of the 184 images of cub200 are missing" in error_line(capfd.readouterr().err)


def test_images_that_are_skipped_are_named_in_the_verdict(
    command: list[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / f"data/cub2011/CUB_200_2011/images/{class_name(15)}/00.png").write_text("broken")
    assert launch.main([*command, "--skip-unreadable"]) == 1
    out = capfd.readouterr().out
    assert "verdict: likely wrong: 1 test images could not be read and are left out" in out


def test_published_figures_are_those_of_the_table() -> None:
    cub = read_figures("cub200")
    assert cub.concatenated == RetrievalScores(0.5105, 0.2485, 0.1421)
    assert cub.separated == RetrievalScores(0.5054, 0.2512, 0.1453)
    assert cub.test_images == 5924
    cars = read_figures("cars196")
    assert cars.concatenated == RetrievalScores(0.4689, 0.1377, 0.0591)
    assert cars.test_images == 8131


def test_data_sets_are_those_with_figures() -> None:
    with (Path(launch.__file__).parent / "analysis/published/results.csv").open() as file:
        columns = next(csv.reader(file))
    prefixes = {column.partition("_")[0] for column in columns if column.endswith("_concat_p1")}
    assert {read_figures(dataset) for dataset in PIPELINE_DATASETS}
    assert len(prefixes) == len(PIPELINE_DATASETS)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ([], "no published figures of glyphs; give --dataset cub200 or cars196"),
        (["--dataset", "sop"], "no published figures of sop; give --dataset cub200 or cars196"),
        (["--dataset", "cub200", "--rows", "triplet"], "leave out --rows"),
        (["--dataset", "cub200", "--protocol", "small"], "leave out --protocol"),
        (["--dataset", "cub200", "--set", "crop=30"], "leave out --set"),
        (["--dataset", "cub200", "--trunk", "convnet"], "leave out --trunk"),
        (["--dataset", "cub200", "--precision", "bf16"], "leave out --precision"),
        (["--dataset", "cub200", "--search-spaces", "."], "leave out --search-spaces"),
        (["--dataset", "cub200", "--weights", "random"], "leave out --weights random"),
        (["--dataset", "cub200", "--dry-run"], "leave out --dry-run"),
        (["--dataset", "cub200"], "bn_inception-52deb4733.pth; add --fetch, or download"),
        (["--dataset", "cars196", "--weights", "gone.pth"], "at gone.pth; add --fetch, or"),
    ],
)
def test_what_cannot_be_checked_is_one_line(
    arguments: list[str], line: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "data")]
    assert launch.main(["--check-pipeline", *arguments, *roots]) == 2
    assert line in error_line(capfd.readouterr().err)
    assert list(tmp_path.iterdir()) == []
