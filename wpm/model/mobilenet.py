"""MobileNets with the weights of their makers' 8-bit files, as trunks of floats.

The files hold convolutions with their batch norm folded into weight and bias, so that a layer is
`activation(convolution(x) + bias)` and there are no statistics to freeze. Reference: B. Jacob et
al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
CVPR 2018.
"""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model.mobilenet_variants import (
    KERNEL,
    MOBILENETS,
    MobileNetVariant,
    Unit,
    plan_operations,
)
from wpm.model.tflite_file import Layer, read_layers
from wpm.model.trunk import Trunk, TrunkSource


class MobileNet(Trunk):
    """A MobileNet without its classifier, cut between the first convolution and its bias.

    A channel that within-pair mining drops there is 0 before the folded bias is added: it becomes
    what batch norm makes of 0, as where the published method drops channels.
    """

    input_spec = InputSpec("RGB", 2.0, (1.0,) * 3, (1.0,) * 3)  # value / 127.5 - 1

    def __init__(self, name: str, variant: MobileNetVariant) -> None:
        """Build the network with random weights.

        Args:
            name: for messages.
            variant: what to build.
        """
        super().__init__()
        self.name, self.variant = name, variant
        self.stem_channels, self.feature_dim = variant.stem, variant.feature_dim
        self.native_size = variant.native_size
        self.first = _SameConvolution(3, variant.stem, KERNEL, stride=2, bias=False)
        self.first_bias = nn.Parameter(torch.zeros(variant.stem))
        self.blocks = nn.ModuleList(self._build_blocks())
        for convolution in self._convolutions():
            # Without batch norm, torch's default would let the features vanish layer by layer.
            nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")

    def _build_blocks(self) -> Iterator[nn.Module]:
        channels = self.variant.stem
        for block in self.variant.blocks:
            layers: list[nn.Module] = []
            for unit in block.units:
                layers.append(_build_convolution(channels, unit))
                if unit.activation == "ReLU6":
                    # Not in place: for its backward torch would copy the input first (2.14).
                    layers.append(nn.ReLU6())
                channels = unit.outputs
            body = nn.Sequential(*layers)
            yield _Residual(body) if block.residual else body

    def _convolutions(self) -> list["_SameConvolution"]:
        return [module for module in self.modules() if isinstance(module, _SameConvolution)]

    def stem(self, images: Tensor) -> Tensor:
        """First convolution without its bias: where channels are dropped."""
        output: Tensor = self.first(images)
        return output

    def body(self, features: Tensor) -> Tensor:
        """Everything from the bias of the first convolution to the mean over positions."""
        bias = self.first_bias.to(features.dtype)
        x = F.relu6(features + bias[:, None, None])
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3))

    def take_over(self, layers: list[Layer]) -> None:
        """Copy the weights of a file's layers, which must be those of the plan."""
        parameters = [layer for layer in layers if len(layer.bias)]
        with torch.no_grad():
            for convolution, layer in zip(self._convolutions(), parameters, strict=True):
                convolution.weight.copy_(layer.weight)
                bias = self.first_bias if convolution.bias is None else convolution.bias
                bias.copy_(layer.bias)


class _SameConvolution(nn.Conv2d):
    """A convolution padded as TensorFlow does: an odd pixel goes to the bottom and right."""

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) to (B, O, ceil(H / stride), ceil(W / stride))."""
        kernel, stride = self.kernel_size[0], self.stride[0]
        down, right = (
            max((-(-side // stride) - 1) * stride + kernel - side, 0) for side in images.shape[2:]
        )
        if down == right and down % 2 == 0:
            return F.conv2d(
                images, self.weight, self.bias, self.stride, down // 2, groups=self.groups
            )
        padding = (right // 2, right - right // 2, down // 2, down - down // 2)
        return super().forward(F.pad(images, padding))


class _Residual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """Return the input plus what the body makes of it."""
        output: Tensor = x + self.body(x)
        return output


def _build_convolution(channels: int, unit: Unit) -> _SameConvolution:
    return _SameConvolution(
        channels,
        unit.outputs,
        KERNEL if unit.depthwise else 1,
        stride=unit.stride,
        groups=channels if unit.depthwise else 1,
    )


def load_mobilenet_weights(trunk: MobileNet, path: Path) -> None:
    """Load a TensorFlow Lite file: all of the trunk's weights or, on an error, none.

    A file that is named as the makers name theirs must be theirs, byte by byte: nothing in the
    format tells a damaged weight. Under other names any file of the same network is read.

    Args:
        trunk: changed in place.
        path: the `.tflite` file; its classifier is left out.

    Raises:
        StorageError: the file is missing.
        DamagedFileError: it is no such file, cut short, or altered.
        UserError: it holds another network, or weights that are not quantised to 8 bits.
    """
    published = trunk.variant.weights
    get_it = f"download {published.url}, or give its place with --weights FILE"
    if not path.is_file():
        raise StorageError(f"no weights of trunk {trunk.name} at {path}; {get_it}")
    if path.name == published.name:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        expected = published.checksum.removeprefix("sha256:")
        if digest != expected:
            raise DamagedFileError(
                f"{path} has SHA-256 {digest[:12]}..., not {expected[:12]}... (cut short or "
                f"altered); delete it and {get_it}"
            )
    try:
        layers = read_layers(path)
    except UserError as error:
        raise type(error)(f"{error}; {get_it}") from error
    difference = _find_difference(trunk.variant, layers)
    if difference:
        raise UserError(f"{path} does not fit trunk {trunk.name}: {difference}; {get_it}")
    trunk.take_over(layers)


def _find_difference(variant: MobileNetVariant, layers: list[Layer]) -> str:
    """Return in words where a file's network first differs from the planned one; "" if nowhere."""
    planned = plan_operations(variant)
    for number, (layer, operation) in enumerate(zip(layers, planned, strict=False), start=1):
        if layer.operation != operation:
            return f"operation {number} is {layer.operation}, expected {operation}"
    # Both lists end with their only mean, so that a shorter one differs there at the latest.
    assert len(layers) == len(planned)
    return ""


class MobileNetSource(TrunkSource):
    """The entry of a MobileNet: its makers' file, or one of the same network."""

    needs_weights = True

    def build(self, name: str, channels: int) -> Trunk:
        """Build the trunk, which always takes three channels."""
        return MobileNet(name, MOBILENETS[name])

    def load_weights(self, trunk: Trunk, path: Path) -> None:
        """Read a TensorFlow Lite file with 8-bit weights."""
        assert isinstance(trunk, MobileNet)
        load_mobilenet_weights(trunk, path)

    def find_weights(self, name: str) -> Archive:
        """Return the makers' file."""
        return MOBILENETS[name].weights
