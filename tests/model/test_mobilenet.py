"""MobileNets: equal to the network in their file, and cut where within-pair mining drops channels.

The small files are made here. The makers' own files and photographs are read from the folder that
WPM_TEST_DATA names: `weights/*.tflite` and `birds/*.zip`, a zip of one folder a species.
"""

import dataclasses
import io
import os
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tests.support.tflite_files import pack, run_by_loops, write_network
from tests.support.tiny import make_config, make_pixels, smoke_protocol
from wpm.data.archives import Archive
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.model import mobilenet_variants
from wpm.model.embedding import build_model, freeze_batch_norm
from wpm.model.mobilenet import MobileNet, load_mobilenet_weights
from wpm.model.mobilenet_variants import (
    MOBILENETS,
    MobileNetBlock,
    MobileNetVariant,
    Unit,
    plan_operations,
)
from wpm.model.tflite_file import read_layers
from wpm.model.trunks import find_weights, needs_weights
from wpm.training.training import Training

# A bit of both versions: pairs, and blocks with a sum.
SMALL = MobileNetVariant(
    4,
    (
        MobileNetBlock((Unit(4, depthwise=True, stride=2), Unit(6))),
        MobileNetBlock((Unit(6, depthwise=True), Unit(5, activation="linear"))),
        MobileNetBlock(
            (Unit(8), Unit(8, depthwise=True), Unit(5, activation="linear")), residual=True
        ),
        MobileNetBlock((Unit(8), Unit(8, depthwise=True, stride=2), Unit(6, activation="linear"))),
        MobileNetBlock((Unit(9),)),
    ),
    20,
    Archive("https://example.org/small.tflite", "sha256:" + 64 * "0"),
)
TEST_DATA = os.environ.get("WPM_TEST_DATA", "")


def make_small(path: Path, side: int = 20) -> tuple[MobileNet, list[Any]]:
    convolutions = write_network(path, plan_operations(SMALL), side)
    trunk = MobileNet("small", SMALL)
    load_mobilenet_weights(trunk, path)
    return trunk, convolutions


def draw_image(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)


