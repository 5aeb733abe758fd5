"""What images look like: their size and their colours, of a sample that can be read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.pictures import (
    Make,
    make_blue_drawing,
    make_drawing,
    make_grey_photograph,
    make_photograph,
    write_pictures,
)
from wpm.data.appearance import Appearance, sample_appearance
from wpm.data.class_folders import index_class_folders


def look_at(root: Path) -> Appearance:
    return sample_appearance(index_class_folders("folder", root, channels=3))


@pytest.mark.parametrize("ending", ["png", "jpg"])
@pytest.mark.parametrize("make", [make_drawing, make_grey_photograph])
def test_grey_levels_spread_along_one_line(make: Make, ending: str, tmp_path: Path) -> None:
    seen = look_at(write_pictures(tmp_path, [make], 80, ending=ending))
    assert (seen.sampled, seen.shorter_side) == (32, 80)
    assert seen.colour_spread == pytest.approx(0, abs=1e-6)


def test_one_colour_spreads_little_even_as_jpeg_and_photographs_spread_far(tmp_path: Path) -> None:
    drawings = {
        ending: look_at(write_pictures(tmp_path / ending, [make_blue_drawing], 96, ending=ending))
        for ending in ("png", "jpg")
    }
    assert drawings["png"].colour_spread < 0.5
    assert drawings["jpg"].colour_spread < 4
    assert look_at(write_pictures(tmp_path / "p", [make_photograph], 96)).colour_spread > 8


def test_spread_is_that_of_the_second_principal_axis(tmp_path: Path) -> None:
    """Red varies by 100 levels, green by 20, independently; blue is constant."""
    pixels = np.zeros((12, 12, 3), np.uint8)
    pixels[:, ::2, 0], pixels[::2, :, 1] = 200, 40
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "1.png")
    seen = look_at(tmp_path)
    assert seen.sampled == 2
    # np.cov divides by one less than the 144 pixels.
    assert seen.colour_spread == pytest.approx(20 * np.sqrt(144 / 143))


def test_side_is_the_median_of_the_shorter_sides(tmp_path: Path) -> None:
    for number, size in enumerate([(30, 90), (70, 50), (200, 100)]):
        (tmp_path / f"{number}").mkdir()
        Image.new("RGB", size).save(tmp_path / f"{number}" / "1.png")
    assert look_at(tmp_path) == Appearance(3, 50.0, 0.0)


def test_unreadable_images_are_skipped(tmp_path: Path) -> None:
    root = write_pictures(tmp_path, [make_photograph], 64)
    for path in sorted(root.glob("*/0.jpg")):
        path.write_bytes(b"not an image")
    seen = look_at(root)
    assert 0 < seen.sampled < 32
    assert seen.shorter_side == 64
    for path in root.glob("*/*.jpg"):
        path.write_bytes(b"")
    assert look_at(root) == Appearance(0, 0.0, 0.0)


def test_sample_is_the_same_every_time_and_spread_over_the_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_pictures(tmp_path, [make_photograph], 20, classes=40)
    opened: list[str] = []
    original = Image.open

    def note(path: Path) -> Image.Image:
        opened.append(path.parent.name)
        return original(path)

    monkeypatch.setattr(Image, "open", note)
    assert look_at(root) == look_at(root)
    assert opened[:32] == opened[32:]
    assert len(set(opened)) == 32
