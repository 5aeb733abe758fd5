"""What trunks of torchvision and timm share: the cut, and the library's own weights files."""

import difflib
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from wpm.data.crops import InputSpec
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model.trunk import Trunk

_PROBE_SIDE = 96  # px of the image that a network is tried with


class LibraryTrunk(Trunk):
    """A library's network without its classifier, cut after its first convolution.

    The first convolution is replaced by `nn.Identity`; the library's own `forward` is then the
    body.

    The network always stays in evaluation mode, in training too. Batch norm of any kind is
    frozen, and neither dropout nor stochastic depth of the network's own comes between the views,
    which differ by their masks alone.
    """

    def __init__(
        self, name: str, network: nn.Module, input_spec: InputSpec, native_size: int
    ) -> None:
        """Cut a network, and verify on a small image that its features stay the same.

        Args:
            name: for messages.
            network: from (B, 3, H, W) images to (B, F) features.
            input_spec: how the network's weights expect pixels.
            native_size: side in pixels of the images that they were trained on.

        Raises:
            UserError: the network cannot be cut there.
        """
        super().__init__()
        self.name, self.input_spec, self.native_size = name, input_spec, native_size
        place = next((n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)), None)
        if place is None:
            raise UserError(f"trunk {name} has no convolution to drop channels of")
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            images = torch.randn(2, 3, _PROBE_SIDE, _PROBE_SIDE)
            uncut = self._try(network.eval(), images, "does not take images of any size")
            first = network.get_submodule(place)
            assert isinstance(first, nn.Conv2d)
            self.first, self.place, self.network = first, place, network
            network.set_submodule(place, nn.Identity())
            features, uncuttable = first(images), f"cannot be cut after {place}"
            cut = self._try(network, features, uncuttable)
            if uncut.ndim != 2 or not torch.equal(uncut, cut):
                raise self._refusal(uncuttable, "its features come out different")
            if not torch.equal(features, first(images)):
                raise self._refusal(uncuttable, "what follows overwrites its output")
        self.stem_channels, self.feature_dim = first.out_channels, uncut.shape[1]

    def _try(self, network: nn.Module, images: Tensor, problem: str) -> Tensor:
        try:
            return network(images)  # type: ignore[no-any-return]
        except Exception as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise self._refusal(problem, reason) from error

    def _refusal(self, problem: str, reason: str) -> UserError:
        return UserError(
            f"trunk {self.name} {problem} ({reason}); choose another, such as torchvision:resnet50"
        )

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever is asked."""
        return super().train(False)

    def stem(self, images: Tensor) -> Tensor:
        """Run the first convolution alone, before its normalisation."""
        output: Tensor = self.first(images)
        return output

    def body(self, features: Tensor) -> Tensor:
        """Run everything after the first convolution, to pooled features."""
        output: Tensor = self.network(features)
        return output


def load_library_weights(trunk: Trunk, path: Path) -> None:
    """Load the library's own weights file: all of the trunk's weights or, on an error, none.

    Args:
        trunk: a `LibraryTrunk`, changed in place.
        path: a `.safetensors` file, or a state dict as `torch.save` writes it.

    Raises:
        StorageError: the file is missing.
        DamagedFileError: it cannot be read.
        UserError: it does not fit.
    """
    assert isinstance(trunk, LibraryTrunk)
    if not path.is_file():
        raise StorageError(f"no weights of trunk {trunk.name} at {path}; give --weights FILE")
    try:
        found = _read_state(path)
    except (OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFileError(f"{path} is not a weights file ({reason})") from error
    state = {_name_in_trunk(trunk, key): v for key, v in found.items() if _is_weight(key)}
    expected = {key: value for key, value in trunk.state_dict().items() if _is_weight(key)}
    misfit = _describe_misfit(state, expected)
    if misfit:
        raise UserError(
            f"{path} does not fit trunk {trunk.name}: it {misfit}; give the trunk's own weights"
        )
    trunk.load_state_dict({key: state[key] for key in expected})


def _describe_misfit(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Say how a file's weights differ from the trunk's; "" where they fit."""
    missing = sorted(expected.keys() - state.keys())
    if missing:
        return f"lacks {missing[0]}"
    misshapen = sorted(key for key in expected if expected[key].shape != state[key].shape)
    if misshapen:
        return f"has another shape at {misshapen[0]}"
    extra = sorted(state.keys() - expected.keys())
    layers = {key.rpartition(".")[0] for key in extra}
    # One layer, its weight and bias, may be more than the trunk has: the classifier.
    return f"has {extra[0]} besides" if len(layers) > 1 else ""


def _is_weight(key: str) -> bool:
    """Leave batch counters out: old files lack them, and frozen batch norm never reads them."""
    return not key.endswith(".num_batches_tracked")


def _name_in_trunk(trunk: LibraryTrunk, key: str) -> str:
    # Files of densenets keep names that torchvision's layers had before a dot became illegal.
    key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", key)
    layer, _, parameter = key.rpartition(".")
    return f"first.{parameter}" if layer == trunk.place else f"network.{key}"


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


def find_known(name: str, known: Sequence[str], library: str) -> str:
    """Return the part of `LIBRARY:NAME` after the colon, if the library has such a network.

    Raises:
        UserError: it has none; the message names similar ones.
    """
    asked = name.partition(":")[2]
    if asked not in known:
        near = difflib.get_close_matches(asked, known) or ["resnet50"]
        choices = ", ".join(f"{library}:{n}" for n in near)
        raise UserError(f"{library} has no network {asked!r}; did you mean {choices}?")
    return asked
