"""Ways in which an image file can become a trunk's input: the right one, and likely mistakes."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum, auto

import torch
from torch import Tensor

from wpm.data.batches import BatchMaker
from wpm.data.crops import InputSpec
from wpm.data.pixels import Pixels
from wpm.model.trunks import RANDOM_WEIGHTS
from wpm.protocols import Protocol

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # RGB, of 0 to 1
# The published sizes: the shorter side in relation to the crop.
_SHORTER_SIDE, _CROP = 256, 227


class Suspect(StrEnum):
    """A part of the pipeline that may be at fault."""

    COLOURS = "the order of the colours"
    NORMALISATION = "the normalisation of pixels"
    CROP = "the crop"
    RESIZE = "the resizing"
    WEIGHTS = "the weights"
    CLASSES = "the order of the classes, which decides on the test half"

    @property
    def where(self) -> str:
        """The files to look at."""
        return _WHERE[self]


_WHERE = {
    Suspect.COLOURS: "wpm/model/bninception.py, wpm/data/decoding.py, and the image files",
    Suspect.NORMALISATION: "wpm/model/bninception.py and normalise_pixels in wpm/data/crops.py",
    Suspect.CROP: "search_spaces/protocols/mlrc.toml and wpm/data/crop_boxes.py",
    Suspect.RESIZE: "search_spaces/protocols/mlrc.toml, wpm/data/decoding.py, and the image files",
    Suspect.WEIGHTS: "the weights file and wpm/model/bninception.py",
    Suspect.CLASSES: "the data set's own lists, wpm/data/published_listings.py and wpm/splits.py",
}


class Region(Enum):
    """What of an image the trunk sees."""

    CENTRE = auto()  # the central square
    EVERYTHING = auto()  # the entire image, squeezed into a square
    SQUEEZED_CENTRE = auto()  # the image is squeezed into a square first, then its centre is cut


@dataclass(frozen=True)
class Reading:
    """One way from an image file to the trunk's input.

    Attributes:
        name: for people, completes the sentence "the published figures are those of ...".
        suspect: what would be at fault in ours if the published figures are of this one; None for
            the right way.
        protocol: sets the shorter side and the crop.
        spec: how pixels are normalised.
        weights: file of the trunk's weights, or "random".
        region: what of an image the trunk sees.
    """

    name: str
    suspect: Suspect | None
    protocol: Protocol
    spec: InputSpec
    weights: str
    region: Region = Region.CENTRE

    def make_batches(self, pixels: Pixels, device: torch.device) -> BatchMaker:
        """Return what turns positions in a cache into the trunk's input."""
        kind = _BATCHES[self.region]
        return kind(pixels, self.protocol, self.spec, device)


class _EntireImages(BatchMaker):
    """Squeezes entire images into the square."""

    def evaluation_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        sizes = self._pixels.sizes[indices]
        return self._finish_unflipped(indices, torch.cat([torch.zeros_like(sizes), sizes], dim=1))


class _SqueezedCentres(BatchMaker):
    """Cuts the same share off both sides, as if images were squeezed into a square before."""

    def evaluation_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        sizes = self._pixels.sizes[indices]
        kept = (sizes * self._protocol.crop / self._protocol.resize).round().long()
        return self._finish_unflipped(indices, torch.cat([(sizes - kept) // 2, kept], dim=1))


_BATCHES: dict[Region, type[BatchMaker]] = {
    Region.CENTRE: BatchMaker,
    Region.EVERYTHING: _EntireImages,
    Region.SQUEEZED_CENTRE: _SqueezedCentres,
}


def right_reading(protocol: Protocol, spec: InputSpec, weights: str) -> Reading:
    """Return the way that the protocol and the trunk ask for."""
    return Reading("our pipeline", None, protocol, spec, weights)


def wrong_readings(right: Reading, native_size: int) -> Sequence[Reading]:
    """Return the likely mistakes, each a single change of the right way.

    Args:
        right: what is changed.
        native_size: side in pixels of the images that the weights were trained on.
    """
    different: list[Reading] = []
    for reading in _change(right, native_size):
        asked = {(r.protocol, r.spec, r.weights, r.region) for r in [right, *different]}
        # With one mean for all colours, for example, another order of means changes nothing.
        if (reading.protocol, reading.spec, reading.weights, reading.region) not in asked:
            different.append(reading)
    return different


def _change(right: Reading, native_size: int) -> Iterator[Reading]:
    spec, order = right.spec, right.spec.channel_order
    swapped = order[::-1]
    backwards = dataclasses.replace(spec, mean=spec.mean[::-1], std=spec.std[::-1])

    def with_spec(name: str, suspect: Suspect, spec: InputSpec) -> Reading:
        return dataclasses.replace(right, name=name, suspect=suspect, spec=spec)

    yield with_spec(
        f"colours in the order {swapped} in place of {order}",
        Suspect.COLOURS,
        dataclasses.replace(spec, channel_order=swapped),
    )
    yield with_spec(
        f"colours and their means in the order {swapped} in place of {order}",
        Suspect.COLOURS,
        dataclasses.replace(backwards, channel_order=swapped),
    )
    yield with_spec("means subtracted from the wrong colours", Suspect.NORMALISATION, backwards)
    yield with_spec(
        "no mean subtracted",
        Suspect.NORMALISATION,
        dataclasses.replace(spec, mean=(0.0,) * len(spec.mean)),
    )
    yield with_spec("torchvision's normalisation", Suspect.NORMALISATION, _torchvision_like(spec))
    yield from _change_sizes(right, native_size)
    yield dataclasses.replace(
        right, name="random weights", suspect=Suspect.WEIGHTS, weights=RANDOM_WEIGHTS
    )


def _torchvision_like(spec: InputSpec) -> InputSpec:
    step = -1 if spec.channel_order == "BGR" else 1
    channels = len(spec.mean)
    return InputSpec(
        spec.channel_order, 1.0, _IMAGENET_MEAN[::step][:channels], _IMAGENET_STD[::step][:channels]
    )


def _change_sizes(right: Reading, native_size: int) -> Iterator[Reading]:
    protocol = right.protocol
    resize, crop = protocol.resize, protocol.crop

    def with_sizes(name: str, suspect: Suspect, **sizes: int) -> Reading:
        changed = dataclasses.replace(protocol, **sizes)  # type: ignore[arg-type]
        return dataclasses.replace(right, name=name, suspect=suspect, protocol=changed)

    yield dataclasses.replace(
        right,
        name=f"no centre crop: entire images squeezed into {crop} px",
        suspect=Suspect.CROP,
        region=Region.EVERYTHING,
    )
    if native_size <= resize:
        yield with_sizes(
            f"crops of {native_size} px in place of {crop}", Suspect.CROP, crop=native_size
        )
    for other in (crop, round(crop * _SHORTER_SIDE / _CROP)):
        yield with_sizes(
            f"a shorter side of {other} px in place of {resize}", Suspect.RESIZE, resize=other
        )
    yield dataclasses.replace(
        right,
        name=f"images squeezed into {resize} x {resize} px before the crop",
        suspect=Suspect.RESIZE,
        region=Region.SQUEEZED_CENTRE,
    )
