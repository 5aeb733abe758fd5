"""Trunks of torchvision, by name: `torchvision:resnet50`."""

from pathlib import Path
from typing import Any

from torch import nn

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.errors import UserError
from wpm.model.library_trunks import LibraryTrunk, find_known, load_library_weights
from wpm.model.trunk import Trunk, TrunkSource

# Networks that rescale images before their first convolution once they are pretrained.
_RESCALING = ("googlenet", "inception_v3")


class TorchvisionSource(TrunkSource):
    """Classification networks of torchvision, with their first ImageNet weights."""

    needs_weights = True

    def check_name(self, name: str) -> None:
        """Refuse a network that the library does not have, or that cannot be cut."""
        _known_name(name)

    def build(self, name: str, channels: int) -> Trunk:
        """Build a network of the library with random weights."""
        network = _models().get_model(_known_name(name), weights=None)
        # The last linear layer is the classifier: what comes before it are the features.
        place = [n for n, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
        if not place:
            raise UserError(f"trunk {name} does not end in a linear classifier; choose another")
        network.set_submodule(place[0], nn.Identity())
        return LibraryTrunk(name, network, torchvision_input(name), _native_size(name))

    def load_weights(self, trunk: Trunk, path: Path) -> None:
        """Read the library's own weights file."""
        load_library_weights(trunk, path)

    def find_weights(self, name: str) -> Archive:
        """Return where torchvision keeps the network's first ImageNet weights."""
        url = _first_weights(name).url
        # The file's name ends in the first digits of its SHA-256, as torch.hub checks it.
        return Archive(url, "sha256:" + url.rsplit("-", 1)[-1].removesuffix(".pth"))


def torchvision_input(name: str) -> InputSpec:
    """Return how a network of torchvision expects its pixels: as its weights were trained.

    Raises:
        UserError: torchvision has no such network.
    """
    transforms = _first_weights(name).transforms()
    return InputSpec("RGB", 1.0, tuple(transforms.mean), tuple(transforms.std))


def _native_size(name: str) -> int:
    side: int = _first_weights(name).transforms().crop_size[0]
    return side


def _models() -> Any:
    import torchvision.models  # slow to import, and needed for these trunks only

    return torchvision.models


def _known_name(name: str) -> str:
    models = _models()
    known = find_known(name, models.list_models(module=models), "torchvision")
    if known in _RESCALING:
        raise UserError(
            f"trunk {name} rescales images before its first convolution; choose another, such as "
            "torchvision:resnet50"
        )
    return known


def _first_weights(name: str) -> Any:
    return next(iter(_models().get_model_weights(_known_name(name))))
