"""Trunks of torchvision and timm, by name: `torchvision:resnet50`, `timm:resnet50.a1_in1k`."""

import difflib
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model.trunk import Trunk

_PROBE_SIDE = 96  # px of the image that a network is tried with
# Networks of torchvision that rescale images before their first convolution once pretrained.
_RESCALING = ("googlenet", "inception_v3")
# Families of timm that fit their grid of patches to the image if asked to.
_RESIZABLE = ("vision_transformer", "deit", "eva")


class LibraryTrunk(Trunk):
    """A network of a library, its classifier removed, cut after its first convolution.

    In the network's place of that convolution stands what hands its output on, so that the rest of
    the library's own forward pass is the body.

    The network is always in evaluation mode, in training too: batch norm of any kind is frozen, and
    no dropout or stochastic depth of its own gets between the views, which differ by their masks.
    """

    def __init__(self, name: str, network: nn.Module, input_spec: InputSpec) -> None:
        """Cut a network, and prove on a small image that nothing else has changed.

        Args:
            name: for messages.
            network: from (B, 3, H, W) images to (B, F) features.
            input_spec: of its weights.

        Raises:
            UserError: the network cannot be cut so.
        """
        super().__init__()
        self.name, self.input_spec = name, input_spec
        place = next((n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)
        if place is None:
            raise UserError(f"trunk {name} has no convolution to drop channels of")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            images = torch.randn(2, 3, _PROBE_SIDE, _PROBE_SIDE)
            whole = self._try(network.eval(), images, "does not take images of any size")
            first = network.get_submodule(place)
            assert isinstance(first, nn.Conv2d)
            self.first, self.place, self.network = first, place, network
            network.set_submodule(place, nn.Identity())
            features, uncuttable = first(images), f"cannot be cut after {place}"
            parts = self._try(network, features, uncuttable)
            if whole.ndim != 2 or not torch.equal(whole, parts):
                raise self._refusal(uncuttable, "its features come out different")
            if not torch.equal(features, first(images)):
                raise self._refusal(uncuttable, "what follows overwrites its output")
        self.stem_channels, self.feature_dim = first.out_channels, whole.shape[1]

    def _try(self, network: nn.Module, images: Tensor, else_what: str) -> Tensor:
        try:
            return network(images)  # type: ignore[no-any-return]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise self._refusal(else_what, reason) from error

    def _refusal(self, what: str, reason: str) -> UserError:
        return UserError(
            f"trunk {self.name} {what} ({reason}); choose another, such as torchvision:resnet50"
        )

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def stem(self, images: Tensor) -> Tensor:
        """First convolution, before its normalisation: where channels are dropped."""
        output: Tensor = self.first(images)
        return output

    def body(self, features: Tensor) -> Tensor:
        """Everything after the first convolution, to pooled features."""
        output: Tensor = self.network(features)
        return output


def build_torchvision(name: str, channels: int) -> Trunk:
    """Build a classification network of torchvision with random weights.

    Args:
        name: `torchvision:NAME`.
        channels: of the images; the batch repeats the one of greyscale images.

    Raises:
        UserError: torchvision has no such network, or it cannot be cut.
    """
    network = _torchvision_models().get_model(_known_torchvision(name), weights=None)
    # The last linear layer is the classifier's: what comes before are the features.
    place = [n for n, module in network.named_modules() if isinstance(module, nn.Linear)][-1:]
    if not place:
        raise UserError(f"trunk {name} does not end in a linear classifier; choose another")
    network.set_submodule(place[0], nn.Identity())
    return LibraryTrunk(name, network, torchvision_input(name))


def torchvision_input(name: str) -> InputSpec:
    """Return how a network of torchvision wants its pixels: as its weights were trained.

    Raises:
        UserError: torchvision has no such network.
    """
    transforms = _first_weights(name).transforms()
    return InputSpec("RGB", 1.0, tuple(transforms.mean), tuple(transforms.std))


def build_timm(name: str, channels: int) -> Trunk:
    """Build a network of timm with random weights.

    Args:
        name: `timm:NAME`.
        channels: of the images; the batch repeats the one of greyscale images.

    Raises:
        UserError: timm is not installed or has no such network, or it cannot be cut.
    """
    timm, known = _timm(), _known_timm(name)
    resizable = timm.models.is_model_in_modules(known, _RESIZABLE)
    more = {"dynamic_img_size": True} if resizable else {}
    network = timm.create_model(known, pretrained=False, num_classes=0, **more)
    if resizable:
        # The embedding of patches would compare what its convolution hands on with image sizes.
        network.patch_embed.img_size = None
    config = network.pretrained_cfg
    return LibraryTrunk(name, network, InputSpec("RGB", 1.0, config["mean"], config["std"]))


def torchvision_weights(name: str) -> Archive:
    """Return where torchvision keeps a network's first ImageNet weights.

    Raises:
        UserError: torchvision has no such network.
    """
    url = _first_weights(name).url
    # As torch.hub does: the file's name ends in the first digits of its SHA-256.
    return Archive(url, "sha256:" + url.rsplit("-", 1)[-1].removesuffix(".pth"))


def timm_weights(name: str) -> Archive | None:
    """Return None: timm publishes no checksums to verify a download by; see `timm_page`.

    Raises:
        UserError: timm is not installed, or has no such network.
    """
    _known_timm(name)
    return None


def timm_page(name: str) -> str:
    """Return the address of the page where timm keeps a network's weights; empty without any.

    Raises:
        UserError: timm is not installed, or has no such network.
    """
    config = _timm().get_pretrained_cfg(_known_timm(name))
    model = config.hf_hub_id if config is not None else None
    return f"https://huggingface.co/{model}" if model else ""


def load_library_weights(trunk: LibraryTrunk, path: Path) -> None:
    """Load the library's own weights file: all of the trunk's weights or, on an error, none.

    Args:
        trunk: changed in place.
        path: a `.safetensors` file, or a state dict as `torch.save` writes it.

    Raises:
        StorageError: the file is missing.
        DamagedFileError: it cannot be read.
        UserError: it does not fit.
    """
    if not path.is_file():
        raise StorageError(f"no weights of trunk {trunk.name} at {path}; give --weights FILE")
    try:
        found = _read_state(path)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFileError(f"{path} is not a weights file ({reason})") from error
    state = {_name_in_trunk(trunk, key): v for key, v in found.items() if _is_weight(key)}
    wanted = {key: value for key, value in trunk.state_dict().items() if _is_weight(key)}
    lacking = sorted(wanted.keys() - state.keys())
    # One layer may be left over, weight and bias: the classifier.
    extra = sorted(state.keys() - wanted.keys())
    layers = {key.rpartition(".")[0] for key in extra}
    wrong = [key for key in wanted.keys() & state.keys() if wanted[key].shape != state[key].shape]
    if lacking or len(layers) > 1 or wrong:
        what = (
            f"lacks {lacking[0]}" if lacking
            else f"has another shape at {sorted(wrong)[0]}" if wrong
            else f"has {extra[0]} besides"
        )  # fmt: skip
        raise UserError(f"{path} does not fit trunk {trunk.name}: it {what}; give its own weights")
    trunk.load_state_dict({key: state[key] for key in wanted})


def _is_weight(key: str) -> bool:
    """Batch counters are not: old files lack them, and frozen batch norm never reads them."""
    return not key.endswith(".num_batches_tracked")


def _name_in_trunk(trunk: LibraryTrunk, key: str) -> str:
    # Files of densenets keep to the names that torchvision's layers had before a dot was illegal.
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
    first, _, parameter = key.rpartition(".")
    return f"first.{parameter}" if first == trunk.place else f"network.{key}"


def _read_state(path: Path) -> Mapping[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    state = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError("no dict of tensors")
    return state


def _torchvision_models() -> Any:
    import torchvision.models  # slow to import, and for these trunks only

    return torchvision.models


def _known_torchvision(name: str) -> str:
    models = _torchvision_models()
    known = _find_known(name, models.list_models(module=models), "torchvision")
    if known in _RESCALING:
        raise UserError(
            f"trunk {name} rescales images before its first convolution; choose another, such as "
            "torchvision:resnet50"
        )
    return known


def _first_weights(name: str) -> Any:
    return next(iter(_torchvision_models().get_model_weights(_known_torchvision(name))))


def _timm() -> Any:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UserError("trunks of timm need timm: pip install timm (extra: wpm[timm])") from error
    return timm


def _known_timm(name: str) -> str:
    return _find_known(name, [*_timm().list_models(), *_timm().list_pretrained()], "timm")


def _find_known(name: str, known: list[str], library: str) -> str:
    wanted = name.partition(":")[2]
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known) or ["resnet50"]
        choices = ", ".join(f"{library}:{n}" for n in near)
        raise UserError(f"{library} has no network {wanted!r}; did you mean {choices}?")
    return wanted
