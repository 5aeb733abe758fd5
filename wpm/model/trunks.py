"""The trunks by name, and where their weights come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.data.archives import Archive
from wpm.errors import UserError
from wpm.model.bninception import (
    WEIGHTS_SHA256_PREFIX,
    WEIGHTS_URL,
    BNInception,
    load_bninception_weights,
)
from wpm.model.convnet import ConvNet
from wpm.model.library_trunks import (
    build_timm,
    build_torchvision,
    load_library_weights,
    timm_page,
    timm_weights,
    torchvision_weights,
)
from wpm.model.trunk import Trunk

_BNINCEPTION_WEIGHTS = Archive(WEIGHTS_URL, f"sha256:{WEIGHTS_SHA256_PREFIX}")


@dataclass(frozen=True)
class _Kind:
    """A trunk, or a library of trunks.

    Attributes:
        build: from its name and the number of image channels.
        load: reads a weights file into it; None for trunks that are trained from scratch.
        weights: from its name to where its weights can be fetched, None where they cannot.
        page: from its name to where they can be had by hand then, "" if unknown.
    """

    build: Callable[[str, int], Trunk]
    load: Callable[[Any, Path], None] | None = None
    weights: Callable[[str], Archive | None] = lambda name: None
    page: Callable[[str], str] = lambda name: ""


# A trunk is an entry here; a library's trunks are named LIBRARY:NAME. BN-Inception and they have
# three channels always: the batch repeats the one of greyscale images.
_TRUNKS = {
    "convnet": _Kind(lambda _, channels: ConvNet(channels)),
    "bninception": _Kind(
        lambda *_: BNInception(), load_bninception_weights, lambda _: _BNINCEPTION_WEIGHTS
    ),
    "torchvision:": _Kind(build_torchvision, load_library_weights, torchvision_weights),
    "timm:": _Kind(build_timm, load_library_weights, timm_weights, timm_page),
}
RANDOM_WEIGHTS = "random"  # in place of a file: for trying things out


def find_kind(trunk: str) -> _Kind:
    """Return the entry of a trunk, or of the library that it is named after.

    Raises:
        UserError: unknown trunk; the message lists the choices.
    """
    library, colon, _ = trunk.partition(":")
    if library + colon not in _TRUNKS:
        choices = ", ".join(name + "NAME" * name.endswith(":") for name in _TRUNKS)
        raise UserError(f"unknown trunk {trunk!r}; choose from {choices}")
    return _TRUNKS[library + colon]


def needs_weights(trunk: str) -> bool:
    """Whether a trunk starts from weights in a file.

    Raises:
        UserError: unknown trunk.
    """
    return find_kind(trunk).load is not None


def find_weights(trunk: str) -> Archive | None:
    """Return where a trunk's weights can be fetched; None where they have to be given.

    Raises:
        UserError: unknown trunk.
    """
    return find_kind(trunk).weights(trunk)


def find_weights_page(trunk: str) -> str:
    """Return the address of a page that has a trunk's weights, where `find_weights` has no file.

    Raises:
        UserError: unknown trunk.
    """
    return find_kind(trunk).page(trunk)
