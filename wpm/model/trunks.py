"""The list of trunks.

To add one: a file with a `Trunk` and its `TrunkSource`, and an entry here.
"""

from wpm.data.archives import Archive
from wpm.data.hub import HubFile
from wpm.errors import UserError
from wpm.model.bninception import BNInceptionSource
from wpm.model.convnet import ConvNetSource
from wpm.model.mobilenet import MobileNetSource
from wpm.model.mobilenet_variants import MOBILENETS
from wpm.model.timm_trunks import TimmSource
from wpm.model.torchvision_trunks import TorchvisionSource
from wpm.model.trunk import TrunkSource

# A name that ends in a colon stands for a library: its trunks are named LIBRARY:NAME.
TRUNKS: dict[str, TrunkSource] = {
    "convnet": ConvNetSource(),
    "bninception": BNInceptionSource(),
    **dict.fromkeys(MOBILENETS, MobileNetSource()),
    "torchvision:": TorchvisionSource(),
    "timm:": TimmSource(),
}
RANDOM_WEIGHTS = "random"  # in place of a file: for trying things out


def find_source(trunk: str) -> TrunkSource:
    """Return the entry of a trunk, or of the library that it is named after.

    Raises:
        UserError: unknown trunk; the message lists the choices.
    """
    library, colon, _ = trunk.partition(":")
    if library + colon not in TRUNKS:
        choices = ", ".join(f"{name}NAME" if name.endswith(":") else name for name in TRUNKS)
        raise UserError(f"unknown trunk {trunk!r}; choose from {choices}")
    source = TRUNKS[library + colon]
    source.check_name(trunk)
    return source


def needs_weights(trunk: str) -> bool:
    """Whether a trunk starts from weights in a file.

    Raises:
        UserError: unknown trunk.
    """
    return find_source(trunk).needs_weights


def find_weights(trunk: str) -> Archive | HubFile | None:
    """Return the weights file to download for a trunk; None where the user has to supply it.

    Raises:
        UserError: unknown trunk.
    """
    return find_source(trunk).find_weights(trunk)


def find_weights_page(trunk: str) -> str:
    """Return a page that offers a trunk's weights, for when `find_weights` knows no file.

    Raises:
        UserError: unknown trunk.
    """
    return find_source(trunk).find_weights_page(trunk)
