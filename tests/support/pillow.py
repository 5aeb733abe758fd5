"""Crops as Pillow makes them: what our own are compared with."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def resize_by_pillow(image: Tensor, box: tuple[int, ...], size: int, flipped: bool) -> Tensor:
    """Crop, resize and mirror one (C, H, W) uint8 image."""
    top, left, height, width = box
    pixels = image.permute(1, 2, 0).numpy()
    picture = Image.fromarray(pixels[..., 0] if image.shape[0] == 1 else pixels)
    picture = picture.crop((left, top, left + width, top + height))
    resized = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR))
    if flipped:
        resized = resized[:, ::-1]
    tensor = torch.from_numpy(resized.copy()).float()
    return tensor[None] if image.shape[0] == 1 else tensor.permute(2, 0, 1)
