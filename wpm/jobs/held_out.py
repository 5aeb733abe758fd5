"""The only door to test images: open them, and load the models that are scored on them."""

from pathlib import Path

import torch
from safetensors.torch import load

from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import Progress, build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.protocols import Protocol
from wpm.records import StudyPlace, TrainingFolder, model_file, note_test_access
from wpm.splits import class_disjoint_splits


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
        Decoded images of the test half of the classes.
    """
    note_test_access(place, reason)
    index = load_index(source)
    splits = class_disjoint_splits(index.labels, protocol.folds)
    folder = build_pixel_cache(
        index.subset(splits.test_classes),
        protocol.resize,
        source.work_root,
        progress,
        skip_unreadable=source.skip_unreadable,
    )
    return Pixels(folder)


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
    model.to(memory_format=torch.channels_last)
    return model.to(device)