def normalise(images: NDArray[np.uint8]) -> Tensor:
    """Turn (B, H, W, 3) bytes into the (B, 3, H, W) input of a trunk."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


# Stride 2 pads even sides at the bottom and right only, odd sides all around.
@pytest.mark.parametrize(("height", "width"), [(20, 20), (19, 19), (13, 18)])
def test_features_are_those_of_plain_loops(height: int, width: int, tmp_path: Path) -> None:
    trunk, convolutions = make_small(tmp_path / "small.tf")
    image = draw_image(height, width)
    expected = run_by_loops(
        image.astype(np.float64) / 127.5 - 1, plan_operations(SMALL), convolutions
    )
    images = normalise(image[None])
    with torch.no_grad():
        features = trunk.body(trunk.stem(images))
    assert expected.std() > 0.3  # else an absolute tolerance says nothing
    assert (expected == 0).sum() < len(expected) / 2
    torch.testing.assert_close(features[0].double(), torch.from_numpy(expected), rtol=0, atol=1e-5)


def test_features_are_those_of_an_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "small.tf"
    trunk, _ = make_small(path)
    images = np.stack([draw_image(20, 20), draw_image(20, 20)[::-1]])
    expected = interpret(path, images)
    with torch.no_grad():
        features = trunk.body(trunk.stem(normalise(images)))
    assert float(cosines(features, expected).min()) > 0.99


def test_a_dropped_channel_is_what_the_bias_makes_of_0(tmp_path: Path) -> None:
    trunk, convolutions = make_small(tmp_path / "small.tf")
    images = normalise(draw_image(20, 20)[None])
    with torch.no_grad():
        features = trunk.stem(images)
        assert features.shape == (1, 4, 10, 10)
        unbiased = torch.nn.functional.conv2d(
            torch.nn.functional.pad(images, (0, 1, 0, 1)), trunk.first.weight, stride=2
        )
        torch.testing.assert_close(features, unbiased)
        before = features.clone()
        plain = trunk.body(features)
        assert torch.equal(features, before), "body changed its input"
        dropped = features.clone()
        dropped[:, 2] = 0
        # The same by the network itself: a first convolution that sees nothing on channel 2.
        trunk.first.weight[2] = 0
        torch.testing.assert_close(trunk.body(dropped), trunk.body(trunk.stem(images)))
        assert not torch.allclose(trunk.body(dropped), plain)
    assert trunk.first_bias[2].item() == pytest.approx(convolutions[0].bias[2])


@pytest.mark.parametrize(
    ("name", "stem", "features", "side", "parameters"),
    [
        # Of the published networks without batch norm and classifier.
        ("mobilenet_v1_0.25", 8, 256, 128, 210_336),
        ("mobilenet_v1_0.5", 16, 512, 160, 813_120),
        ("mobilenet_v2", 32, 1280, 224, 2_206_816),
    ],
)
def test_a_trunk_says_its_sizes(
    name: str, stem: int, features: int, side: int, parameters: int
) -> None:
    trunk = build_model(dataclasses.replace(smoke_protocol(), trunk=name), 3, 0).trunk
    assert (trunk.stem_channels, trunk.feature_dim, trunk.native_size) == (stem, features, side)
    assert sum(p.numel() for p in trunk.parameters()) == parameters
    assert all(p.requires_grad for p in trunk.parameters())
    with torch.no_grad():
        first = trunk.stem(torch.zeros(2, 3, 65, 64))
        assert first.shape == (2, stem, 33, 32)
        assert trunk.body(first).shape == (2, features)
    archive = find_weights(name)
    assert isinstance(archive, Archive)
    assert needs_weights(name)
    assert archive.name == f"{name.replace('_v2', '_v2_1.0')}_{side}_quant.tflite"
    assert "/google-coral/edgetpu/5020de9" in archive.url
    assert len(archive.checksum) == len("sha256:") + 64


def test_random_weights_keep_features_apart() -> None:
    for name, variant in MOBILENETS.items():
        trunk = build_model(dataclasses.replace(smoke_protocol(), trunk=name), 3, 0).trunk
        images = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            features = trunk.body(trunk.stem(images))
        assert features.shape == (4, variant.feature_dim)
        assert float(features.std(dim=0).mean()) > 1e-3, name


def test_row_with_mining_trains_every_parameter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(mobilenet_variants.MOBILENETS, "mobilenet_v1_0.25", SMALL)
    path = tmp_path / "small.tf"
    write_network(path, plan_operations(SMALL), 20)
    protocol = dataclasses.replace(
        smoke_protocol(iterations_per_epoch=1), trunk="mobilenet_v1_0.25"
    )
    config = dataclasses.replace(
        make_config("contrastive+wpm", (0,)), protocol=protocol, weights=str(path)
    )
    training = Training(config, make_pixels(tmp_path), torch.device("cpu"))
    trunk = training.folds[0].model.trunk
    before = {name: value.detach().clone() for name, value in trunk.named_parameters()}
    assert float(before["first_bias"].abs().max()) > 0, "the file's bias"
    training.run_epoch()
    trunk.train()
    freeze_batch_norm(training.folds[0].model)
    assert all(module.training for module in trunk.modules()), "it has nothing to freeze"
    for name, value in trunk.named_parameters():
        assert not torch.equal(value, before[name]), name


def test_features_in_bf16_are_close(tmp_path: Path) -> None:
    trunk, _ = make_small(tmp_path / "small.tf")
    images = normalise(draw_image(20, 20)[None])
    with torch.no_grad():
        plain = trunk.body(trunk.stem(images))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = trunk.body(trunk.stem(images))
    assert rounded.dtype == torch.bfloat16
    assert float(cosines(rounded.float(), plain).min()) > 0.999


def refusal(path: Path, variant: MobileNetVariant, kind: type[UserError]) -> str:
    """Return the loader's message, after checks that hold for every refusal."""
    trunk = MobileNet("mobilenet", variant)
    before = {name: value.clone() for name, value in trunk.state_dict().items()}
    with pytest.raises(kind) as caught:
        load_mobilenet_weights(trunk, path)
    assert type(caught.value) is kind
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    assert variant.weights.url in message
    assert all(torch.equal(value, before[name]) for name, value in trunk.state_dict().items())
    return message


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.tflite"
    *others, last = SMALL.blocks
    wider = dataclasses.replace(SMALL, stem=5)
    write_network(path, plan_operations(wider), 20)
    message = refusal(path, SMALL, UserError)
    assert "operation 1 is convolution 3x3 at stride 2 of the image (3 to 5 channels" in message
    assert "expected convolution 3x3 at stride 2 of the image (3 to 4 channels" in message
    shorter = dataclasses.replace(SMALL, blocks=tuple(others))
    write_network(path, plan_operations(shorter), 20)
    message = refusal(path, SMALL, UserError)
    assert "operation 13 is mean over positions of operation 12 (6 to 6 channels" in message
    longer = dataclasses.replace(SMALL, blocks=(*SMALL.blocks, last))
    write_network(path, plan_operations(longer), 20)
    assert "operation 14 is convolution 1x1" in refusal(path, SMALL, UserError)


