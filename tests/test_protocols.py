"""Protocols: the published values, what is refused, and that JSON brings back what went in."""

import dataclasses
import json

import pytest

from wpm.errors import UserError
from wpm.protocols import (
    PROTOCOL_NAMES,
    default_protocol,
    find_protocol,
    protocol_from_json,
)


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
