"""Look at a sample of images: how large they are, and whether they are in colour."""

import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wpm.data.image_file import UndecodableError, decode_image, name_decoder_errors
from wpm.data.index import ImageIndex

_SAMPLE = 32  # images; decoding them takes a second or two
# Shorter side in pixels at which colours are judged. JPEG stores colour more coarsely than light,
# so that a thin line gets a fringe of other colours; at this size the fringe is averaged away.
_THUMBNAIL = 12


@dataclass(frozen=True)
class Appearance:
    """What a sample of images looks like.

    Attributes:
        sampled: how many images were looked at; 0 where none could be read.
        shorter_side: median of their shorter sides, in pixels.
        colour_spread: median of how far their colours spread beside the one line through RGB that
            fits them best, as a standard deviation in levels of 0 to 255. It is 0 for greyscale
            and for anything drawn with one colour on another.
    """

    sampled: int
    shorter_side: float
    colour_spread: float


def sample_appearance(index: ImageIndex) -> Appearance:
    """Look at images that are spread evenly over an index; those that cannot be read are skipped.

    Args:
        index: a search passes trainval images only.
    """
    count = len(index.paths)
    positions = np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).round().astype(int))
    sides, spreads = [], []
    for position in positions:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                path = index.root / index.paths[position]
                with name_decoder_errors(), Image.open(path) as image:
                    thumbnail = decode_image(image, 3, _THUMBNAIL)
                    side = min(image.size)
        except UndecodableError:
            continue  # decoding the cache will report it
        sides.append(side)
        spreads.append(_measure_spread(thumbnail))
    if not sides:
        return Appearance(0, 0.0, 0.0)
    return Appearance(len(sides), float(np.median(sides)), float(np.median(spreads)))


def _measure_spread(pixels: NDArray[np.uint8]) -> float:
    """Return the standard deviation of colours along their second principal axis.

    Args:
        pixels: (H, W, 3).
    """
    covariance = np.cov(pixels.reshape(-1, 3).astype(np.float64).T)
    second = np.linalg.eigvalsh(covariance)[1]
    return float(np.sqrt(max(second, 0.0)))
