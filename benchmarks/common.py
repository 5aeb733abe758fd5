"""What several benchmarks share: the device, images to train on, the memory in use."""

import argparse
import platform
import resource
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixels
from wpm.data.pixels import Pixels
from wpm.protocols import Protocol
from wpm.splits import class_disjoint_splits


def find_device() -> tuple[torch.device, str]:
    """Return the GPU if there is one, else the CPU; and what it is called."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), platform.machine()


def add_image_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which images are meant, as launch.py has them."""
    parser.add_argument("--dataset", default="glyphs")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--work-root", type=Path, default=Path("data"))


def open_trainval(args: argparse.Namespace, protocol: Protocol) -> Pixels:
    """Return the decoded trainval half of the images that the flags name."""
    index = load_index(DataSource(args.dataset, args.data_root, args.work_root))
    splits = class_disjoint_splits(index.labels, protocol.folds)
    trainval = index.subset(splits.trainval_classes)
    return Pixels(build_pixels(trainval, protocol.resize, args.work_root))


def make_photographs(root: Path, images: int, classes: int = 8) -> Path:
    """Write JPEG files of 500 x 375: smooth shapes and noise, about 75 kB each."""
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


def resident_bytes() -> int:
    """Return the resident size of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
