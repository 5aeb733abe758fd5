"""Batches: which images (so many classes, so many of each), and which region of each."""

import math

import torch
from torch import Tensor

from wpm.config import Protocol
from wpm.crops import crop_images, normalise_pixels, to_device
from wpm.errors import UserError
from wpm.pixels import Pixels
from wpm.trunk import InputSpec

_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop, whose boxes these are


class ClassBalancedSampler:
    """Draws batches of `classes_per_batch` classes with `images_per_class` images each."""

    def __init__(
        self,
        labels: Tensor,
        candidates: Tensor,
        *,
        classes_per_batch: int,
        images_per_class: int,
        generator: torch.Generator,
    ) -> None:
        """Group the candidates by class.

        Args:
            labels: (N,) label of every image of the set.
            candidates: (M,) positions of the images to draw from.
            classes_per_batch: classes of a batch; all of them where there are fewer.
            images_per_class: images of each; drawn with replacement only where a class has fewer.
            generator: source of randomness, on the CPU.
        """
        if len(candidates) == 0:
            raise UserError("no images to train on: the fold's training classes are empty")
        # Sorted once: to look for each class among all images takes minutes on 8,488 classes.
        found, order = labels[candidates].sort(stable=True)
        counts = found.unique_consecutive(return_counts=True)[1]
        self._members = candidates[order].split(counts.tolist())
        self._classes_per_batch = min(classes_per_batch, len(self._members))
        self._images_per_class = images_per_class
        self._generator = generator

    def draw(self) -> Tensor:
        """Return (B,) positions of the next batch, class after class."""
        chosen = torch.randperm(len(self._members), generator=self._generator)
        chosen = chosen[: self._classes_per_batch]
        return torch.cat([self._draw_members(self._members[i]) for i in chosen.tolist()])

    def _draw_members(self, members: Tensor) -> Tensor:
        wanted, generator = self._images_per_class, self._generator
        if len(members) >= wanted:
            return members[torch.randperm(len(members), generator=generator)[:wanted]]
        return members[torch.randint(len(members), (wanted,), generator=generator)]


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
    """Return the box used where no attempt fits: the whole image, cut to the nearest ratio."""
    image_ratio = width / height
    crop_h = torch.where(image_ratio < ratio[0], torch.round(width / ratio[0]), height)
    crop_w = torch.where(image_ratio > ratio[1], torch.round(height * ratio[1]), width)
    return crop_h.minimum(height), crop_w.minimum(width)


def centre_crop_boxes(sizes: Tensor, crop: int) -> Tensor:
    """Return (B, 4) boxes of the central square of `crop` pixels, as torchvision's CenterCrop."""
    free = (sizes - crop).double() / 2
    corner = torch.round(free).long()
    return torch.cat([corner, torch.full_like(corner, crop)], dim=1)


class BatchMaker:
    """Turns positions in a pixel cache into the trunk's input, on the device that trains."""

    def __init__(
        self, pixels: Pixels, protocol: Protocol, spec: InputSpec, device: torch.device
    ) -> None:
        """Remember what all batches share.

        Args:
            pixels: decoded images.
            protocol: crop and flip settings.
            spec: the trunk's input.
            device: where batches go.
        """
        self._pixels = pixels
        self._protocol = protocol
        self._spec = spec
        self._device = device

    def training_batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crop and flip at random.

        Args:
            indices: (B,) positions.
            generator: source of randomness, on the CPU.

        Returns:
            (B, C, crop, crop) float images and (B,) labels.
        """
        protocol = self._protocol
        boxes = sample_crop_boxes(
            self._pixels.sizes[indices], protocol.crop_scale, protocol.crop_ratio, generator
        )
        flipped = torch.rand(len(indices), generator=generator) < protocol.flip
        return self._finish(indices, boxes, flipped)

    def evaluation_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Crop the centre: (B, C, crop, crop) float images and (B,) labels."""
        boxes = centre_crop_boxes(self._pixels.sizes[indices], self._protocol.crop)
        return self._finish(indices, boxes, torch.zeros(len(indices), dtype=torch.bool))

    def _finish(self, indices: Tensor, boxes: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
        crop = self._protocol.crop
        images = crop_images(self._pixels, indices, boxes, crop, flipped, self._device)
        labels = to_device(self._pixels.labels[indices], self._device)
        return normalise_pixels(images, self._spec), labels
