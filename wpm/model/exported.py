"""Load models that `analysis.export` wrote, and embed images with them."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from wpm.data.crop_boxes import centre_crop_boxes
from wpm.data.crops import normalise_pixels, resize_crop
from wpm.data.image_file import UndecodableError, decode_image
from wpm.errors import UserError
from wpm.model.embedding import (
    EVALUATION_BATCH,
    EmbeddingModel,
    build_model,
    concatenate_embeddings,
)
from wpm.precision import float32_products
from wpm.protocols import Protocol
from wpm.records.exports import read_export


class ExportedModels:
    """The fold models of a run. Called with images, it prepares them as the test does.

    Attributes:
        digest: SHA-256 of everything that an embedding depends on beside the image.

    Args:
        path: a folder, or a `.safetensors` file with its `.json` file beside it.

    Raises:
        UserError: there is no exported model, or it is damaged.
    """

    def __init__(self, path: Path) -> None:
        path = Path(path)
        files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
        if not files or not files[0].exists():
            raise UserError(f"{path}: no exported model; write one with python -m analysis.export")
        exported = [read_export(file) for file in files]
        about = exported[0][0]
        self.channels: int = about.channels
        self.protocol: Protocol = about.protocol
        self.models = [
            _load(file, weights, self.protocol, self.channels)
            for file, (_, weights) in zip(files, exported, strict=True)
        ]
        settings = json.dumps([self.channels, asdict(self.protocol)])
        parts = [settings.encode(), *(weights for _, weights in exported)]
        # Of each part's own digest, so that no byte can move from one part to the next unseen.
        digests = [hashlib.sha256(part).digest() for part in parts]
        self.digest: str = hashlib.sha256(b"".join(digests)).hexdigest()

    def __call__(self, images: Sequence[Path | str | Image.Image]) -> Tensor:
        """Embed images.

        Args:
            images: N files or Pillow images, of any size; turned upright as their metadata say.

        Returns:
            (N, D) unit-norm embeddings, where D counts the dimensions of all models.

        Raises:
            UserError: an image cannot be read.
        """
        starts = range(0, len(images), EVALUATION_BATCH)
        parts = (images[start : start + EVALUATION_BATCH] for start in starts)
        return torch.cat([self.embed([self._prepare(image) for image in part]) for part in parts])

    def embed(self, prepared: Sequence[Tensor]) -> Tensor:
        """Embed images that `prepare` has cut; see `__call__` for what is returned."""
        starts = range(0, len(prepared), EVALUATION_BATCH)
        parts = (torch.cat([*prepared[start : start + EVALUATION_BATCH]]) for start in starts)
        return torch.cat([self._embed(part) for part in parts])

    @torch.no_grad()
    def _embed(self, levels: Tensor) -> Tensor:
        """Embed a batch of (B, C, crop, crop) grey levels."""
        batch = normalise_pixels(levels, self.models[0].trunk.input_spec)
        with float32_products(self.protocol.precision):
            return concatenate_embeddings([normalize(model(batch), dim=1) for model in self.models])

    def prepare(self, image: Path | str | Image.Image) -> Tensor:
        """Resize and crop one image to (1, C, crop, crop) grey levels.

        Raises:
            UndecodableError: the file cannot be read.
        """
        source = image if isinstance(image, Image.Image) else Path(image)
        decoded = decode_image(source, self.channels, self.protocol.resize, upright=True)
        levels = torch.from_numpy(np.array(decoded))  # a copy, since torch expects to write to it
        (box,) = centre_crop_boxes(torch.tensor([levels.shape[:2]]), self.protocol.crop).tolist()
        return resize_crop(levels, box, self.protocol.crop).permute(2, 0, 1)[None]

    def _prepare(self, image: Path | str | Image.Image) -> Tensor:
        try:
            return self.prepare(image)
        except UndecodableError as error:
            raise UserError(f"{image}: image cannot be read ({error})") from error


def _load(file: Path, weights: bytes, protocol: Protocol, channels: int) -> EmbeddingModel:
    from safetensors.torch import load  # imported late: machines that only train do not have it

    model = build_model(protocol, channels, seed=0)
    try:
        model.load_state_dict(load(weights))
    except Exception as error:
        raise UserError(f"{file}: model cannot be loaded ({error}); export it again") from error
    return model.eval()


def load_exported(path: Path) -> Callable[[Sequence[Any]], Tensor]:
    """Load what `python -m analysis.export` wrote.

    Args:
        path: the folder of a run, whose fold models are concatenated, or one `.safetensors` file.

    Returns:
        A callable that turns image files or Pillow images into (N, D) unit-norm embeddings.

    Raises:
        UserError: nothing was exported there, or it is damaged.
    """
    return ExportedModels(path)
