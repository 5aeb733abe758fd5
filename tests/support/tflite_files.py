"""Small TensorFlow Lite files with 8-bit weights, and the answer of their network by plain loops.

They are written with the bindings of ai-edge-litert; the product reads with those of tflite.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from wpm.model.tflite_file import IMAGE, Operation

Change = Callable[[Any], None]
CLASSES = 5
IMAGE_RANGE = (1 / 128, 128)  # scale and zero point: -1 to 1
RELU6_RANGE = (6 / 255, 0)
WIDE_RANGE = (0.08, 120)


@dataclass(frozen=True)
class Convolution:
    """A convolution as a file stores it, and the numbers that its integers stand for.

    `stored` is (O, K, K, I), or (1, K, K, O) of a depthwise convolution, as `weight` is.
    """

    stored: NDArray[np.uint8]
    weight: NDArray[np.float64]
    bias: NDArray[np.float64]


class _Writer:
    """A model under construction: tensors with their buffers, and operators."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.model = schema.ModelT()
        self.model.version, self.model.subgraphs = 3, [self.graph]
        self.model.buffers, self.model.operatorCodes = [schema.BufferT()], []

    def add_tensor(
        self,
        shape: Sequence[int],
        scale: float,
        zero_point: int,
        integers: NDArray[Any] | None = None,
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape = list(shape)
        wide = integers is not None and integers.dtype == np.int32
        tensor.type = schema.TensorType.INT32 if wide else schema.TensorType.UINT8
        tensor.name = f"tensor {len(self.graph.tensors)}".encode()
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        tensor.buffer = 0
        if integers is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(integers.tobytes(), np.uint8)
            tensor.buffer = len(self.model.buffers)
            self.model.buffers.append(buffer)
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def add_operator(self, kind: str, options: Any, inputs: list[int], output: int) -> None:
        code = schema.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        self.model.operatorCodes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs, operator.outputs = inputs, [output]
        options_kind = type(options).__name__.removesuffix("T")
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, options_kind)
        operator.builtinOptions = options
        self.graph.operators.append(operator)

    def add_convolution(
        self, operation: Operation, image: int, output: int, image_scale: float
    ) -> Convolution:
        depthwise = operation.kind == "depthwise convolution"
        kernel, outputs = operation.kernel, operation.outputs
        shape = (
            (1, kernel, kernel, outputs)
            if depthwise
            else (outputs, kernel, kernel, operation.inputs)
        )
        stored = self.rng.integers(0, 256, shape).astype(np.uint8)
        zero_point = int(self.rng.integers(100, 150))
        fan_in = kernel * kernel * (1 if depthwise else operation.inputs)
        scale = float(np.float32(3 / np.sqrt(fan_in) / 128))
        bias_scale = float(np.float32(image_scale * scale))
        bias = (self.rng.uniform(-0.5, 1.0, outputs) / bias_scale).astype(np.int32)
        options = schema.DepthwiseConv2DOptionsT() if depthwise else schema.Conv2DOptionsT()
        options.strideH = options.strideW = operation.stride
        options.dilationHFactor = options.dilationWFactor = 1
        options.padding = schema.Padding.SAME
        if depthwise:
            options.depthMultiplier = 1
        weight_tensor = self.add_tensor(shape, scale, zero_point, stored)
        bias_tensor = self.add_tensor((outputs,), bias_scale, 0, bias)
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        self.add_operator(kind, options, [image, weight_tensor, bias_tensor], output)
        weight = scale * (stored.astype(np.float64) - zero_point)
        return Convolution(stored, weight, bias_scale * bias.astype(np.float64))


def write_network(
    path: Path,
    operations: Sequence[Operation],
    side: int,
    *,
    seed: int = 0,
    change: Change | None = None,
) -> list[Convolution]:
    """Write a network with random weights, a classifier behind it, and return its convolutions.

    Args:
        operations: up to the mean over positions.
        side: of the square images.
        change: called with the model before it is written.
    """
    writer = _Writer(seed)
    tensors = [writer.add_tensor((1, side, side, 3), *IMAGE_RANGE)]
    ranges, sides = [IMAGE_RANGE], [side]
    convolutions = []
    for operation in operations:
        source = operation.reads[-1]
        sides.append(1 if "mean" in operation.kind else -(-sides[source] // operation.stride))
        ranges.append(RELU6_RANGE if operation.activation == "ReLU6" else WIDE_RANGE)
        shape = (1, sides[-1], sides[-1], operation.outputs)
        output = writer.add_tensor(shape, *ranges[-1])
        if "convolution" in operation.kind:
            convolutions.append(
                writer.add_convolution(operation, tensors[source], output, ranges[source][0])
            )
        elif operation.kind == "sum":
            inputs = [tensors[number] for number in reversed(operation.reads)]
            writer.add_operator("ADD", schema.AddOptionsT(), inputs, output)
        else:
            pool = schema.Pool2DOptionsT()
            pool.padding, pool.strideH, pool.strideW = schema.Padding.VALID, 1, 1
            pool.filterHeight = pool.filterWidth = sides[source]
            writer.add_operator("AVERAGE_POOL_2D", pool, [tensors[source]], output)
        tensors.append(output)
    classifier = Operation("convolution", (len(operations),), operations[-1].outputs, CLASSES)
    logits = writer.add_tensor((1, 1, 1, CLASSES), *WIDE_RANGE)
    writer.add_convolution(classifier, tensors[-1], logits, ranges[-1][0])
    writer.graph.inputs, writer.graph.outputs = [tensors[0]], [logits]
    if change is not None:
        change(writer.model)
    path.write_bytes(pack(writer.model))
    return convolutions


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())


def run_by_loops(
    image: NDArray[np.float64], operations: Sequence[Operation], convolutions: list[Convolution]
) -> NDArray[np.float64]:
    """Return the features of one image (H, W, 3), position by position in plain loops."""
    results = {IMAGE: image}
    stored = iter(convolutions)
    for number, operation in enumerate(operations, start=1):
        read = [results[source] for source in operation.reads]
        if operation.kind == "sum":
            result = read[0] + read[1]
        elif operation.kind == "mean over positions":
            result = read[0].mean(axis=(0, 1))
        else:
            result = convolve_by_loops(read[0], operation, next(stored))
        results[number] = result.clip(0, 6) if operation.activation == "ReLU6" else result
    return results[len(operations)]


def convolve_by_loops(
    image: NDArray[np.float64], operation: Operation, convolution: Convolution
) -> NDArray[np.float64]:
    """Convolve (H, W, I) as TensorFlow pads: what it takes in all, the smaller half before."""
    height, width, _ = image.shape
    kernel, stride = operation.kernel, operation.stride
    rows, columns = -(-height // stride), -(-width // stride)
    above = max((rows - 1) * stride + kernel - height, 0) // 2
    before = max((columns - 1) * stride + kernel - width, 0) // 2
    result = np.zeros((rows, columns, operation.outputs))
    for row in range(rows):
        for column in range(columns):
            result[row, column] = convolution.bias
            for down in range(kernel):
                for right in range(kernel):
                    y, x = row * stride + down - above, column * stride + right - before
                    if not (0 <= y < height and 0 <= x < width):
                        continue
                    if operation.kind == "depthwise convolution":
                        result[row, column] += convolution.weight[0, down, right] * image[y, x]
                    else:
                        result[row, column] += convolution.weight[:, down, right] @ image[y, x]
    return result
