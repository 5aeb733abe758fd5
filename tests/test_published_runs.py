"""CUB, Cars and SOP in miniature, from their own files to the table, with BN-Inception."""

import dataclasses
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

import launch
from analysis.table import main as print_table
from tests.support.without_ray import run_prepared_here
from wpm.data.datasets import DATASETS
from wpm.data.index import DataSource, ImageIndex
from wpm.data.published_listings import load_cars196, load_cub200, load_sop
from wpm.data.published_sets import CARS196, CUB200, SOP, PublishedSet
from wpm.records import StudyPlace, TrialState, read_finals, read_trials
from wpm.rows import Row
from wpm.spaces import SPACES_FOLDER

pytestmark = pytest.mark.slow

CLASSES, IMAGES = 16, 4
CARS = [f"Make {number}" for number in range(CLASSES)]


def write_image(path: Path, label: int, seed: int) -> None:
    """Write a photograph-like file: a coarse pattern of its class, and noise."""
    pattern = np.random.default_rng(label).integers(0, 256, (6, 5, 3))
    noise = np.random.default_rng((label, seed)).normal(0, 40, (60, 50, 3))
    pixels = (np.kron(pattern, np.ones((10, 10, 1))) + noise).clip(0, 255).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).resize((100, 120)).save(path, quality=90)


def make_cub(place: Path) -> None:
    top = place / "CUB_200_2011"
    names = [f"{label + 1:03}.Bird_{label}" for label in range(CLASSES)]
    files = [
        (label, f"{names[label]}/{n}.jpg", n) for label in range(CLASSES) for n in range(IMAGES)
    ]
    for label, path, n in files:
        write_image(top / "images" / path, label, n)
    lines = {
        "images.txt": [f"{i} {path}" for i, (_, path, _) in enumerate(files, 1)],
        "image_class_labels.txt": [f"{i} {label + 1}" for i, (label, _, _) in enumerate(files, 1)],
        "classes.txt": [f"{label + 1} {name}" for label, name in enumerate(names)],
    }
    for name, content in lines.items():
        (top / name).write_text("\n".join(content) + "\n")


def make_cars(place: Path) -> None:
    files = [(i % CLASSES, f"car_ims/{i + 1:06}.jpg") for i in range(CLASSES * IMAGES)]
    annotations = np.empty((1, len(files)), [("relative_im_path", "O"), ("class", "O")])
    for i, (label, path) in enumerate(files):
        write_image(place / path, label, i)
        annotations[0, i] = (path, np.uint8(label + 1))
    names = np.empty((1, CLASSES), "O")
    names[0, :] = CARS
    savemat(place / "cars_annos.mat", {"annotations": annotations, "class_names": names})


def make_sop(place: Path) -> None:
    top = place / "Stanford_Online_Products"
    title = "image_id class_id super_class_id path"
    halves: dict[str, list[str]] = {"Ebay_train.txt": [title], "Ebay_test.txt": [title]}
    for label in range(CLASSES):
        half = halves["Ebay_train.txt" if label < CLASSES // 2 else "Ebay_test.txt"]
        for n in range(IMAGES):
            path = f"chair_final/{label + 1}_{n}.JPG"
            write_image(top / path, label, n)
            half.append(f"{len(half)} {label + 1} 1 {path}")
    for name, lines in halves.items():
        (top / name).write_text("\n".join(lines) + "\n")


@dataclass(frozen=True)
class Case:
    """A published set in miniature, and the arguments of its launch."""

    make: Callable[[Path], None]
    load: Callable[[DataSource, bool, PublishedSet], ImageIndex]
    known: PublishedSet
    row: str
    side: int  # px of the crop


CASES = {
    "cub200": Case(make_cub, load_cub200, CUB200, "triplet", 227),
    "cars196": Case(make_cars, load_cars196, CARS196, "multi_similarity+wpm", 64),
    "sop": Case(make_sop, load_sop, SOP, "cosface", 64),
}


@pytest.fixture(params=CASES)
def dataset(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],  # before the console takes hold of stdout
) -> str:
    """Replace the set by one in miniature, and `mlrc` by a short protocol."""
    name: str = request.param
    case = CASES[name]
    small = dataclasses.replace(case.known, images=CLASSES * IMAGES, classes=CLASSES)
    monkeypatch.setitem(DATASETS, name, lambda source, fetch: case.load(source, fetch, small))
    protocols = tmp_path / "spaces" / "protocols"
    shutil.copytree(SPACES_FOLDER, protocols.parent)
    (protocols / "mlrc.toml").write_text(
        f"base = 'mlrc'\nresize = {case.side + 29}\ncrop = {case.side}\n"
        "classes_per_batch = 2\nimages_per_class = 2\niterations_per_epoch = 1\n"
        "trunk_passes = 2\nembedding_masks = 2\nmax_epochs = 1\nvalidation_interval = 1\n"
    )
    monkeypatch.setattr("wpm.cli.commands.run_on_ray", run_prepared_here)
    case.make(tmp_path / "work" / case.known.home)
    return name


def test_set_in_miniature_is_searched_tested_and_in_the_table(
    dataset: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = CASES[dataset].row
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    spaces = ["--search-spaces", str(tmp_path / "spaces")]
    command = ["--dataset", dataset, "--rows", row, "--weights", "random", *spaces, *roots]
    assert launch.main([*command, "--trials", "1"]) == 0
    place = StudyPlace(tmp_path / "runs", dataset, "mlrc", Row.parse(row))
    (trial,), problems = read_trials(place)
    assert not problems
    assert trial.state == TrialState.COMPLETE, trial.result
    assert trial.identity["config"]["protocol"]["trunk"] == "bninception"
    assert not (place.folder / "test_access.jsonl").exists()

    assert launch.main([*command, "--best-only", "--runs", "1"]) == 0
    (final,), problems = read_finals(place)
    assert not problems
    (result,) = final.tested
    assert result.test_classes == CLASSES // 2
    assert result.test_images == CLASSES // 2 * IMAGES
    assert len((place.folder / "test_access.jsonl").read_text().splitlines()) == 1

    capfd.readouterr()
    assert print_table(["--run-root", str(tmp_path / "runs"), "--against", "published"]) == 0
    out = capfd.readouterr().out
    assert f"\n{row} " in out
    assert ("random weights (published: ImageNet)" in out) == (dataset != "sop")  # none published
