"""Embeddings and thumbnails of the test images, made with the models of a tested run."""

import dataclasses
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wpm.data.batches import BatchMaker
from wpm.data.crop_boxes import centre_crop_boxes
from wpm.data.crops import crop_one_by_one
from wpm.data.index import DataSource
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.jobs.held_out import load_models, open_test_images
from wpm.jobs.job import choose_device
from wpm.model.embedding import EVALUATION_BATCH, concatenate_embeddings
from wpm.precision import float32_products
from wpm.protocols import Protocol
from wpm.records import ScoredRun, StudyPlace
from wpm.records.embedded_images import EmbeddedImages
from wpm.retrieval import retrieval_scores
from wpm.training.evaluate import embed_images

THUMBNAIL = 48  # side in pixels: large enough to tell classes apart
_TOLERANCE = 0.005  # MAP@R; another device rounds otherwise and may swap near neighbours


def embed_test_images(
    place: StudyPlace,
    source: DataSource,
    protocol: Protocol,
    folder: Path,
    result: ScoredRun,
) -> EmbeddedImages:
    """Embed the test images with the models of a tested run.

    Args:
        place: the study; a line in its records says that test images were opened.
        source: where the images are.
        protocol: of the study.
        folder: the run's records.
        result: the run's scores, which the embeddings must give again.

    Raises:
        UserError: a model is missing, or the images are not those that the run was tested on.
    """
    source = dataclasses.replace(source, skip_unreadable=bool(result.left_out))
    pixels = open_test_images(source, protocol, place, reason=f"embeddings of {folder}")
    device = choose_device(gpus=1)
    models = load_models(folder, protocol, pixels.channels, device)
    batches = BatchMaker(pixels, protocol, models[0].trunk.input_spec, device)
    everything = torch.arange(len(pixels))
    with float32_products(protocol.precision):
        embeddings = concatenate_embeddings(
            [embed_images(model, batches, everything) for model in models]
        )
    score = retrieval_scores(embeddings, pixels.labels.to(device)).map_at_r
    tested = result.concatenated["map_at_r"]
    if len(pixels) != result.test_images or abs(score - tested) > _TOLERANCE:
        raise UserError(
            f"the {len(pixels)} test images of {source.dataset} give MAP@R {score:.4f}, but "
            f"{folder} was tested on {result.test_images} with {tested:.4f}; give the "
            "--data-root and --work-root that it was tested with"
        )
    return EmbeddedImages(
        embeddings=embeddings.cpu().numpy(),
        labels=pixels.labels.numpy(),
        class_names=pixels.class_names,
        thumbnails=_shrink(pixels, protocol.crop),
    )


def _shrink(pixels: Pixels, crop: int) -> NDArray[np.uint8]:
    """Return the central crops, no larger than `THUMBNAIL`: (N, side, side, C)."""
    side = min(crop, THUMBNAIL)
    thumbnails = np.empty((len(pixels), side, side, pixels.channels), dtype=np.uint8)
    for part in torch.arange(len(pixels)).split(EVALUATION_BATCH):
        boxes = centre_crop_boxes(pixels.sizes[part], crop)
        unflipped = torch.zeros(len(part), dtype=torch.bool)
        small = crop_one_by_one(pixels, part, boxes, side, unflipped)
        thumbnails[part.numpy()] = small.permute(0, 2, 3, 1).numpy()
    return thumbnails
