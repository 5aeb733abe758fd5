"""The images that benchmarks train on."""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.protocols import Protocol
from wpm.splits import class_disjoint_splits


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of launch.py that choose the images."""
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work-root", type=Path, default=Path("data"))


def open_trainval(args: argparse.Namespace, protocol: Protocol) -> Pixels:
    """Return the decoded trainval half of the images that the flags choose."""
    index = load_index(DataSource(args.dataset, args.data_root, args.work_root))
    splits = class_disjoint_splits(index.labels, protocol.folds)
    trainval = index.subset(splits.trainval_classes)
    return Pixels(build_pixel_cache(trainval, protocol.resize, args.work_root))


def make_photographs(root: Path, images: int, classes: int = 8) -> Path:
    """Write JPEG files of 500 x 375 pixels with smooth shapes and noise, about 75 kB each."""
    rng = np.random.default_rng(0)
    for number in range(images):
        folder = root / f"class_{number % classes:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        shapes = Image.fromarray(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8))
        smooth = np.asarray(shapes.resize((500, 375), Image.Resampling.BICUBIC))
        noisy = smooth + rng.normal(0, 12, smooth.shape)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        picture.save(folder / f"{number}.jpg", quality=90)
    return root
