"""Choose which region of an image a crop shows: a random one to train, the centre to evaluate."""

import math

import torch
from torch import Tensor

_CROP_ATTEMPTS = 10  # as many as torchvision's RandomResizedCrop makes


def sample_crop_boxes(
    sizes: Tensor,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    generator: torch.Generator,
) -> Tensor:
    """Draw random resized-crop boxes with the distribution of torchvision's RandomResizedCrop.

    Args:
        sizes: (B, 2) height and width of every image in pixels.
        scale: smallest and largest share of the area to cover.
        ratio: smallest and largest width / height, drawn log-uniformly.
        generator: source of randomness, on the CPU.

    Returns:
        (B, 4) int64 top, left, height, width in pixels, inside the image.
    """
    batch = len(sizes)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(shape, generator=generator, dtype=torch.float64)

    height, width = sizes.double().unbind(dim=1)
    area = height[:, None] * width[:, None] * uniform(*scale, batch, _CROP_ATTEMPTS)
    aspect = torch.exp(uniform(math.log(ratio[0]), math.log(ratio[1]), batch, _CROP_ATTEMPTS))
    crop_w = torch.round(torch.sqrt(area * aspect))
    crop_h = torch.round(torch.sqrt(area / aspect))
    fits = (crop_w > 0) & (crop_w <= width[:, None]) & (crop_h > 0) & (crop_h <= height[:, None])
    first = fits.int().argmax(dim=1, keepdim=True)
    crop_h, crop_w = crop_h.gather(1, first)[:, 0], crop_w.gather(1, first)[:, 0]
    fallback_h, fallback_w = _largest_central_crop(height, width, ratio)
    found = fits.any(dim=1)
    crop_h, crop_w = torch.where(found, crop_h, fallback_h), torch.where(found, crop_w, fallback_w)
    free_h, free_w = height - crop_h, width - crop_w
    position = uniform(0.0, 1.0, batch, 2)
    top = torch.where(found, torch.floor(position[:, 0] * (free_h + 1)), free_h // 2)
    left = torch.where(found, torch.floor(position[:, 1] * (free_w + 1)), free_w // 2)
    return torch.stack([top, left, crop_h, crop_w], dim=1).long()


def _largest_central_crop(
    height: Tensor, width: Tensor, ratio: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Return the box for where no attempt fits: the entire image, cut to the nearest ratio."""
    image_ratio = width / height
    crop_h = torch.where(image_ratio < ratio[0], torch.round(width / ratio[0]), height)
    crop_w = torch.where(image_ratio > ratio[1], torch.round(height * ratio[1]), width)
    return crop_h.minimum(height), crop_w.minimum(width)


def centre_crop_boxes(sizes: Tensor, crop: int) -> Tensor:
    """Return the boxes of the central square, as torchvision's CenterCrop cuts it.

    Args:
        sizes: (B, 2) height and width of every image in pixels.
        crop: side of the square in pixels.

    Returns:
        (B, 4) int64 top, left, height, width in pixels.
    """
    free = (sizes - crop).double() / 2
    corner = torch.round(free).long()
    return torch.cat([corner, torch.full_like(corner, crop)], dim=1)
