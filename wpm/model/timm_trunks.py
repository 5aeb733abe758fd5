"""Trunks of timm, by name: `timm:resnet50.a1_in1k`."""

from pathlib import Path
from typing import Any

from wpm.data.crops import InputSpec
from wpm.errors import UserError
from wpm.model.library_trunks import LibraryTrunk, find_known, load_library_weights
from wpm.model.trunk import Trunk, TrunkSource

# Families that fit their grid of patches to the image if asked to.
_RESIZABLE = ("vision_transformer", "deit", "eva")


class TimmSource(TrunkSource):
    """Networks of timm. timm publishes no checksums, so their weights cannot be fetched."""

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

    def find_weights_page(self, name: str) -> str:
        """Return the page where timm keeps the network's weights."""
        config = _timm().get_pretrained_cfg(_known_name(name))
        model = config.hf_hub_id if config is not None else None
        return f"https://huggingface.co/{model}" if model else ""


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("trunks of timm need timm: pip install timm (extra: wpm[timm])") from error
    return timm


def _known_name(name: str) -> str:
    return find_known(name, [*_timm().list_models(), *_timm().list_pretrained()], "timm")
