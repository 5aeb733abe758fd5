"""Cut regions out of cached images and resize them, on the device that trains.

On the CPU, one image is cropped after another, by torch's resampling of bytes. It reads the mapped
pages of the region and no others. On a GPU, all images of a batch are cropped at once, by small
matrix products. The GPU holds the bytes of all images or, where they are too many, gets the regions
alone, through page-locked memory. `wpm.data.crop_boxes` chooses the regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wpm.data.pixels import Pixels
from wpm.precision import float32_products


@dataclass(frozen=True)
class InputSpec:
    """How a trunk expects pixels: `(value / 255 * value_range - mean) / std` in every channel.

    Attributes:
        channel_order: "RGB" or "BGR"; without meaning for one channel.
        value_range: value of a white pixel before the mean is subtracted.
        mean: one number per channel, in `channel_order`.
        std: one number per channel, in `channel_order`.
    """

    channel_order: str
    value_range: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


def crop_images(
    pixels: Pixels, indices: Tensor, boxes: Tensor, size: int, flipped: Tensor, device: torch.device
) -> Tensor:
    """Crop images of a cache to their boxes and resize them, as Pillow's bilinear filter does.

    Args:
        pixels: decoded images.
        indices: (B,) positions, on the CPU.
        boxes: (B, 4) int64 top, left, height, width in pixels, on the CPU.
        size: side of the square output in pixels.
        flipped: (B,) bool, whether to mirror left and right, on the CPU.
        device: where the result goes.

    Returns:
        (B, C, size, size) grey levels on the device. On the CPU they are uint8 and differ from
        Pillow's by at most 1 level; elsewhere they are float32 and differ by at most 1.5 levels.
    """
    if device.type == "cpu":
        return crop_one_by_one(pixels, indices, boxes, size, flipped)
    return crop_at_once(pixels, pixels.resident(device), indices, boxes, size, flipped, device)


def crop_one_by_one(
    pixels: Pixels, indices: Tensor, boxes: Tensor, size: int, flipped: Tensor
) -> Tensor:
    """Do what `crop_images` does on the CPU, one image after another; return uint8."""
    crops = torch.empty((len(indices), size, size, pixels.channels), dtype=torch.uint8)
    each = zip(crops, indices.tolist(), boxes.tolist(), flipped.tolist(), strict=True)
    for crop, index, box, flip in each:
        resized = resize_crop(pixels.image(index), box, size)
        crop.copy_(resized.flip(1) if flip else resized)
    return crops.permute(0, 3, 1, 2)


def crop_at_once(
    pixels: Pixels,
    resident: Tensor | None,
    indices: Tensor,
    boxes: Tensor,
    size: int,
    flipped: Tensor,
    device: torch.device,
) -> Tensor:
    """Do what `crop_images` does on a GPU, all images at once; return float32.

    Args:
        pixels: decoded images.
        resident: all bytes of `pixels` on the device, or None where they are too many.
        indices: (B,) positions, on the CPU.
        boxes: (B, 4) int64 top, left, height, width in pixels, on the CPU.
        size: side of the square output in pixels.
        flipped: (B,) bool, whether to mirror left and right, on the CPU.
        device: where the result goes.
    """
    where = torch.stack([pixels.starts[indices], pixels.sizes[indices, 1], flipped], dim=1)
    table = to_device(torch.cat([boxes, where], dim=1), device)
    if resident is None:
        regions = stage_regions(pixels, indices, boxes, pin=device.type == "cuda")
        regions = regions.to(device, non_blocking=True)
    else:
        height, width = boxes[:, 2:].amax(dim=0).tolist()
        regions = gather_regions(resident, table, pixels.channels, height, width)
    at_origin = torch.cat([torch.zeros_like(table[:, :2]), table[:, 2:4]], dim=1)
    return resize_crops(regions.permute(0, 3, 1, 2), at_origin, size, table[:, 6].bool())


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor from the CPU without waiting for the device's queue."""
    # A copy is queued only from page-locked memory, which torch keeps until the copy is done.
    source = tensor.pin_memory() if device.type == "cuda" else tensor
    return source.to(device, non_blocking=True)


def resize_crop(image: Tensor, box: Sequence[int], size: int) -> Tensor:
    """Crop one image to a box and resize it, rounding to whole levels as Pillow does.

    Args:
        image: (H, W, C) uint8 on the CPU.
        box: top, left, height, width in pixels.
        size: side of the square output in pixels.

    Returns:
        (size, size, C) uint8.
    """
    top, left, height, width = box
    region = image[None, top : top + height, left : left + width].permute(0, 3, 1, 2)
    resized = interpolate(region, (size, size), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0)


