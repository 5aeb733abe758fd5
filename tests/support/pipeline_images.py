"""Coloured images whose score depends on colours, crops, sizes and the order of classes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.tiny import trainval_pixels
from wpm.data.index import DataSource
from wpm.jobs.pipeline_check import PipelineCheck
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol, change_protocol
from wpm.records import StudyPlace
from wpm.rows import Row

CLASSES = 16
Change = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def pipeline_protocol(**changes: int) -> Protocol:
    """Return a protocol with a tiny trunk and the published ratio of shorter side to crop."""
    values = {"embedding_dim": 4, "crop": 24, "resize": 27, **changes}
    return change_protocol(find_protocol("small", "folder"), values)


def draw_images() -> list[list[NDArray[np.uint8]]]:
    """Draw the images of all classes; no two classes have equally many."""
    rng = np.random.default_rng(0)
    images = []
    for label in range(CLASSES):
        pattern = rng.integers(0, 256, (5, 7, 3))
        height, width = (36, 50) if label % 2 else (44, 36)
        of_class = []
        for _ in range(4 + label):
            large = np.asarray(
                Image.fromarray(pattern.astype(np.uint8)).resize(
                    (width, height), Image.Resampling.BOX
                )
            )
            noisy = large * rng.uniform(0.6, 1.2, (1, 1, 3)) + rng.normal(0, 60, large.shape)
            of_class.append(noisy.clip(0, 255).astype(np.uint8))
        images.append(of_class)
    return images


def class_name(label: int) -> str:
    """Return names that are in another order without their numbers."""
    return f"{label + 1:03d}.{'qwertyuiopasdfgh'[label]}"


def write_images(
    root: Path,
    images: Sequence[Sequence[NDArray[np.uint8]]],
    change: Change = np.asarray,
) -> Path:
    """Write a folder for each class."""
    for label, of_class in enumerate(images):
        folder = root / class_name(label)
        folder.mkdir(parents=True)
        for number, image in enumerate(of_class):
            Image.fromarray(change(image)).save(folder / f"{number:02d}.png")
    return root


def make_check(root: Path, protocol: Protocol, work_root: Path) -> PipelineCheck:
    """Open the images of a folder for a check."""
    return PipelineCheck(
        StudyPlace(work_root / "runs", "folder", "mlrc", Row("pretrained")),
        DataSource("folder", root, work_root),
        protocol,
        "random",
        trainval_pixels(root, work_root, protocol),
        torch.device("cpu"),
        lambda done, total: None,
    )
