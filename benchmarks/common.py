"""What several benchmarks begin with: the device, and real images to train on."""

import argparse
import platform
from pathlib import Path

import torch

from wpm.config import Protocol
from wpm.datasets import DataSource, load_index
from wpm.pixels import Pixels, build_pixels
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
