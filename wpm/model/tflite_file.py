"""Read the layers of a network from a TensorFlow Lite file with 8-bit weights.

Only what the published MobileNets consist of is known: convolutions, sums, and a mean over
positions, after which the classifier begins. Anything else is refused, because a network that is
read only in part would train on without a warning and score badly.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wpm.errors import DamagedFileError, StorageError, UserError

IMAGE = 0  # number of the image among the operations, which are counted from 1
_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every file of this format
_MOST_OPERATIONS = 500  # a damaged file may announce billions
_MOST_AXES = 4  # of weights and of outputs
_LEVELS = 255  # highest of the integers that stand for an output
_RANGE_TOLERANCE = 0.02  # one level of an output that spans 0 to 6


class Operation(NamedTuple):
    """One operation of a network, both as a file has it and as a trunk expects it.

    Attributes:
        kind: "convolution", "depthwise convolution", "sum" or "mean over positions".
        reads: ascending numbers of the operations whose outputs it reads; `IMAGE` is the image.
        inputs: channels that it reads.
        outputs: channels that it returns.
        kernel: side of a convolution's window.
        stride: of a convolution.
        activation: "ReLU6", "linear", or another range that the output is limited to.
    """

    kind: str
    reads: tuple[int, ...]
    inputs: int
    outputs: int
    kernel: int = 1
    stride: int = 1
    activation: str = "linear"

    def __str__(self) -> str:
        """Describe the operation for an error message."""
        window = f" {self.kernel}x{self.kernel} at stride {self.stride}"
        read = " and ".join("the image" if n == IMAGE else f"operation {n}" for n in self.reads)
        return (
            f"{self.kind}{window if 'convolution' in self.kind else ''} of {read} "
            f"({self.inputs} to {self.outputs} channels, {self.activation})"
        )


@dataclass(frozen=True)
class Layer:
    """An operation and, of a convolution, its dequantised parameters.

    Attributes:
        operation: what it does.
        weight: (O, I, K, K) float32, I = 1 of a depthwise convolution; empty of other operations.
        bias: (O,) float32, the batch norm folded into it; empty of other operations.
    """

    operation: Operation
    weight: Tensor
    bias: Tensor


def read_layers(path: Path) -> list[Layer]:
    """Read a file's layers from the image up to the mean over positions, which comes last.

    Args:
        path: a `.tflite` file with one unsigned byte a weight and one scale a layer.

    Raises:
        StorageError: the file cannot be read.
        DamagedFileError: it is not a TensorFlow Lite file, or is cut short or altered.
        UserError: it holds another kind of network, or weights that are not quantised so.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path}: cannot be read ({error.strerror or error})") from error
    if data[4:8] != _IDENTIFIER:
        raise DamagedFileError(f"{path} is not a TensorFlow Lite file")
    try:
        return _Network(data).read_layers()
    except _RefusedError as error:
        raise UserError(f"{path} cannot be used as a trunk: {error}") from error
    except Exception as error:
        # The format is made of offsets, which point anywhere once the file is damaged: the reader
        # checks nothing, and what Python then raises depends on the bytes that it lands on.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DamagedFileError(f"{path} is damaged ({reason})") from error


class _RefusedError(Exception):
    """The file is intact as far as can be seen, but not a network that this module knows."""


