"""Configuration: names are parsed, values are checked, JSON brings back what went in."""

import dataclasses
import json
import math

import pytest

from wpm.errors import UserError
from wpm.protocols import (
    PROTOCOL_NAMES,
    Protocol,
    default_protocol,
    find_protocol,
    protocol_from_json,
)
from wpm.rows import Row
from wpm.training.config import TrainingConfig


@pytest.mark.parametrize(
    ("name", "loss", "mined"),
    [
        ("triplet", "triplet", False),
        ("triplet+wpm", "triplet", True),
        ("multi_similarity_miner+wpm", "multi_similarity_miner", True),
        ("wpm", "wpm", False),
        ("a1_", "a1_", False),
    ],
)
def test_row_is_parsed_and_printed(name: str, loss: str, mined: bool) -> None:
    row = Row.parse(name)
    assert row == Row(loss, mined)
    assert str(row) == name


@pytest.mark.parametrize(
    "name",
    ["", "+wpm", "a+wpm+wpm", "Triplet", "triplet +wpm", "triplet\n", "1a", "../x", "a-b", "a+wp"],
)
def test_bad_row_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"is not LOSS or LOSS\+wpm"):
        Row.parse(name)


def test_published_protocol_has_the_published_values() -> None:
    protocol = find_protocol("mlrc", "cub200")
    assert (protocol.trunk, protocol.embedding_dim) == ("bninception", 128)
    assert (protocol.resize, protocol.crop, protocol.flip) == (256, 227, 0.5)
    assert (protocol.crop_scale, protocol.crop_ratio) == ((0.16, 1.0), (0.75, 1.33))
    assert (protocol.classes_per_batch, protocol.images_per_class) == (8, 4)
    assert protocol.batch_size() == 32
    assert (protocol.optimizer, protocol.learning_rate) == ("rmsprop", 1e-6)
    assert (protocol.weight_decay, protocol.loss_weight_decay) == (1e-4, 1e-4)
    assert (protocol.iterations_per_epoch, protocol.max_epochs, protocol.folds) == (100, 1000, 4)
    assert (protocol.trunk_passes, protocol.embedding_masks) == (8, 8)
    assert (protocol.trials, protocol.runs) == (50, 10)


@pytest.mark.parametrize(
    ("dataset", "interval", "patience"), [("cub200", 2, 9), ("cars196", 5, 14), ("sop", 20, 39)]
)
def test_published_schedule_depends_on_the_data_set(
    dataset: str, interval: int, patience: int
) -> None:
    protocol = find_protocol("mlrc", dataset)
    assert (protocol.validation_interval, protocol.patience) == (interval, patience)


def test_photographs_are_mirrored_and_characters_are_not() -> None:
    assert find_protocol("small", "folder").flip == 0.5
    assert find_protocol("small", "glyphs").flip == find_protocol("small", "omniglot").flip == 0.0


def test_unknown_protocol_lists_the_choices() -> None:
    with pytest.raises(UserError) as caught:
        find_protocol("mlcr", "cub200")
    assert "'mlcr'" in str(caught.value)
    assert all(name in str(caught.value) for name in PROTOCOL_NAMES)


@pytest.mark.parametrize("field", ["folds", "trunk_passes", "max_epochs", "patience"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(UserError, match=f"protocol small: {field} is 0, must be >= 1"):
        dataclasses.replace(find_protocol("small", "glyphs"), **{field: 0})  # type: ignore[arg-type]


def test_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="crop 30 px exceeds"):
        dataclasses.replace(find_protocol("small", "glyphs"), crop=30)


@pytest.mark.parametrize("name", PROTOCOL_NAMES)
def test_json_brings_back_the_protocol(name: str) -> None:
    protocol = find_protocol(name, "cub200")
    data = json.loads(json.dumps(dataclasses.asdict(protocol)))
    assert protocol_from_json(data) == protocol
    assert isinstance(protocol_from_json(data).crop_scale, tuple)


def make_config(protocol: Protocol | None = None, **parameters: float) -> TrainingConfig:
    protocol = protocol or find_protocol("small", "glyphs")
    return TrainingConfig("triplet+wpm", protocol, parameters, seed=3, folds=(0, 2))


def test_json_brings_back_the_configuration() -> None:
    config = make_config(margin=1 / 3, sharpness=32)
    assert TrainingConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert TrainingConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(UserError, match=f"parameter margin is {value}, must be finite"):
        make_config(margin=value)


def test_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed is -1"):
        dataclasses.replace(make_config(), seed=-1)


def test_configurations_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_config().seed = 4  # type: ignore[misc]


def test_default_protocol_is_that_of_the_published_table() -> None:
    published = {name: default_protocol(name) for name in ("cub200", "cars196", "sop")}
    assert set(published.values()) == {"mlrc"}
    assert {default_protocol(name) for name in ("glyphs", "omniglot", "folder")} == {"small"}


def test_another_trunk_or_precision_is_another_protocol() -> None:
    plain = find_protocol("mlrc", "cars196")
    other = find_protocol("mlrc", "cars196", trunk="torchvision:resnet50", precision="bf16")
    assert other.name == "mlrc-torchvision.resnet50-bf16"
    assert dataclasses.replace(other, name="mlrc", trunk=plain.trunk, precision="float32") == plain
    same = find_protocol("mlrc", "cars196", trunk="bninception", precision="float32")
    assert same == plain
    with pytest.raises(UserError, match="unknown precision 'fp8'; choose from float32, tf32, bf16"):
        find_protocol("mlrc", "cars196", precision="fp8")
