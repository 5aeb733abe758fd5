"""The MobileNets that come pretrained: what they are made of, and where their weights are.

References: A. Howard et al., "MobileNets: Efficient Convolutional Neural Networks for Mobile Vision
Applications", 2017; M. Sandler et al., "MobileNetV2: Inverted Residuals and Linear Bottlenecks",
CVPR 2018.
"""

from dataclasses import dataclass

from wpm.data.archives import Archive
from wpm.model.tflite_file import IMAGE, Operation

KERNEL = 3  # side of the window of the first and of every depthwise convolution
# google-coral/edgetpu, where the makers of the networks publish them with 8-bit weights.
_SOURCE = (
    "https://raw.githubusercontent.com/google-coral/edgetpu/"
    "5020de9386ff370dcc1f63291a2d0f98eeb98adb/test_data/"
)


@dataclass(frozen=True)
class Unit:
    """A convolution, its bias and what follows: 1x1, or 3x3 a channel, or 3x3 on the image."""

    outputs: int
    depthwise: bool = False
    stride: int = 1
    activation: str = "ReLU6"


@dataclass(frozen=True)
class MobileNetBlock:
    """Units one after another; `residual`: their input is added to their output."""

    units: tuple[Unit, ...]
    residual: bool = False


@dataclass(frozen=True)
class MobileNetVariant:
    """A network and its published weights.

    Attributes:
        stem: channels of the first convolution, 3x3 at stride 2.
        blocks: what follows it up to the mean over positions.
        native_size: side in pixels of the images that the weights were trained on.
        weights: the makers' file.
    """

    stem: int
    blocks: tuple[MobileNetBlock, ...]
    native_size: int
    weights: Archive

    @property
    def feature_dim(self) -> int:
        """Number of features: channels of the last unit."""
        return self.blocks[-1].units[-1].outputs


def _first_version(width: float) -> tuple[int, tuple[MobileNetBlock, ...]]:
    """Return the stem's channels and the blocks of MobileNet V1 at a fraction of its width."""
    pairs = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5)
    channels, blocks = int(32 * width), []
    stem = channels
    for outputs, stride in (*pairs, (1024, 2), (1024, 1)):
        depthwise = Unit(channels, depthwise=True, stride=stride)
        channels = int(outputs * width)
        blocks.append(MobileNetBlock((depthwise, Unit(channels))))
    return stem, tuple(blocks)


def _second_version() -> tuple[int, tuple[MobileNetBlock, ...]]:
    """Return the stem's channels and the blocks of MobileNet V2."""
    stages = (
        # expansion, outputs, blocks, stride of the first block
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    stem = channels = 32
    blocks = []
    for expansion, outputs, count, stride in stages:
        for number in range(count):
            wide = expansion * channels
            expand = (Unit(wide),) if expansion > 1 else ()
            depthwise = Unit(wide, depthwise=True, stride=stride if number == 0 else 1)
            project = Unit(outputs, activation="linear")
            blocks.append(MobileNetBlock((*expand, depthwise, project), residual=number > 0))
            channels = outputs
    return stem, (*blocks, MobileNetBlock((Unit(1280),)))


MOBILENETS = {
    "mobilenet_v1_0.25": MobileNetVariant(
        *_first_version(0.25),
        128,
        Archive(
            _SOURCE + "mobilenet_v1_0.25_128_quant.tflite",
            "sha256:73f77532b1b02e3e49e151de7b04d00a6b48cd6f5dab9184bc24e5d97ce8c0a9",
        ),
    ),
    "mobilenet_v1_0.5": MobileNetVariant(
        *_first_version(0.5),
        160,
        Archive(
            _SOURCE + "mobilenet_v1_0.5_160_quant.tflite",
            "sha256:eb2136bf4866bf4dae98277b0c29268995397a50979d52fcb3f81314e566dd81",
        ),
    ),
    "mobilenet_v2": MobileNetVariant(
        *_second_version(),
        224,
        Archive(
            _SOURCE + "mobilenet_v2_1.0_224_quant.tflite",
            "sha256:51e8256b05665529f8836fe6e8eeed41b2fc75a900d8eebda338d70a6726f8da",
        ),
    ),
}


def plan_operations(variant: MobileNetVariant) -> list[Operation]:
    """Return the operations that a file of a network holds, up to the mean over positions."""
    channels = variant.stem
    plan = [Operation("convolution", (IMAGE,), 3, channels, KERNEL, 2, "ReLU6")]
    for block in variant.blocks:
        start = len(plan)
        for unit in block.units:
            kind = "depthwise convolution" if unit.depthwise else "convolution"
            kernel = KERNEL if unit.depthwise else 1
            reads, size = (len(plan),), (channels, unit.outputs)
            plan.append(Operation(kind, reads, *size, kernel, unit.stride, unit.activation))
            channels = unit.outputs
        if block.residual:
            plan.append(Operation("sum", (start, len(plan)), channels, channels))
    plan.append(
        Operation("mean over positions", (len(plan),), channels, channels, activation="ReLU6")
    )
    return plan
