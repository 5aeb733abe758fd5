"""Trunks of timm, by name: `timm:resnet50.a1_in1k`."""

import re
from pathlib import Path
from typing import Any

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.data.hub import HubFile
from wpm.errors import UserError
from wpm.model.library_trunks import LibraryTrunk, find_known, load_library_weights
from wpm.model.trunk import Trunk, TrunkSource

# Families that fit their grid of patches to the image if asked to.
_RESIZABLE = ("vision_transformer", "deit", "eva")


class TimmSource(TrunkSource):
    """Networks of timm, with the weights that timm would load."""

    needs_weights = True

    def check_name(self, name: str) -> None:
        """Refuse a network that timm does not have."""
        _known_name(name)

    def build(self, name: str, channels: int) -> Trunk:
        """Build a network of the library with random weights."""
        timm, known = _timm(), _known_name(name)
        resizable = timm.models.is_model_in_modules(known, _RESIZABLE)
        more = {"dynamic_img_size": True} if resizable else {}
        network = timm.create_model(known, pretrained=False, num_classes=0, **more)
        if resizable:
            # The patch embedding gets the output of its own convolution, cut off before it, and
            # would compare that with the size of images.
            network.patch_embed.img_size = None
        config = network.pretrained_cfg
        input_spec = InputSpec("RGB", 1.0, config["mean"], config["std"])
        return LibraryTrunk(name, network, input_spec, config["input_size"][-1])

    def load_weights(self, trunk: Trunk, path: Path) -> None:
        """Read the library's own weights file."""
        load_library_weights(trunk, path)

    def find_weights(self, name: str) -> Archive | HubFile | None:
        """Return timm's file on Hugging Face or, of a few old networks, at another address."""
        config = _timm().get_pretrained_cfg(_known_name(name))
        if config is None:
            return None
        if config.hf_hub_id:
            # timm pins a revision behind an @, if at all.
            repository, _, revision = config.hf_hub_id.partition("@")
            path = config.hf_hub_filename or HubFile.path
            return HubFile(repository, revision or HubFile.revision, path)
        digits = re.search(r"-([0-9a-f]{8,})\.pth$", config.url or "")
        return Archive(config.url, f"sha256:{digits[1]}") if digits else None

    def find_weights_page(self, name: str) -> str:
        """Return the address of weights that nothing can be verified by."""
        config = _timm().get_pretrained_cfg(_known_name(name))
        return (config.url or "") if config is not None else ""


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("trunks of timm need timm: pip install timm (extra: wpm[timm])") from error
    return timm


def _known_name(name: str) -> str:
    return find_known(name, [*_timm().list_models(), *_timm().list_pretrained()], "timm")
