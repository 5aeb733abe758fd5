"""Images and configurations that are small enough to train within a second."""

import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image

from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.records import FirstPoint, StudyPlace
from wpm.reports import Report
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.splits import class_disjoint_splits
from wpm.studies.plan import StudyPlan
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

MINED = {"embedding_dropout": 0.05, "channel_dropout": 0.1, "sharpness": 32.0}
CONTRASTIVE = {"pos_margin": 0.0, "neg_margin": 1.0}


def make_image_folder(root: Path, classes: int = 16, images: int = 4) -> Path:
    """Write a folder of small greyscale images for each class; images of a class are alike."""
    rng = np.random.default_rng(0)
    for label in range(classes):
        pattern = rng.integers(0, 256, (5, 5))
        folder = root / f"class_{label:02d}"
        folder.mkdir(parents=True)
        for number in range(images):
            noisy = np.kron(pattern, np.ones((4, 4))) + rng.normal(0, 30, (20, 20))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return root


def trainval_pixels(root: Path, work_root: Path, protocol: Protocol) -> Path:
    """Build the pixel cache of the trainval classes."""
    index = load_index(DataSource("folder", root, work_root))
    splits = class_disjoint_splits(index.labels, protocol.folds)
    return build_pixel_cache(index.subset(splits.trainval_classes), protocol.resize, work_root)


def smoke_protocol(**changes: int) -> Protocol:
    """Return the smoke preset with some values changed."""
    return dataclasses.replace(find_protocol("smoke", "folder"), **changes)  # type: ignore[arg-type]


def make_config(
    row: str = "contrastive", folds: tuple[int, ...] = (0, 1, 2, 3), seed: int = 0, **changes: int
) -> TrainingConfig:
    """Return a configuration of the smoke protocol."""
    parameters = {**CONTRASTIVE, **(MINED if Row.parse(row).miner else {})}
    return TrainingConfig(Row.parse(row), smoke_protocol(**changes), parameters, seed, folds)


def make_pixels(tmp_path: Path) -> Pixels:
    """Return decoded trainval images."""
    root = tmp_path / "images"
    if not root.exists():
        make_image_folder(root)
    return Pixels(trainval_pixels(root, tmp_path / "work", smoke_protocol()))


def make_plan(
    tmp_path: Path, row: str = "contrastive", trials: int = 4, seed: int = 0, **changes: int
) -> StudyPlan:
    """Return the plan of a study on the tiny images."""
    space = load_space(Row.parse(row))
    pixels = make_pixels(tmp_path).folder
    known = (FirstPoint(space.thresholds, "published thresholds"),)
    return StudyPlan(
        place=StudyPlace(tmp_path / "runs", "folder", "smoke", space.row),
        space=space,
        protocol=smoke_protocol(**changes),
        images={"pixels": pixels.name},
        pixel_cache=pixels,
        trials=trials,
        seed=seed,
        first_points=known if space.thresholds else (),
    )


def run_to_end(training: Training) -> list[Report]:
    """Train to the end, and return the reports."""
    reports = []
    while not training.finished:
        report = training.run_epoch()
        if report is not None:
            reports.append(report)
    return reports