def test_a_sum_at_another_place_is_refused(tmp_path: Path) -> None:
    """Same convolutions, but one block less that adds its input."""
    blocks = tuple(dataclasses.replace(block, residual=False) for block in SMALL.blocks)
    path = tmp_path / "other.tflite"
    write_network(path, plan_operations(dataclasses.replace(SMALL, blocks=blocks)), 20)
    assert "expected sum of operation 5 and operation 8" in refusal(path, SMALL, UserError)


def test_a_file_of_floats_is_refused(tmp_path: Path) -> None:
    def change(model: Any) -> None:
        for tensor in model.subgraphs[0].tensors:
            tensor.type, tensor.quantization = schema.TensorType.FLOAT32, None

    path = tmp_path / "float.tflite"
    write_network(path, plan_operations(SMALL), 20, change=change)
    assert "it is not quantised" in refusal(path, SMALL, UserError)


def test_a_published_name_stands_for_the_published_bytes(tmp_path: Path) -> None:
    """No other check finds a weight that the disk has changed."""
    variant = MOBILENETS["mobilenet_v1_0.25"]
    published = tmp_path / variant.weights.name
    write_network(published, plan_operations(variant), 32)
    message = refusal(published, variant, DamagedFileError)
    assert "not 73f77532b1b0... (cut short or altered)" in message
    mine = published.rename(tmp_path / "mine.tflite")
    load_mobilenet_weights(MobileNet("mobilenet_v1_0.25", variant), mine)


def test_a_missing_or_unreadable_file_is_refused(tmp_path: Path) -> None:
    assert "no weights of trunk" in refusal(tmp_path / "absent.tflite", SMALL, StorageError)
    (tmp_path / "page.tflite").write_text("<html>404</html>")
    assert "is not a TensorFlow Lite" in refusal(tmp_path / "page.tflite", SMALL, DamagedFileError)


def cosines(found: Tensor, expected: Tensor) -> Tensor:
    return torch.nn.functional.cosine_similarity(found, expected)


def interpret(path: Path, images: NDArray[np.uint8]) -> Tensor:
    """Return the features, before the classifier, that the format's own interpreter computes."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    (pool,) = [
        operator
        for operator in graph.operators
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.AVERAGE_POOL_2D
    ]
    graph.outputs = pool.outputs
    quantisation = graph.tensors[pool.outputs[0]].quantization
    answers = answer(pack(model), images).astype(np.float32)
    features = float(quantisation.scale[0]) * (answers - int(quantisation.zeroPoint[0]))
    return torch.from_numpy(features.reshape(len(images), -1)).float()


def answer(model: bytes, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the output of a network, image by image."""
    interpreter = Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (input_,), (output,) = interpreter.get_input_details(), interpreter.get_output_details()
    answers = []
    for image in images:
        interpreter.set_tensor(input_["index"], image[None])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(output["index"])[0])
    return np.stack(answers)


