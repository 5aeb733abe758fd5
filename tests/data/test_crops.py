"""Crops equal those of Pillow on every path, and are normalised as the trunk expects."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.support.image_trees import ImageTree
from tests.support.pillow import resize_by_pillow
from wpm.data import pixels as pixels_module
from wpm.data.class_folders import index_class_folders
from wpm.data.crops import (
    InputSpec,
    crop_at_once,
    crop_images,
    normalise_pixels,
    resize_crop,
    resize_crops,
)
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels

GREY_SPEC = InputSpec("RGB", 1.0, (0.5,), (0.25,))
CPU = torch.device("cpu")


def noise_images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


# Resizing


def random_boxes(batch: int, height: int, width: int, seed: int) -> Tensor:
    """Return random boxes inside the image, from single pixels to the complete image."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(batch):
        h, w = int(rng.integers(1, height + 1)), int(rng.integers(1, width + 1))
        top, left = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        rows.append((top, left, h, w))
    return torch.tensor(rows)


SHAPES = [(40, 40), (31, 57), (64, 9)]
SIZES = [1, 7, 24, 90]  # below, about and above the boxes' sides


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_bytes_are_resized_as_by_pillow_within_one_level(
    channels: int, size: int, height: int, width: int
) -> None:
    for number, box in enumerate(random_boxes(16, height, width, seed=size).tolist()):
        image = noise_images(channels, height, width, seed=number)
        found = resize_crop(image.permute(1, 2, 0).contiguous(), box, size)
        assert found.dtype == torch.uint8
        expected = resize_by_pillow(image, tuple(box), size, flipped=False)
        assert float((found.permute(2, 0, 1) - expected).abs().max()) <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("height", "width"), SHAPES)
def test_crops_equal_pillow_within_one_and_a_half_levels(
    channels: int, size: int, height: int, width: int
) -> None:
    images = noise_images(16, channels, height, width)
    boxes = random_boxes(16, height, width, seed=size)
    boxes[0] = torch.tensor([0, 0, height, width])
    flipped = torch.arange(16) % 3 == 0
    found = resize_crops(images, boxes, size, flipped)
    assert found.dtype == torch.float32
    assert found.shape == (16, channels, size, size)
    for image, box, flip, crop in zip(images, boxes.tolist(), flipped, found, strict=True):
        expected = resize_by_pillow(image, tuple(box), size, bool(flip))
        assert float((crop - expected).abs().max()) <= 1.5


def test_bytes_of_the_output_size_are_copied_exactly() -> None:
    image = noise_images(30, 40, 3)
    assert torch.equal(resize_crop(image, (3, 5, 24, 24), 24), image[3:27, 5:29])


def test_crop_of_the_output_size_is_copied_exactly() -> None:
    images = noise_images(2, 3, 30, 40)
    boxes = torch.tensor([[3, 5, 24, 24], [6, 16, 24, 24]])
    found = resize_crops(images, boxes, 24, torch.tensor([False, True]))
    assert torch.equal(found[0], images[0, :, 3:27, 5:29].float())
    assert torch.equal(found[1], images[1, :, 6:30, 16:40].flip(-1).float())


def test_crop_to_two_pixels_by_hand() -> None:
    # Halving 0 30 60 90: a filter of two pixels' reach weighs 3 3 1 about the first centre.
    image = torch.tensor([0, 30, 60, 90], dtype=torch.uint8).expand(1, 1, 4, 4)
    found = resize_crops(image, torch.tensor([[0, 0, 4, 4]]), 2, torch.tensor([False]))
    first = (3 * 0 + 3 * 30 + 1 * 60) / 7
    expected = torch.tensor([[first, 90 - first], [first, 90 - first]])
    assert torch.allclose(found[0, 0], expected, atol=1e-4)


def test_crops_see_nothing_outside_their_box() -> None:
    dark = torch.zeros((1, 1, 20, 20), dtype=torch.uint8)
    dark[:, :, 4:12, 6:15] = 100
    bright = dark.clone()
    bright[dark == 0] = 255
    boxes, still = torch.tensor([[4, 6, 8, 9]]), torch.tensor([False])
    for size in (3, 8, 30):
        found = resize_crops(dark, boxes, size, still)
        assert torch.equal(found, resize_crops(bright, boxes, size, still))
        assert torch.allclose(found, torch.tensor(100.0))
        assert bool((resize_crop(bright[0].permute(1, 2, 0), boxes[0].tolist(), size) == 100).all())


# Crops of a cache


@pytest.fixture(params=[1, 3])
def pixels(image_tree: ImageTree, tmp_path: Path, request: pytest.FixtureRequest) -> Pixels:
    """Images of four shapes, the last one at the end of the file."""
    shapes = [(20, 20), (20, 33), (41, 20), (20, 25)]
    rng = np.random.default_rng(0)
    root = image_tree(
        {
            f"a/{number}.png": rng.integers(0, 256, (*shape, 3)).astype(np.uint8)
            for number, shape in enumerate(shapes)
        }
    )
    index = index_class_folders("folder", root, request.param)
    return Pixels(build_pixel_cache(index, 20, tmp_path / "work"))


