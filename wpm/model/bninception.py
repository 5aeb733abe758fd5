"""BN-Inception (Inception v2), the trunk of the evaluation protocol, without its classifier.

Layer names are those of the public ImageNet weights, `bn_inception-52deb4733.pth` of Cadene's
`pretrainedmodels`, so that this file loads name by name.

References:
    Ioffe, Szegedy: Batch Normalization: Accelerating Deep Network Training by Reducing Internal
    Covariate Shift, ICML 2015.
"""

import hashlib
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wpm.data.archives import Archive
from wpm.data.crops import InputSpec
from wpm.errors import DamagedFileError, StorageError
from wpm.model.trunk import Trunk, TrunkSource

# How the public weights expect pixels: (value in 0..255 - MEAN) / STD, blue channel first.
MEAN = (104.0, 117.0, 128.0)
STD = (1.0, 1.0, 1.0)
CHANNEL_ORDER = "BGR"
VALUE_RANGE = 255.0

WEIGHTS_URL = "http://data.lip6.fr/cadene/pretrainedmodels/bn_inception-52deb4733.pth"
WEIGHTS_SHA256_PREFIX = "52deb4733"


class _Unit(NamedTuple):
    """Convolution, batch norm, ReLU: `name` is the convolution's, `name`_bn the norm's."""

    name: str
    out_channels: int
    kernel: int
    stride: int = 1


class _Block(NamedTuple):
    """One inception block: the output channels of its units, 0 where it has no such unit."""

    name: str
    one: int
    reduce: int
    three: int
    double_reduce: int
    double: int
    pool: str
    projection: int

    @property
    def stride(self) -> int:
        """2 in the two blocks that halve the map, which have neither 1x1 nor projection; else 1."""
        return 1 if self.projection else 2

    def branches(self) -> Iterator[tuple[_Unit, ...]]:
        """Yield the branches in the order of concatenation; the pooled one comes last."""
        prefix = f"inception_{self.name}_"
        if self.one:
            yield (_Unit(prefix + "1x1", self.one, 1),)
        yield (
            _Unit(prefix + "3x3_reduce", self.reduce, 1),
            _Unit(prefix + "3x3", self.three, 3, self.stride),
        )
        yield (
            _Unit(prefix + "double_3x3_reduce", self.double_reduce, 1),
            _Unit(prefix + "double_3x3_1", self.double, 3),
            _Unit(prefix + "double_3x3_2", self.double, 3, self.stride),
        )
        yield (_Unit(prefix + "pool_proj", self.projection, 1),) if self.projection else ()


_STEM = _Unit("conv1_7x7_s2", 64, 7, stride=2)
_CONV2 = (_Unit("conv2_3x3_reduce", 64, 1), _Unit("conv2_3x3", 192, 3))
_BLOCKS = (
    #      name  1x1  3x3 after reduce  double 3x3 after reduce  pool, projection
    _Block("3a", 64, 64, 64, 64, 96, "avg", 32),
    _Block("3b", 64, 64, 96, 64, 96, "avg", 64),
    _Block("3c", 0, 128, 160, 64, 96, "max", 0),
    _Block("4a", 224, 64, 96, 96, 128, "avg", 128),
    _Block("4b", 192, 96, 128, 96, 128, "avg", 128),
    _Block("4c", 160, 128, 160, 128, 160, "avg", 128),
    _Block("4d", 96, 128, 192, 160, 192, "avg", 128),
    _Block("4e", 0, 128, 192, 192, 256, "max", 0),
    _Block("5a", 352, 192, 320, 160, 224, "avg", 128),
    _Block("5b", 352, 192, 320, 192, 224, "max", 128),
)