def stage_regions(pixels: Pixels, indices: Tensor, boxes: Tensor, *, pin: bool) -> Tensor:
    """Copy the boxes' regions of mapped images into one block.

    Args:
        pixels: decoded images.
        indices: (B,) positions.
        boxes: (B, 4) top, left, height, width in pixels.
        pin: whether the block is page-locked, to be sent to a GPU.

    Returns:
        (B, height, width, C) uint8, of the largest height and width. Every region lies at the top
        left of its place; the values beside it are arbitrary.
    """
    height, width = boxes[:, 2:].amax(dim=0).tolist()
    shape = (len(indices), height, width, pixels.channels)
    regions = torch.empty(shape, dtype=torch.uint8, pin_memory=pin)
    for region, index, (top, left, h, w) in zip(
        regions, indices.tolist(), boxes.tolist(), strict=True
    ):
        region[:h, :w] = pixels.image(index)[top : top + h, left : left + w]
    return regions


def gather_regions(flat: Tensor, table: Tensor, channels: int, height: int, width: int) -> Tensor:
    """Copy the boxes' regions of images whose bytes a device holds.

    Args:
        flat: all bytes of the cache.
        table: (B, 6 or more) int64 on its device: box, first byte and width of every image.
        channels: 1 or 3.
        height: of the result in pixels, at least that of every box.
        width: of the result in pixels, at least that of every box.

    Returns:
        (B, height, width, C) uint8, as `stage_regions` returns them.
    """
    top, left, _, _, start, image_width = table[:, :6, None, None].unbind(dim=1)
    rows = torch.arange(height, device=flat.device)[:, None]
    columns = torch.arange(width, device=flat.device)
    pixel = start // channels + (top + rows) * image_width + left + columns
    grouped = flat.view(-1, channels)
    return grouped[pixel.clamp_(max=len(grouped) - 1)]  # beside a box any pixel will do


def resize_crops(images: Tensor, boxes: Tensor, size: int, flipped: Tensor) -> Tensor:
    """Crop all images of a batch at once and resize them, as Pillow's bilinear filter does.

    Pillow widens its triangle filter when it shrinks an image. Filtering is linear along each
    side, so it is one small matrix per side and image. Pillow rounds to whole grey levels after
    each side and this does not: the results differ by at most 1.5 levels of 255.

    Args:
        images: (B, C, H, W) uint8 or float, any device.
        boxes: (B, 4) top, left, height, width in pixels.
        size: side of the square output in pixels.
        flipped: (B,) bool, whether to mirror left and right.

    Returns:
        (B, C, size, size) float32 on the images' device, in the images' grey levels.
    """
    boxes, flipped = boxes.to(images.device), flipped.to(images.device)
    top, left, height, width = boxes.unbind(dim=1)
    rows = _resize_matrices(top, height, images.shape[2], size)
    columns = _resize_matrices(left, width, images.shape[3], size)
    columns = torch.where(flipped[:, None, None], columns.flip(1), columns)
    # A training may have set tf32 for its trunk, which would move crops by parts of a grey level.
    with float32_products("float32"):
        return rows[:, None] @ (images.float() @ columns[:, None].transpose(-1, -2))


def _resize_matrices(start: Tensor, length: Tensor, full: int, size: int) -> Tensor:
    """Return (B, size, full) weights of every input pixel in every output pixel."""
    start, length = start[:, None, None].float(), length[:, None, None].float()
    step = length / size  # input pixels per output pixel
    support = step.clamp(min=1.0)
    centre = (torch.arange(size, device=start.device)[:, None] + 0.5) * step
    position = torch.arange(full, device=start.device) - start + 0.5
    weights = (1 - (position - centre).abs() / support).clamp(min=0)
    weights = weights * ((position > 0) & (position < length))
    return weights / weights.sum(dim=2, keepdim=True)


def normalise_pixels(images: Tensor, spec: InputSpec) -> Tensor:
    """Turn grey levels 0 to 255 into what a trunk expects.

    Args:
        images: (B, C, H, W) uint8 or float, RGB or one channel.
        spec: the trunk's; one channel is repeated where the trunk expects three.

    Returns:
        (B, len(spec.mean), H, W) float, channels last in memory.
    """
    images = images.expand(-1, len(spec.mean), -1, -1)
    if spec.channel_order == "BGR":
        images = images.flip(1)
    levels = images.permute(0, 2, 3, 1).to(
        torch.float32, copy=True, memory_format=torch.contiguous_format
    )
    mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
    scale, offset = to_device(
        torch.stack([spec.value_range / 255 / std, mean / std]), levels.device
    )
    # Scale a row of pixels at a time, as broadcasting three numbers over channels is not
    # vectorised.
    width = images.shape[3]
    levels.flatten(2).mul_(scale.repeat(width)).sub_(offset.repeat(width))
    return levels.permute(0, 3, 1, 2)
