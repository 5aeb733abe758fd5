"""The right way from an image to the trunk, and the wrong ones: each is what its name says."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.support.pipeline_images import draw_images, pipeline_protocol, write_images
from tests.support.tiny import trainval_pixels
from wpm.data.pixels import Pixels
from wpm.jobs.pipeline_readings import Reading, Suspect, right_reading, wrong_readings
from wpm.model.bninception import BNInception
from wpm.protocol_files import find_protocol

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    root = tmp_path_factory.mktemp("readings")
    write_images(root / "images", draw_images())
    return Pixels(trainval_pixels(root / "images", root / "work", pipeline_protocol()))


def published_readings() -> list[Reading]:
    right = right_reading(find_protocol("mlrc", "cub200"), BNInception.input_spec, "bn.pth")
    return [right, *wrong_readings(right, BNInception.native_size)]


def test_mistakes_of_the_published_pipeline_are_these() -> None:
    right, *wrong = published_readings()
    assert (right.suspect, right.protocol.resize, right.protocol.crop) == (None, 256, 227)
    assert [(r.suspect, r.name) for r in wrong] == [
        (Suspect.COLOURS, "colours in the order RGB in place of BGR"),
        (Suspect.COLOURS, "colours and their means in the order RGB in place of BGR"),
        (Suspect.NORMALISATION, "means subtracted from the wrong colours"),
        (Suspect.NORMALISATION, "no mean subtracted"),
        (Suspect.NORMALISATION, "torchvision's normalisation"),
        (Suspect.CROP, "no centre crop: entire images squeezed into 227 px"),
        (Suspect.CROP, "crops of 224 px in place of 227"),
        (Suspect.RESIZE, "a shorter side of 227 px in place of 256"),
        (Suspect.RESIZE, "images squeezed into 256 x 256 px before the crop"),
        (Suspect.WEIGHTS, "random weights"),
    ]


def test_every_part_that_is_suspected_says_where_to_look() -> None:
    root = Path(__file__).resolve().parents[2]
    for suspect in Suspect:
        files = [word.strip(",") for word in suspect.where.split() if "/" in word]
        assert files, suspect
        assert all((root / file).is_file() for file in files), suspect


def read(reading: Reading, pixels: Pixels) -> torch.Tensor:
    return reading.make_batches(pixels, CPU).evaluation_batch(torch.arange(5))[0]


def small_reading(name: str, pixels: Pixels) -> tuple[Reading, Reading]:
    """Return the right reading for the tiny images, and the wrong one of a name."""
    spec = dataclasses.replace(BNInception.input_spec)
    right = right_reading(pipeline_protocol(), spec, "random")
    (wrong,) = [r for r in wrong_readings(right, 20) if name in r.name]
    return right, wrong


def test_colours_are_swapped_with_or_without_their_means(pixels: Pixels) -> None:
    right, swapped = small_reading("colours in the order", pixels)
    _, both = small_reading("colours and their means", pixels)
    _, means = small_reading("means subtracted from the wrong", pixels)
    mean = torch.tensor(right.spec.mean)[:, None, None]
    levels = read(right, pixels) + mean
    torch.testing.assert_close(read(swapped, pixels), levels.flip(1) - mean)
    torch.testing.assert_close(read(both, pixels), (levels - mean).flip(1))
    torch.testing.assert_close(read(means, pixels), levels - mean.flip(0))


def test_means_are_left_out_or_torchvisions(pixels: Pixels) -> None:
    right, without = small_reading("no mean", pixels)
    _, library = small_reading("torchvision", pixels)
    levels = read(right, pixels) + torch.tensor(right.spec.mean)[:, None, None]
    torch.testing.assert_close(read(without, pixels), levels)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = (levels.flip(1) / 255 - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(read(library, pixels), expected.flip(1), atol=1e-5, rtol=0)


def test_entire_images_are_squeezed_as_pillow_does(pixels: Pixels) -> None:
    right, squeezed = small_reading("no centre crop", pixels)
    _, first = small_reading("before the crop", pixels)
    mean = torch.tensor(right.spec.mean)[:, None, None]
    for position in range(5):
        image = Image.fromarray(pixels.image(position).numpy())
        whole = image.resize((24, 24), Image.Resampling.BILINEAR)
        found = (read(squeezed, pixels)[position] + mean).flip(0).permute(1, 2, 0).numpy()
        assert np.abs(found - np.asarray(whole)).max() <= 1
        found = (read(first, pixels)[position] + mean).flip(0).permute(1, 2, 0).numpy()
        height, width = (round(side * 24 / 27) for side in (image.height, image.width))
        top, left = (image.height - height) // 2, (image.width - width) // 2
        cut = image.crop((left, top, left + width, top + height))
        assert (
            np.abs(found - np.asarray(cut.resize((24, 24), Image.Resampling.BILINEAR))).max() <= 1
        )


def test_sizes_differ_in_the_protocol_alone(pixels: Pixels) -> None:
    right, crop = small_reading("crops of 20 px", pixels)
    _, side = small_reading("shorter side of 24", pixels)
    assert read(crop, pixels).shape == (5, 3, 20, 20)
    assert (crop.protocol.resize, side.protocol.resize, side.protocol.crop) == (27, 24, 24)
    assert (crop.spec, side.spec) == (right.spec, right.spec)
