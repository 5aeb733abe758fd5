"""An image file is read, or refused with a reason; images in which little can be seen are found."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wpm.data.image_file import (
    ImageFinding,
    UndecodableError,
    cached_size,
    decode_image,
    describe_findings,
    name_decoder_errors,
    read_image,
)


def gradient(low: int, high: int) -> NDArray[np.uint8]:
    return np.linspace(low, high, 400).reshape(20, 20).astype(np.uint8)


def strokes() -> NDArray[np.uint8]:
    """Return an opacity with some thin strokes."""
    opacity = np.zeros((20, 20), dtype=np.uint8)
    opacity[::6, 2:18] = 255
    return opacity


def with_opacity(level: int, opacity: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.dstack([np.full((20, 20, 3), level, dtype=np.uint8), opacity])


def with_a_speck() -> NDArray[np.uint8]:
    blank = np.full((20, 20), 250, dtype=np.uint8)
    blank[3, 4] = 240
    return blank


# Findings


@pytest.mark.parametrize(
    ("picture", "finding"),
    [
        (gradient(0, 255), None),
        (gradient(0, 40), None),  # dark, but it can be seen
        (np.zeros((20, 20), np.uint8), ImageFinding.FLAT),
        (np.full((20, 20, 3), (200, 10, 10), np.uint8), ImageFinding.FLAT),
        (gradient(100, 115), ImageFinding.NEARLY_FLAT),
        (with_a_speck(), ImageFinding.NEARLY_FLAT),
        (np.dstack([gradient(0, 1)] * 3), ImageFinding.NEARLY_FLAT),  # a mask of 0 and 1
        (255 - strokes() // 2, None),
        (gradient(0, 255).astype(np.uint16) * 257, None),
        (gradient(0, 255).astype(np.uint16) * 16, ImageFinding.FEW_BITS),  # 12 of 16 bits
        (gradient(0, 255).astype(np.uint16) * 4, ImageFinding.FEW_BITS),
        (gradient(0, 255).astype(np.uint16) * 64, ImageFinding.FEW_BITS),
        (gradient(0, 255).astype(np.uint16) * 128, None),
        (np.zeros((20, 20), np.uint16), ImageFinding.FLAT),
        (with_opacity(255, strokes()), ImageFinding.LOST_ON_WHITE),
        (with_opacity(245, strokes()), ImageFinding.LOST_ON_WHITE),
        (with_opacity(0, strokes()), None),
        (with_opacity(128, strokes()), None),
        (with_opacity(255, np.full((20, 20), 255, np.uint8)), ImageFinding.FLAT),
        (with_opacity(0, np.zeros((20, 20), np.uint8)), ImageFinding.FLAT),
    ],
)
def test_images_in_which_little_can_be_seen_are_found(
    tmp_path: Path, picture: NDArray[Any], finding: ImageFinding | None
) -> None:
    Image.fromarray(picture).save(tmp_path / "x.png")
    for channels in (1, 3):
        assert read_image(tmp_path / "x.png", channels, 20).finding == finding


def test_bits_that_a_file_states_are_not_missing(tmp_path: Path) -> None:
    levels = gradient(0, 255).astype(np.uint16) * 16
    Image.fromarray(levels).save(tmp_path / "x.tif", tiffinfo={281: 4095})
    assert read_image(tmp_path / "x.tif", 1, 20).finding is None


def test_findings_are_counted_and_the_first_are_named() -> None:
    findings = [(f"a/{n}.png", ImageFinding.FLAT) for n in range(4)]
    findings.insert(2, ("b/0.png", ImageFinding.FEW_BITS))
    assert describe_findings(findings) == (
        "4 show one colour everywhere: a/0.png, a/1.png, a/2.png, ...; "
        "1 are dark because they use few of their 16 bits: b/0.png"
    )


# Errors


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (IndexError("index out of range"), "IndexError: index out of range"),
        (TypeError(), "TypeError"),
        (MemoryError(), "MemoryError"),
        (OSError("image file is truncated\nmore"), "image file is truncated"),
        (SyntaxError("broken PNG file"), "broken PNG file"),
        (Image.DecompressionBombError("too large"), "too large"),
    ],
)
def test_whatever_a_decoder_raises_has_a_reason_in_one_line(error: Exception, reason: str) -> None:
    with pytest.raises(UndecodableError) as caught, name_decoder_errors():
        raise error
    assert str(caught.value) == reason
    assert caught.value.__cause__ is error


def test_interruption_is_not_taken_for_a_damaged_file() -> None:
    with pytest.raises(KeyboardInterrupt), name_decoder_errors():
        raise KeyboardInterrupt


def test_image_that_would_fill_the_memory_once_resized_is_refused(tmp_path: Path) -> None:
    Image.new("1", (1, 60000)).save(tmp_path / "x.png")
    assert cached_size(tmp_path / "x.png", 256) == (0, 0)
    with pytest.raises(UndecodableError, match=r"1 x 60000 px is too long .* 256 x 15360000 px"):
        decode_image(tmp_path / "x.png", 3, 256)


@pytest.mark.parametrize("mode", ["LA", "La", "PA", "RGBA", "RGBa"])
def test_every_kind_of_transparency_goes_on_white(mode: str) -> None:
    transparent = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    if mode in ("LA", "La"):
        transparent = transparent.convert("LA")
    image = transparent if mode in ("LA", "RGBA") else transparent.convert(mode)
    assert decode_image(image, 3, 4).min() == 255
