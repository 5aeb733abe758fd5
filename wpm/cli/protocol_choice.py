"""Choose the protocol of a launch: the one that is named, or the one that suits the images."""

from dataclasses import dataclass

import torch

from wpm.cli.console import Console
from wpm.cli.options import LaunchOptions
from wpm.data.appearance import Appearance, sample_appearance
from wpm.data.datasets import load_index
from wpm.data.halves import divide_images
from wpm.data.index import DataSource
from wpm.errors import UserError
from wpm.protocols import Protocol
from wpm.records import StudyPlace
from wpm.rows import Row

FROM_SCRATCH, PHOTOGRAPHS, PHOTOGRAPHS_ON_GPU = "small", "photos", "photos_gpu"
# Pretrained trunks were trained on images of 96 px and more; enlarging images of less than half of
# that adds no detail.
MIN_SIDE = 48
# Colour spread of the median image. It is 12 to 14 for birds, cars and Tiny ImageNet (at least 8.4
# in a thousand samples of 32), and at most 3.9 for drawings of 64 px in one colour on another, as
# JPEG of quality 50; larger drawings spread less.
MIN_SPREAD = 6.0


@dataclass(frozen=True)
class ProtocolChoice:
    """A protocol and the reason for it, which completes the sentence "because ..."."""

    name: str
    reason: str


def choose_protocol(options: LaunchOptions, source: DataSource, console: Console) -> Protocol:
    """Return the protocol that the flags name; else print and return the one for the images.

    Raises:
        UserError: the images cannot be listed, or a change does not fit the protocol.
    """
    if options.named_protocol is not None:
        return options.find_protocol(options.named_protocol)
    index = load_index(source, fetch=options.fetch)
    folds = options.find_folds(PHOTOGRAPHS)
    # No image of a test class may be opened before the final runs.
    trainval = divide_images(index, source, folds).trainval
    choice = choose_for(sample_appearance(trainval), on_gpu=_has_gpu(options))
    protocol = options.find_protocol(choice.name)
    console.line(f"protocol {protocol.name}, because {choice.reason}; --protocol sets another")
    hint = _find_earlier(options, protocol)
    if hint:
        console.line(hint)
    return protocol


def choose_for(appearance: Appearance, *, on_gpu: bool) -> ProtocolChoice:
    """Return the protocol for images of some appearance."""
    of_them = f"of {appearance.sampled} images"
    if not appearance.sampled:
        return ProtocolChoice(FROM_SCRATCH, "no image of the sample could be read")
    if appearance.shorter_side < MIN_SIDE:
        reason = (
            f"the images are small: the median {of_them} has {appearance.shorter_side:g} px on its "
            f"shorter side, and photographs should have {MIN_SIDE}"
        )
        return ProtocolChoice(FROM_SCRATCH, reason)
    if appearance.colour_spread < MIN_SPREAD:
        reason = f"the images are greyscale or drawn in one colour, as the median {of_them} is"
        return ProtocolChoice(FROM_SCRATCH, reason)
    reason = (
        f"the images are in colour and large enough: the median {of_them} has "
        f"{appearance.shorter_side:g} px on its shorter side; trials get "
        f"{'a' if on_gpu else 'no'} GPU"
    )
    return ProtocolChoice(PHOTOGRAPHS_ON_GPU if on_gpu else PHOTOGRAPHS, reason)


def _has_gpu(options: LaunchOptions) -> bool:
    """Whether trials get a GPU, as far as is known before a cluster is asked."""
    if options.gpus is not None:
        return options.gpus > 0
    return options.measures_gpus or torch.cuda.is_available()


def _find_earlier(options: LaunchOptions, protocol: Protocol) -> str:
    """Say where rows were searched that a version before `photos` put under another protocol."""
    try:
        earlier = options.find_protocol(FROM_SCRATCH).name
    except UserError:  # the changes do not fit it, so there are no such studies
        return ""
    rows = [
        row
        for row in options.table_rows
        if _has_study(options, earlier, row) and not _has_study(options, protocol.name, row)
    ]
    if not rows:
        return ""
    folder = options.run_root / options.dataset / earlier
    return (
        f"{folder} has studies of {', '.join(rows)}; if they are of these images, --protocol "
        f"{FROM_SCRATCH} continues them"
    )


def _has_study(options: LaunchOptions, protocol: str, row: str) -> bool:
    place = StudyPlace(options.run_root, options.dataset, protocol, Row.parse(row))
    return (place.folder / "study.json").exists()