class _Network:
    """The first graph of a file, and where each of its tensors comes from."""

    def __init__(self, data: bytes) -> None:
        import tflite  # 190 modules, and for these trunks only

        self._format = tflite
        self._model = tflite.Model.GetRootAs(data)
        self._graph = self._model.Subgraphs(0)
        # From tensor to the operation that writes it.
        self._written = {int(self._graph.Inputs(0)): IMAGE}

    def read_layers(self) -> list[Layer]:
        self._check_image()
        layers: list[Layer] = []
        for number in range(min(self._graph.OperatorsLength(), _MOST_OPERATIONS)):
            operator = self._graph.Operators(number)
            layers.append(self._read_layer(operator))
            self._written[int(operator.Outputs(0))] = number + 1
            if layers[-1].operation.kind == "mean over positions":
                return layers
        raise _RefusedError("it has no mean over positions, after which a classifier would begin")

    def _check_image(self) -> None:
        low, high = self._range_of(self._graph.Inputs(0))
        if abs(low + 1) > _RANGE_TOLERANCE or abs(high - 1) > _RANGE_TOLERANCE:
            raise _RefusedError(f"its images span {low:.3g} to {high:.3g}, expected -1 to 1")

    def _read_layer(self, operator: Any) -> Layer:
        code = self._model.OperatorCodes(operator.OpcodeIndex())
        kinds = self._format.BuiltinOperator
        # Files from before there were more than 127 kinds have the number in the other field.
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == kinds.CONV_2D:
            return self._read_convolution(operator, self._format.Conv2DOptions(), depthwise=False)
        if kind == kinds.DEPTHWISE_CONV_2D:
            options = self._format.DepthwiseConv2DOptions()
            return self._read_convolution(operator, options, depthwise=True)
        if kind == kinds.ADD:
            return self._read_sum(operator)
        if kind == kinds.AVERAGE_POOL_2D:
            return self._read_mean(operator)
        names = {value: name for name, value in vars(kinds).items() if isinstance(value, int)}
        raise _RefusedError(f"it has an operation {names.get(kind, kind)}, which no MobileNet has")

    def _read_convolution(self, operator: Any, options: Any, *, depthwise: bool) -> Layer:
        _fill(options, operator)
        if operator.InputsLength() != 3:
            raise _RefusedError("it has a convolution without a bias")
        image, weight, bias = (int(operator.Inputs(place)) for place in range(3))
        if self._graph.Tensors(weight).Type() != self._format.TensorType.UINT8:
            raise _RefusedError("its weights are not quantised to unsigned bytes")
        if self._graph.Tensors(bias).Type() != self._format.TensorType.INT32:
            raise _RefusedError("its biases are not quantised to 32 bits")
        # (O, K, K, I), or of a depthwise convolution (1, K, K, O): to (O, I or 1, K, K).
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        values = self._dequantise(weight, "u1").permute(order).contiguous()
        outputs, kernel = values.shape[0], values.shape[2]
        strides = {options.StrideH(), options.StrideW()}
        dilations = {options.DilationHFactor(), options.DilationWFactor()}
        if (
            values.shape[2] != values.shape[3]
            or len(strides) != 1
            or dilations != {1}
            or options.Padding() != self._format.Padding.SAME
            or (depthwise and values.shape[1] != 1)
        ):
            raise _RefusedError("it has a convolution that is not square, padded and undilated")
        operation = Operation(
            "depthwise convolution" if depthwise else "convolution",
            (self._number_of(image),),
            outputs if depthwise else values.shape[1],
            outputs,
            kernel,
            strides.pop(),
            self._activation_of(operator, options),
        )
        biases = self._dequantise(bias, "<i4")
        if biases.shape != (outputs,):
            raise _RefusedError("it has a bias of another size than its convolution")
        return Layer(operation, values, biases)

    def _read_sum(self, operator: Any) -> Layer:
        options = self._format.AddOptions()
        _fill(options, operator)
        if operator.InputsLength() != 2:
            raise _RefusedError("it has a sum that is not of two operations")
        numbers = sorted(self._number_of(int(operator.Inputs(place))) for place in range(2))
        channels = self._shape_of(int(operator.Outputs(0)))[3]
        activation = self._activation_of(operator, options)
        operation = Operation("sum", tuple(numbers), channels, channels, activation=activation)
        return Layer(operation, torch.empty(0), torch.empty(0))

    def _read_mean(self, operator: Any) -> Layer:
        options = self._format.Pool2DOptions()
        _fill(options, operator)
        image = int(operator.Inputs(0))
        _, height, width, channels = self._shape_of(image)
        if (options.FilterHeight(), options.FilterWidth()) != (height, width):
            raise _RefusedError("it pools by parts of the image before its classifier")
        operation = Operation(
            "mean over positions",
            (self._number_of(image),),
            channels,
            channels,
            activation=self._activation_of(operator, options),
        )
        return Layer(operation, torch.empty(0), torch.empty(0))

    def _number_of(self, tensor: int) -> int:
        if tensor not in self._written:
            raise _RefusedError("it has an operation that reads what no operation has written")
        return self._written[tensor]

    def _activation_of(self, operator: Any, options: Any) -> str:
        """Return what an output is limited to: by its range, for want of an operation for it."""
        activations = self._format.ActivationFunctionType
        if options.FusedActivationFunction() not in (activations.NONE, activations.RELU6):
            raise _RefusedError("it has an activation that is not ReLU6")
        low, high = self._range_of(int(operator.Outputs(0)))
        if low == 0 and abs(high - 6) <= _RANGE_TOLERANCE:
            return "ReLU6"
        return "linear" if low < 0 < high else f"limited to {low:.3g}..{high:.3g}"

    def _range_of(self, tensor: int) -> tuple[float, float]:
        scale, zero_point = self._quantisation_of(tensor)
        return scale * (0 - zero_point), scale * (_LEVELS - zero_point)

    def _quantisation_of(self, tensor: int) -> tuple[float, int]:
        quantisation = self._graph.Tensors(tensor).Quantization()
        if quantisation is None or quantisation.ScaleLength() == 0:
            raise _RefusedError("it is not quantised")
        if (quantisation.ScaleLength(), quantisation.ZeroPointLength()) != (1, 1):
            raise _RefusedError("it has more than one scale a layer")
        scale, zero_point = float(quantisation.Scale(0)), int(quantisation.ZeroPoint(0))
        if not (0 < scale < np.inf and 0 <= zero_point <= _LEVELS):
            raise ValueError(f"scale {scale:.3g} and zero point {zero_point} of a layer")
        return scale, zero_point

    def _shape_of(self, tensor: int) -> tuple[int, ...]:
        stored = self._graph.Tensors(tensor)
        if stored.ShapeLength() > _MOST_AXES:
            raise ValueError(f"a tensor of {stored.ShapeLength()} axes")
        shape = tuple(int(stored.Shape(axis)) for axis in range(stored.ShapeLength()))
        if any(side < 1 for side in shape):
            raise ValueError(f"a tensor of shape {shape}")
        return shape

    def _dequantise(self, tensor: int, kind: str) -> Tensor:
        """Return scale x (integer - zero point) in the shape of the tensor."""
        scale, zero_point = self._quantisation_of(tensor)
        stored = self._model.Buffers(self._graph.Tensors(tensor).Buffer())
        if stored.DataLength() == 0:
            raise ValueError("a layer without numbers")
        integers: NDArray[Any] = np.frombuffer(stored.DataAsNumpy().tobytes(), kind)
        values = scale * (integers.reshape(self._shape_of(tensor)).astype(np.float64) - zero_point)
        return torch.from_numpy(values.astype(np.float32))


def _fill(options: Any, operator: Any) -> None:
    """Make an empty table of options that of an operator."""
    table = operator.BuiltinOptions()
    options.Init(table.Bytes, table.Pos)