class BNInception(Trunk):
    """The trunk, from images of at least 7 px a side to 1024 features each."""

    feature_dim = 1024
    stem_channels = _STEM.out_channels
    native_size = 224
    input_spec = InputSpec(CHANNEL_ORDER, VALUE_RANGE, MEAN, STD)

    def __init__(self) -> None:
        super().__init__()
        channels = self._add_branch((_STEM, *_CONV2), 3)
        for block in _BLOCKS:
            channels = sum(self._add_branch(branch, channels) for branch in block.branches())

    def stem(self, images: Tensor) -> Tensor:
        """Run the first convolution: (B, 3, H, W) to (B, 64, ceil(H/2), ceil(W/2))."""
        features: Tensor = getattr(self, _STEM.name)(images)
        return features

    def body(self, features: Tensor) -> Tensor:
        """Run everything after the first convolution: (B, 64, h, w) to (B, 1024)."""
        x = self._norm_relu(_STEM.name, features)
        x = F.max_pool2d(x, 3, stride=2, ceil_mode=True)
        x = F.max_pool2d(self._run_branch(_CONV2, x), 3, stride=2, ceil_mode=True)
        for block in _BLOCKS:
            *convolved, pooled = block.branches()
            outputs = [self._run_branch(branch, x) for branch in convolved]
            x = torch.cat([*outputs, self._run_branch(pooled, _pool(block, x))], dim=1)
        return x.mean(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Turn images (B, 3, H, W), BGR, 0 to 255 minus `MEAN`, into features (B, 1024)."""
        return self.body(self.stem(images))

    def _add_branch(self, branch: tuple[_Unit, ...], channels: int) -> int:
        """Add the layers of a branch that reads `channels`; return how many it puts out."""
        for name, out_channels, kernel, stride in branch:
            self.add_module(name, nn.Conv2d(channels, out_channels, kernel, stride, kernel // 2))
            self.add_module(f"{name}_bn", nn.BatchNorm2d(out_channels))
            channels = out_channels
        return channels

    def _run_branch(self, branch: tuple[_Unit, ...], x: Tensor) -> Tensor:
        for unit in branch:
            x = self._norm_relu(unit.name, getattr(self, unit.name)(x))
        return x

    def _norm_relu(self, name: str, x: Tensor) -> Tensor:
        # In place is safe: neither the backward of the norm nor any caller reads its output.
        return F.relu(getattr(self, f"{name}_bn")(x), inplace=True)


class BNInceptionSource(TrunkSource):
    """The trunk's entry: the public weights."""

    needs_weights = True

    def build(self, name: str, channels: int) -> Trunk:
        """Build the trunk, which always takes three channels."""
        return BNInception()

    def load_weights(self, trunk: Trunk, path: Path) -> None:
        """Read the public weights, and no other file."""
        assert isinstance(trunk, BNInception)
        load_bninception_weights(trunk, path)

    def find_weights(self, name: str) -> Archive:
        """Return the public weights file."""
        return Archive(WEIGHTS_URL, f"sha256:{WEIGHTS_SHA256_PREFIX}")


def _pool(block: _Block, x: Tensor) -> Tensor:
    if block.pool == "avg":
        # Zero padding counts in the mean, as it did when the public weights were trained.
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=True)
    # On a map of odd size the reference's pool, which never pads, comes out one row and column
    # short of the convolutions beside it, so that they cannot be concatenated. Padding by one
    # makes them equal.
    padding = (1, 1) if block.stride == 1 else (x.shape[2] % 2, x.shape[3] % 2)
    return F.max_pool2d(x, 3, block.stride, padding, ceil_mode=True)


def load_bninception_weights(
    trunk: BNInception,
    path: Path,
    *,
    expected_sha256_prefix: str | None = WEIGHTS_SHA256_PREFIX,
) -> None:
    """Load the public ImageNet weights into `trunk`: all of them or, on an error, none.

    Args:
        trunk: changed in place; stays on its device.
        path: the `.pth` file; its classifier, `last_linear.*`, is skipped.
        expected_sha256_prefix: hexadecimal start of the file's SHA-256; None skips the check.

    Raises:
        StorageError: the file is missing.
        DamagedFileError: it is not the expected file, or does not fit the trunk.
    """
    fix = f"download {WEIGHTS_URL} to that path"
    if not path.is_file():
        raise StorageError(f"no BN-Inception weights file at {path}: {fix}")
    if expected_sha256_prefix is not None:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if not digest.startswith(expected_sha256_prefix):
            rule = f"starts with {digest[:9]}, not {expected_sha256_prefix}"
            raise DamagedFileError(f"SHA-256 of {path} {rule} (cut short or another file): {fix}")
    try:
        _load_strictly(trunk, torch.load(path, map_location="cpu", weights_only=True))
    except (ValueError, TypeError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFileError(
            f"{path} does not hold the trunk's weights: {reason}: {fix}"
        ) from error


def _load_strictly(trunk: BNInception, state: object) -> None:
    """Load `state` without its classifier; raise an error of one line on any other difference."""
    if not isinstance(state, dict):
        raise TypeError(f"a {type(state).__name__} instead of a dict of tensors")
    # Besides the classifier, batch counters are skipped: files older than PyTorch 0.4.1 have none,
    # and nothing reads them in evaluation.
    skipped = re.compile(r"last_linear\..*|.*\.num_batches_tracked")
    state = {name: value for name, value in state.items() if not skipped.fullmatch(name)}
    found, needed = (
        {name: tuple(value.shape) for name, value in side.items() if not skipped.fullmatch(name)}
        for side in (state, trunk.state_dict())
    )
    wrong = sorted(n for n in found.keys() | needed.keys() if found.get(n) != needed.get(n))
    if wrong:
        shapes = f"{found.get(wrong[0], 'absent')}, expected {needed.get(wrong[0], 'absent')}"
        raise ValueError(f"{len(wrong)} entries differ, first {wrong[0]}: {shapes}")
    trunk.load_state_dict(state, strict=True)
