"""The reader of TensorFlow Lite files: what integers stand for, and files that it refuses."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema

from tests.support.tflite_files import write_network
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model.tflite_file import IMAGE, Operation, read_layers

OPERATIONS = [
    Operation("convolution", (IMAGE,), 3, 4, 3, 2, "ReLU6"),
    Operation("depthwise convolution", (1,), 4, 4, 3, 2, "ReLU6"),
    Operation("convolution", (2,), 4, 6, 1, 1, "linear"),
    Operation("depthwise convolution", (3,), 6, 6, 3, 1, "ReLU6"),
    Operation("convolution", (4,), 6, 6, 1, 1, "linear"),
    Operation("sum", (3, 5), 6, 6),
    Operation("convolution", (6,), 6, 7, 1, 1, "ReLU6"),
    Operation("mean over positions", (7,), 7, 7, activation="ReLU6"),
]


def test_layers_are_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "network.tflite"
    written = write_network(path, OPERATIONS, 16)
    layers = read_layers(path)
    assert [layer.operation for layer in layers] == OPERATIONS
    found = [layer for layer in layers if len(layer.bias)]
    for layer, convolution in zip(found, written, strict=True):
        depthwise = layer.operation.kind == "depthwise convolution"
        order = (3, 0, 1, 2) if depthwise else (0, 3, 1, 2)
        expected = torch.from_numpy(convolution.weight.transpose(order)).float()
        torch.testing.assert_close(layer.weight, expected)
        torch.testing.assert_close(layer.bias, torch.from_numpy(convolution.bias).float())


def test_a_weight_is_scale_times_integer_minus_zero_point(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        weight = model.subgraphs[0].tensors[model.subgraphs[0].operators[0].inputs[1]]
        weight.quantization.scale, weight.quantization.zeroPoint = [0.5], [100]
        stored = np.full(4 * 27, 100, np.uint8)
        stored[(2 * 9 + 1 * 3 + 0) * 3 + 1] = 107  # output 2, row 1, column 0, input 1
        model.buffers[weight.buffer].data = stored

    path = tmp_path / "network.tflite"
    write_network(path, OPERATIONS, 16, change=change)
    weight = read_layers(path)[0].weight
    assert weight[2, 1, 1, 0] == 0.5 * (107 - 100)
    assert weight.count_nonzero() == 1


def change_tensor(operator: int, place: int, **values: Any) -> Callable[[Any], None]:
    """Return a change of an operator's input or, at place -1, of its output."""

    def change(model: Any) -> None:
        graph = model.subgraphs[0]
        chosen = graph.operators[operator]
        number = chosen.outputs[0] if place == -1 else chosen.inputs[place]
        for name, value in values.items():
            owner = graph.tensors[number]
            if name in ("scale", "zeroPoint"):
                owner = owner.quantization
            setattr(owner, name, value)

    return change


def change_options(operator: int, **values: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        for name, value in values.items():
            setattr(model.subgraphs[0].operators[operator].builtinOptions, name, value)

    return change


def change_kind(operator: int, kind: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        code = model.operatorCodes[operator]
        code.builtinCode = code.deprecatedBuiltinCode = kind

    return change


def drop_bias(model: Any) -> None:
    model.subgraphs[0].operators[0].inputs = model.subgraphs[0].operators[0].inputs[:2]


def cut_before_mean(model: Any) -> None:
    del model.subgraphs[0].operators[len(OPERATIONS) - 1 :]


def read_the_future(model: Any) -> None:
    graph = model.subgraphs[0]
    graph.operators[1].inputs[0] = graph.operators[3].outputs[0]


RELU = schema.ActivationFunctionType.RELU


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_tensor(0, 1, type=schema.TensorType.FLOAT32), "weights are not quantised"),
        (change_tensor(0, 1, type=schema.TensorType.INT8), "weights are not quantised"),
        (change_tensor(0, 2, type=schema.TensorType.FLOAT32), "biases are not quantised"),
        (change_tensor(0, 0, quantization=None), "it is not quantised"),
        (change_tensor(0, -1, quantization=None), "it is not quantised"),
        (change_tensor(0, 1, scale=[0.1] * 4, zeroPoint=[9] * 4), "more than one scale a layer"),
        (change_tensor(0, 0, scale=[1 / 255], zeroPoint=[0]), "its images span 0 to 1"),
        (change_options(0, padding=schema.Padding.VALID), "not square, padded and undilated"),
        (change_options(1, dilationWFactor=2), "not square, padded and undilated"),
        (change_options(1, strideW=1), "not square, padded and undilated"),
        (change_options(0, fusedActivationFunction=RELU), "an activation that is not ReLU6"),
        (change_options(7, filterWidth=1), "pools by parts of the image"),
        (change_kind(0, schema.BuiltinOperator.SOFTMAX), "an operation SOFTMAX"),
        (drop_bias, "without a bias"),
        (cut_before_mean, "no mean over positions"),
        (read_the_future, "reads what no operation has written"),
    ],
)
def test_other_networks_are_refused(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.tflite"
    write_network(path, OPERATIONS, 16, change=change)
    with pytest.raises(UserError, match=message) as caught:
        read_layers(path)
    assert not isinstance(caught.value, DamagedFileError)
    assert str(caught.value).startswith(f"{path} cannot be used as a trunk: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (change_tensor(0, 1, scale=[float("nan")]), "scale nan"),
        (change_tensor(0, 1, scale=[-1.0]), "scale -1"),
        (change_tensor(0, 1, zeroPoint=[256]), "zero point 256"),
        (change_tensor(0, 1, buffer=0), "a layer without numbers"),
        (change_tensor(0, 1, shape=[4, 3, 3, 4]), "cannot reshape"),
        (change_tensor(0, 1, shape=[4, 3, 3, -1]), r"a tensor of shape \(4, 3, 3, -1\)"),
        (change_tensor(0, 1, shape=[4, 3, 3, 3, 1]), "a tensor of 5 axes"),
        (change_tensor(0, 1, buffer=999), "damaged"),
    ],
)
def test_impossible_numbers_are_damage(
    change: Callable[[Any], None], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "network.tflite"
    write_network(path, OPERATIONS, 16, change=change)
    with pytest.raises(DamagedFileError, match=message):
        read_layers(path)


@pytest.mark.parametrize("content", [b"", b"<html>404 Not Found</html>", b"\0\0\0\0TFL3"])
def test_a_file_of_another_kind_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "network.tflite"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=r"is not a TensorFlow Lite file|is damaged"):
        read_layers(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.tflite", tmp_path):
        with pytest.raises(StorageError, match="cannot be read"):
            read_layers(path)


def test_damaged_files_are_refused_in_one_line_or_read(tmp_path: Path) -> None:
    """Whatever bytes a file has, nothing but a `UserError` gets out, and soon."""
    path = tmp_path / "network.tflite"
    write_network(path, OPERATIONS, 8)
    intact, dice = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(600):
        data = bytearray(intact)
        if number % 2:
            del data[dice.randrange(8, len(data)) :]
        else:
            for _ in range(dice.choice((1, 4, 64))):
                data[dice.randrange(8, len(data))] = dice.randrange(256)
        path.write_bytes(data)
        try:
            read_layers(path)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            assert str(path) in str(error)
    assert 300 < refused < 600  # all that are cut short, and not all that are altered
