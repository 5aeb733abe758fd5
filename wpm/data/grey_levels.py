"""Bring grey levels of other kinds than 8 bits unsigned to 0 (black) to 255 (white).

Pillow hands out what a file stores and leaves to the reader which level is black and which is
white. A file that states it is scaled by what it states; one that does not is refused, because any
guess would be wrong for somebody, and an image that is read black is hard to notice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# Numbers of TIFF's tags; names in the comments, as the specification has them.
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
_MAX_SAMPLE_VALUE, _S_MIN, _S_MAX = 281, 340, 341  # MaxSampleValue, SMin- and SMaxSampleValue
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # values of SampleFormat
_WHITE_IS_ZERO = 0  # a value of PhotometricInterpretation
_SIXTEEN_BITS = 65535.0
# Formats of which Pillow's 16-bit greys fill their 16 bits; None is an image made in memory.
_FULL_RANGE = (None, "PNG", "PPM", "JPEG2000")
_HALF_A_LEVEL = 0.5 / 255


@dataclass(frozen=True)
class LevelRange:
    """What black and white are in an image.

    Attributes:
        low: the level of black, or of white where `white_is_low`.
        high: the level at the other end.
        white_is_low: whether the lowest level is white.
    """

    low: float
    high: float
    white_is_low: bool = False


PLAIN = LevelRange(0.0, _SIXTEEN_BITS)  # how greys of 16 bits have always been read


def find_levels(image: Image.Image) -> LevelRange | None:
    """Return what an image's levels mean, from its header; None where Pillow's 8 bits are right.

    Raises:
        ValueError: the header does not say it.
    """
    tags: Mapping[int, Any] | None = getattr(image, "tag_v2", None)
    sample_format = _number(tags, _SAMPLE_FORMAT, _UNSIGNED)
    if (
        image.mode != "F"
        and not image.mode.startswith("I")
        and not (image.mode == "L" and sample_format == _SIGNED)
    ):
        return None
    if tags is not None:
        return _find_levels_of_tiff(tags, sample_format)
    if image.mode == "F":
        return LevelRange(0.0, 1.0)
    if image.mode == "I" and image.format in ("PPM", "PNG"):  # Pillow scales the first to 16 bits
        return PLAIN
    if image.mode != "I" and image.format in _FULL_RANGE:
        return PLAIN
    raise ValueError(
        f"grey levels of kind {image.mode} do not say which level is black and which is white; "
        "save them as 8 or 16 bits unsigned"
    )


def _find_levels_of_tiff(tags: Mapping[int, Any], sample_format: float) -> LevelRange:
    bits = int(_number(tags, _BITS_PER_SAMPLE, 1))
    white_is_low = _number(tags, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO
    unsigned = sample_format == _UNSIGNED
    low, high = _number(tags, _S_MIN, 0.0 if unsigned else np.nan), _number(tags, _S_MAX, np.nan)
    if low < high:
        return LevelRange(low, high, white_is_low)
    if sample_format == _FLOAT:  # by convention, also of other programs
        return LevelRange(0.0, 1.0, white_is_low)
    if unsigned and bits <= 16:
        full = 2.0**bits - 1
        # Made for statistics, and often used to say how many bits a camera has.
        largest = _number(tags, _MAX_SAMPLE_VALUE, full)
        is_depth = 255 <= largest < full and (int(largest) & (int(largest) + 1)) == 0
        return LevelRange(0.0, largest if is_depth else full, white_is_low)
    raise ValueError(
        f"grey levels of {bits} bits {'unsigned' if unsigned else 'signed'} without the tags "
        "SMinSampleValue and SMaxSampleValue do not say which level is black and which is white; "
        "save them as 8 or 16 bits unsigned"
    )


def _number(tags: Mapping[int, Any] | None, tag: int, default: float) -> float:
    """Return a tag's number, the first where it has several; the default where it has none."""
    value = None if tags is None else tags.get(tag)
    if isinstance(value, tuple) and value:
        value = value[0]
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, ZeroDivisionError, OverflowError):  # missing, or not a number
        return default


def scale_levels(image: Image.Image, levels: LevelRange) -> Image.Image:
    """Return a greyscale image of 8 bits.

    Args:
        image: one for which `find_levels` returned a range.
        levels: that range.

    Raises:
        ValueError: a level is outside of the range, or is not a number.
    """
    values = _read_values(image)
    if levels.low == 0 and levels.high == _SIXTEEN_BITS and image.mode != "F":
        scaled = values.astype(np.int64).clip(0, 65535)
        scaled = ((65535 - scaled) if levels.white_is_low else scaled) // 257
    else:
        share = (values.astype(np.float64) - levels.low) / (levels.high - levels.low)
        if not (share.min() >= -_HALF_A_LEVEL and share.max() <= 1 + _HALF_A_LEVEL):
            raise ValueError(
                f"grey levels from {values.min():g} to {values.max():g} exceed the range of "
                f"{levels.low:g} to {levels.high:g}; scale them to it, or save them as 8 or 16 "
                "bits unsigned"
            )
        scaled = np.rint(255 * (1 - share if levels.white_is_low else share).clip(0, 1))
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):  # the one level that a PNG shows as nothing goes on white
        scaled[values == transparent] = 255
    return Image.fromarray(scaled.astype(np.uint8))


def _read_values(image: Image.Image) -> NDArray[Any]:
    """Return (height, width) levels as they are stored; Pillow hands some out as if signed."""
    values = np.asarray(image)
    tags: Mapping[int, Any] | None = getattr(image, "tag_v2", None)
    sample_format = _number(tags, _SAMPLE_FORMAT, _UNSIGNED)
    if image.mode == "L" and sample_format == _SIGNED:
        return values.view(np.int8)
    if image.mode == "I" and tags is not None and sample_format == _UNSIGNED:
        return values.view(np.uint32)
    return values


def count_used_bits(image: Image.Image) -> int:
    """Return how many bits the highest level of a greyscale image takes."""
    return int(_read_values(image).max()).bit_length()