# Species of which ImageNet has photographs. On others the networks' first guess is a toss-up
# between classes, which 8 bits decide otherwise than floats.
SPECIES = (
    "Albatross", "Indigo_Bunting", "Purple_Finch", "Goldfinch", "Hummingbird", "Blue_Jay",
    "Junco", "Merganser", "Pelican",
)  # fmt: skip


def read_photographs(side: int) -> NDArray[np.uint8]:
    (archive,) = (Path(TEST_DATA) / "birds").glob("*.zip")
    images = []
    with zipfile.ZipFile(archive) as zipped:
        for name in sorted(zipped.namelist()):
            if name.endswith(".jpg") and any(species in name for species in SPECIES):
                photograph = Image.open(io.BytesIO(zipped.read(name))).convert("RGB")
                images.append(
                    np.asarray(photograph.resize((side, side), Image.Resampling.BILINEAR))
                )
    return np.stack(images)


def read_classifier(path: Path) -> tuple[Tensor, Tensor]:
    """Return weight (1001, F) and bias (1001,) of the convolution behind the mean."""
    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    graph = model.subgraphs[0]
    convolution = graph.operators[len(read_layers(path))]
    parameters = []
    for number, kind in zip(convolution.inputs[1:], (np.uint8, np.int32), strict=True):
        tensor = graph.tensors[number]
        stored = np.frombuffer(np.asarray(model.buffers[tensor.buffer].data).tobytes(), kind)
        scale, zero_point = tensor.quantization.scale[0], tensor.quantization.zeroPoint[0]
        parameters.append(torch.from_numpy(scale * (stored.astype(np.float64) - zero_point)))
    weight, bias = parameters
    return weight.view(len(bias), -1).float(), bias.float()


@pytest.mark.skipif(not TEST_DATA, reason="WPM_TEST_DATA names no folder of weights and birds")
@pytest.mark.parametrize("name", MOBILENETS)
def test_the_published_file_and_its_trunk_see_photographs_alike(name: str, tmp_path: Path) -> None:
    variant = MOBILENETS[name]
    path = Path(TEST_DATA) / "weights" / variant.weights.name
    trunk = MobileNet(name, variant)
    load_mobilenet_weights(trunk, path)
    trunk.to(memory_format=torch.channels_last)
    photographs = read_photographs(variant.native_size)
    assert len(photographs) > 300
    with torch.no_grad():
        features = torch.cat(
            [
                trunk.body(trunk.stem(normalise(batch)))
                for batch in np.array_split(photographs, len(photographs) // 32)
            ]
        )
    similarities = cosines(features, interpret(path, photographs))
    weight, bias = read_classifier(path)
    guesses = (features @ weight.T + bias).argmax(dim=1)
    scores = torch.from_numpy(answer(path.read_bytes(), photographs))
    # Scores are 8 bits: classes that are first together are all first guesses.
    first = scores.gather(1, guesses[:, None])[:, 0] == scores.max(dim=1).values
    print(
        f"{name}: {len(photographs)} photographs, cosine at least {float(similarities.min()):.4f}, "
        f"same first guess {float(first.float().mean()):.1%}"
    )
    assert float(similarities.min()) >= 0.99
    assert float(first.float().mean()) >= 0.95
    damaged = tmp_path / path.name
    shutil.copyfile(path, damaged)
    with damaged.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff\x00")
    with pytest.raises(DamagedFileError, match="cut short or altered"):
        load_mobilenet_weights(trunk, damaged)