INDICES = torch.tensor([3, 1, 0, 2, 3, 1])
FLIPPED = torch.tensor([False, True, False, True, True, False])


def boxes_of(pixels: Pixels) -> Tensor:
    sizes = pixels.sizes[INDICES].tolist()
    boxes = [random_boxes(1, height, width, seed=n)[0] for n, (height, width) in enumerate(sizes)]
    boxes[0] = torch.tensor([3, 4, 17, 21])  # down to the cache's last byte
    return torch.stack(boxes)


def crops_by_pillow(pixels: Pixels, boxes: Tensor, size: int) -> Tensor:
    each = zip(INDICES.tolist(), boxes.tolist(), FLIPPED.tolist(), strict=True)
    return torch.stack(
        [
            resize_by_pillow(pixels.image(index).permute(2, 0, 1), tuple(box), size, flip)
            for index, box, flip in each
        ]
    )


@pytest.mark.parametrize("size", [5, 16, 30])
def test_crops_on_the_cpu_equal_pillow(pixels: Pixels, size: int) -> None:
    boxes = boxes_of(pixels)
    found = crop_images(pixels, INDICES, boxes, size, FLIPPED, CPU)
    assert found.dtype == torch.uint8
    assert float((found - crops_by_pillow(pixels, boxes, size)).abs().max()) <= 1


@pytest.mark.parametrize("size", [5, 16, 30])
@pytest.mark.parametrize("is_resident", [True, False])
def test_crops_of_a_batch_at_once_equal_pillow(
    pixels: Pixels, size: int, is_resident: bool
) -> None:
    boxes = boxes_of(pixels)
    resident = pixels.bytes if is_resident else None
    found = crop_at_once(pixels, resident, INDICES, boxes, size, FLIPPED, CPU)
    assert float((found - crops_by_pillow(pixels, boxes, size)).abs().max()) <= 1.5


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("share", [0.0, 0.25])
def test_crops_on_a_gpu_equal_pillow(
    pixels: Pixels, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pixels_module, "RESIDENT_SHARE", share)
    boxes, device = boxes_of(pixels), torch.device("cuda")
    found = crop_images(pixels, INDICES, boxes, 16, FLIPPED, device)
    assert (pixels.resident(device) is None) == (share == 0.0)
    assert float((found.cpu() - crops_by_pillow(pixels, boxes, 16)).abs().max()) <= 1.5


def test_crops_leave_the_cache_as_it_is(pixels: Pixels) -> None:
    before = pixels.bytes.clone()
    boxes = torch.tensor([[0, 0, 20, 20]] * 6)  # crops of the output size are not resized
    for device_way in (False, True):
        if device_way:
            found = crop_at_once(pixels, pixels.bytes, INDICES, boxes, 20, FLIPPED, CPU)
        else:
            found = crop_images(pixels, INDICES, boxes, 20, FLIPPED, CPU)
        found.zero_()
    assert torch.equal(pixels.bytes, before)


# Input of the trunk


def test_normalised_pixels_of_the_published_trunk_by_hand() -> None:
    spec = InputSpec("BGR", 255.0, (104.0, 117.0, 128.0), (1.0, 1.0, 1.0))
    image = torch.tensor([10.0, 20.0, 30.0])[None, :, None, None]  # red, green, blue
    found = normalise_pixels(image, spec)
    assert found.flatten().tolist() == pytest.approx([30 - 104, 20 - 117, 10 - 128])


def test_normalised_pixels_in_unit_range_by_hand() -> None:
    image = torch.tensor([0.0, 127.5, 255.0])[:, None, None, None]
    assert normalise_pixels(image, GREY_SPEC).flatten().tolist() == pytest.approx([-2, 0, 2])
    assert image.flatten().tolist() == [0.0, 127.5, 255.0]  # a copy was scaled


@pytest.mark.parametrize("order", ["RGB", "BGR"])
def test_bytes_and_floats_are_normalised_alike(order: str) -> None:
    spec = InputSpec(order, 1.0, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    levels = noise_images(2, 5, 7, 3).permute(0, 3, 1, 2)
    found = normalise_pixels(levels, spec)
    assert torch.equal(found, normalise_pixels(levels.float().contiguous(), spec))
    channel = levels[:, {"RGB": 1, "BGR": 1}[order]]
    assert torch.allclose(found[:, 1], (channel / 255 - 0.2) / 0.5, atol=1e-6)
    first = levels[:, {"RGB": 0, "BGR": 2}[order]]
    assert torch.allclose(found[:, 0], (first / 255 - 0.1) / 1.0, atol=1e-6)


def test_one_channel_is_repeated_where_the_trunk_wants_three() -> None:
    spec = InputSpec("RGB", 1.0, (0.1, 0.2, 0.3), (1.0, 0.5, 0.25))
    found = normalise_pixels(torch.full((2, 1, 4, 4), 255.0), spec)
    assert found.shape == (2, 3, 4, 4)
    assert found[1, :, 3, 3].tolist() == pytest.approx([0.9, 1.6, 2.8])
    assert found.is_contiguous(memory_format=torch.channels_last)
