"""Read one image file: decode it, bring it to 8 bits, turn and resize it, and look at the result.

Decoding processes import this, so it must not load torch.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageStat

from wpm.data.grey_levels import PLAIN, count_used_bits, find_levels, scale_levels
from wpm.data.orientation import find_turn, prepare_loading, upright_size
from wpm.formatting import name_first

# Pixels of a decoded image; the header of a damaged file may promise any number of them.
_MAX_PIXELS = 100_000_000
# Errors of Pillow that say what is wrong with a file; others need their name beside the message.
_TELLING = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)

# An image whose decoded levels span at most this many of 256, or spread by less than one as a
# standard deviation, is nearly flat.
_NARROW, _FAINT = 15, 1.0
# Transparent parts are put on white. Where the result spreads less than this share of what the
# transparency does, what was drawn is nearly white itself.
_LOST_SHARE = 0.1
_FEW_BITS = 14  # of 16; with these at most 64 of 256 levels are left


class ImageFinding(StrEnum):
    """What is odd about a decoded image; it can be read, but little or nothing can be seen."""

    FLAT = "flat"
    NEARLY_FLAT = "nearly flat"
    FEW_BITS = "few bits"
    LOST_ON_WHITE = "lost on white"


_TEXTS = {
    ImageFinding.FLAT: "show one colour everywhere",
    ImageFinding.NEARLY_FLAT: "show nearly one colour",
    ImageFinding.FEW_BITS: "are dark because they use few of their 16 bits",
    ImageFinding.LOST_ON_WHITE: "are transparent and nearly vanish on white",
}


def describe_findings(findings: Sequence[tuple[str, ImageFinding]]) -> str:
    """Count the images of each finding, and name the first of them."""
    paths: dict[ImageFinding, list[str]] = {}
    for path, finding in findings:
        paths.setdefault(finding, []).append(path)
    return "; ".join(
        f"{len(named)} {_TEXTS[finding]}: {name_first(named)}" for finding, named in paths.items()
    )


@dataclass(frozen=True)
class DecodedImage:
    """An image as it goes into the cache.

    Attributes:
        pixels: (height, width, C) uint8.
        finding: what is odd about it, if anything.
    """

    pixels: NDArray[np.uint8]
    finding: ImageFinding | None


@dataclass(frozen=True)
class _EightBit:
    """An image brought to 8 bits, and what only its source knows.

    Attributes:
        image: of 8 bits a channel, without transparency.
        used_bits: how many of its 16 bits the source used, where it had 16 and they are all meant.
        transparency: standard deviation of the source's opacity, in levels of 0 to 255.
    """

    image: Image.Image
    used_bits: int = 16
    transparency: float = 0.0


class UndecodableError(Exception):
    """An image file that cannot be decoded, whatever its decoder raised. The message says why."""


@contextmanager
def name_decoder_errors() -> Iterator[None]:
    """Raise whatever an image decoder raises as `UndecodableError`.

    Damaged and unusual files make decoders raise nearly anything: IndexError, TypeError,
    struct.error, MemoryError and more. Only the file is to blame for all of it.
    """
    try:
        yield
    except UndecodableError:
        raise
    except Exception as error:
        text = (str(error).splitlines() or [""])[0]
        if not isinstance(error, _TELLING) or not text:
            text = f"{type(error).__name__}: {text}".removesuffix(": ")
        raise UndecodableError(text) from error


def decode_image(
    path: Path | Image.Image, channels: int, resize: int, *, upright: bool = False
) -> NDArray[np.uint8]:
    """Return the pixels of `read_image`: (height, width, C) uint8."""
    return read_image(path, channels, resize, upright=upright).pixels


def read_image(
    path: Path | Image.Image, channels: int, resize: int, *, upright: bool = False
) -> DecodedImage:
    """Open an image, convert it and resize its shorter side.

    Args:
        path: the file, or an image that is open already and stays open.
        channels: 1 for greyscale, 3 for RGB.
        resize: length of the shorter side in pixels; the longer keeps the ratio, rounded down.
        upright: whether to turn the image as its metadata say.

    Raises:
        UndecodableError: the file cannot be read, or what it holds is not understood.
    """
    with name_decoder_errors():
        opened = nullcontext(path) if isinstance(path, Image.Image) else Image.open(path)
        with opened as image:
            prepare_loading(image)
            eight_bit = _to_eight_bit(image)
            converted = eight_bit.image.convert("L" if channels == 1 else "RGB")
            turn = find_turn(image) if upright else None
        if turn is not None:
            converted = converted.transpose(turn)
        size = _resized(*converted.size, resize)
        if size != converted.size:
            converted = converted.resize(size, Image.Resampling.BILINEAR)
        pixels = np.asarray(converted).reshape(size[1], size[0], channels)
        return DecodedImage(pixels, _examine(pixels, eight_bit))


def cached_size(path: Path, resize: int, *, upright: bool = False) -> tuple[int, int]:
    """Return the height and width of an image once decoded, from its header; 0, 0 if unreadable."""
    try:
        with name_decoder_errors(), Image.open(path) as image:
            width, height = _resized(*upright_size(image, turns=upright), resize)
    except UndecodableError:
        return 0, 0  # decoding it will fail too, and give the reason
    return height, width


def _resized(width: int, height: int, resize: int) -> tuple[int, int]:
    short = min(width, height)
    size = int(resize * width / short), int(resize * height / short)
    if size[0] * size[1] > _MAX_PIXELS:
        raise ValueError(
            f"{width} x {height} px is too long and narrow: with a shorter side of {resize} px it "
            f"would be {size[0]} x {size[1]} px"
        )
    return size


def _to_eight_bit(image: Image.Image) -> _EightBit:
    """Prepare those kinds of image that Pillow's own conversion clips or warns about."""
    levels = find_levels(image)
    if levels is not None:
        image.load()  # before its levels are looked at, because Pillow turns TIFF files on loading
        scaled = scale_levels(image, levels)
        return _EightBit(scaled, count_used_bits(image) if levels.high == PLAIN.high else 16)
    if image.has_transparency_data:
        # Put transparent images on white: converting them directly would show the colour hidden
        # under transparent pixels.
        layers = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        ground = Image.new("RGBA", layers.size, "white")
        transparency = ImageStat.Stat(layers.getchannel("A")).stddev[0]
        return _EightBit(Image.alpha_composite(ground, layers), transparency=transparency)
    return _EightBit(image)


def _examine(pixels: NDArray[np.uint8], source: _EightBit) -> ImageFinding | None:
    """Say what is odd about an image, if anything: what most explains that little can be seen."""
    channels = [pixels[..., channel] for channel in range(pixels.shape[2])]
    span = max(int(channel.max()) - int(channel.min()) for channel in channels)
    spread = max(float(channel.std()) for channel in channels)
    if source.transparency > _NARROW and spread < _LOST_SHARE * source.transparency:
        return ImageFinding.LOST_ON_WHITE
    if 0 < source.used_bits <= _FEW_BITS:
        return ImageFinding.FEW_BITS
    if span == 0:
        return ImageFinding.FLAT
    if span <= _NARROW or spread < _FAINT:
        return ImageFinding.NEARLY_FLAT
    return None
