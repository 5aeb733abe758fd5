"""The only door to test images: open them, and load the models that are scored on them."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load

from wpm.cpus import count_cpus
from wpm.data.datasets import load_index
from wpm.data.duplicates import PIXELS, Duplicates, find_duplicates
from wpm.data.halves import Halves, divide_images, select_test_images
from wpm.data.image_file import UndecodableError, decode_image
from wpm.data.index import DataSource, ImageIndex
from wpm.data.pixel_cache import Progress, build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.data.readings import turns_upright
from wpm.errors import UserError
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.layout import place
from wpm.protocols import Protocol
from wpm.records import StudyPlace, TrainingFolder, model_file, note_test_access, read_study


def open_test_images(
    source: DataSource,
    protocol: Protocol,
    place: StudyPlace,
    reason: str,
    progress: Progress | None = None,
) -> Pixels:
    """Open the images of the test classes, after a line in the study's records says so.

    Args:
        source: where the images are.
        protocol: sets folds and image size.
        place: the study whose model is tested.
        reason: why they are opened, for that line.
        progress: called with the numbers of decoded images and of all, if any has to be decoded.

    Returns:
        Decoded images of the test half.

    Raises:
        UserError: they cannot be read, or the study has another split.
    """
    note_test_access(place, reason)
    index = load_index(source)
    halves = divide_images(index, source, protocol.folds)
    _check_split(place, halves)
    folder = build_pixel_cache(
        select_test_images(index, halves),
        protocol.resize,
        source.work_root,
        progress,
        skip_unreadable=source.skip_unreadable,
    )
    return Pixels(folder)


def _check_split(place: StudyPlace, halves: Halves) -> None:
    study = read_study(place)
    split = None if study is None else study["identity"].get("split")
    if study is not None and split != halves.split:
        raise UserError(
            f"study {place.name} was searched with split {split}, now {halves.split}; give --split "
            "as it was"
        )


def compare_halves(
    source: DataSource, protocol: Protocol, trainval: Pixels, test: Pixels
) -> Duplicates:
    """Find the pictures that are in both halves, or under two labels, as the caches hold them.

    Args:
        source: where the images are.
        protocol: sets the folds.
        trainval: decoded images to train and validate on.
        test: decoded images of the test.
    """
    index = load_index(source)
    halves = divide_images(index, source, protocol.folds)
    digests = {}
    for half, pixels in (
        (halves.trainval, trainval),
        (select_test_images(index, halves), test),
    ):
        # Caches hold the images in the order of the index, without those that are left out.
        paths = half.without({path for path, _ in pixels.left_out}).paths
        if len(paths) != len(pixels):
            raise UserError(
                f"{index.root} has changed: {len(paths)} images, but {len(pixels)} in "
                f"{pixels.folder}; put it back as it was"
            )
        for position, path in enumerate(paths):
            digests[path] = _digest(pixels.image(position).numpy())
    return find_duplicates(index, halves, digests, PIXELS)


def decode_and_compare(index: ImageIndex, halves: Halves, resize: int) -> Duplicates:
    """Decode all images of both halves, and find the pictures that are there twice.

    It is for the doctor only: a search must not decode test images. Images that cannot be read
    are not compared.

    Args:
        index: all images.
        halves: how they are divided.
        resize: length of the shorter side in pixels at which images are compared.
    """
    upright = turns_upright(index)

    def decode(path: str) -> str | None:
        try:
            return _digest(decode_image(index.root / path, index.channels, resize, upright=upright))
        except UndecodableError:
            return None

    with ThreadPoolExecutor(count_cpus()) as pool:
        found = dict(zip(index.paths, pool.map(decode, index.paths), strict=True))
    digests = {path: digest for path, digest in found.items() if digest is not None}
    return find_duplicates(index, halves, digests, PIXELS)


def _digest(pixels: NDArray[np.uint8]) -> str:
    digest = hashlib.blake2b(repr(pixels.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def load_models(
    folder: Path, protocol: Protocol, channels: int, device: torch.device
) -> list[EmbeddingModel]:
    """Load the folds' models of a run.

    Raises:
        UserError: one is missing, or does not fit the protocol.
    """
    return [
        load_model(folder / f"fold-{k}", model_file(k), protocol, channels, device)
        for k in range(protocol.folds)
    ]


def load_model(
    folder: Path, name: str, protocol: Protocol, channels: int, device: torch.device
) -> EmbeddingModel:
    """Build a model and load the weights that a training kept.

    Raises:
        UserError: no such file, it is damaged, or it does not fit the model.
    """
    model = build_model(protocol, channels, seed=0)
    data = TrainingFolder(folder).read_model(name)
    try:
        model.load_state_dict(load(data))
    except Exception as error:
        raise UserError(
            f"{folder / name}: model cannot be loaded ({error}); delete {folder} to train it again"
        ) from error
    return place(model, device)
