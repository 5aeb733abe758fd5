"""Protocols: the files that ship keep their values, bad files are refused, changes get a name."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from wpm.errors import UserError
from wpm.protocol_fields import LowAndHigh, RealNumber, Value, WholeNumber, Word
from wpm.protocol_files import (
    PROTOCOLS_FOLDER,
    default_protocol,
    find_protocol,
    protocol_names,
    read_protocol,
)
from wpm.protocols import OPTIMIZERS, PRECISIONS, Protocol, field_types, protocol_from_json

DATASETS = ("glyphs", "omniglot", "folder", "cub200", "cars196", "sop")
# The values that were written in Python before protocols became files.
EARLIER = json.loads((Path(__file__).parent / "golden" / "protocols.json").read_text())
# What older versions did without a field for it, or as the published protocol does not.
ADDED: dict[str, dict[str, Value]] = {
    "small": {
        "validate_untrained": False, "stopping": "pausing", "first_folds": 1, "grace_epochs": 5,
        "reduction_factor": 4,
    },
    "smoke": {"validate_untrained": False, "stopping": "halving", "first_folds": 0},
    "mlrc": {"validate_untrained": True, "stopping": "none", "first_folds": 0},
}  # fmt: skip


def write_protocol(folder: Path, text: str, name: str = "mine") -> str:
    path = folder / f"{name}.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def error_of(
    name: str, folder: Path = PROTOCOLS_FOLDER, changes: dict[str, Value] | None = None
) -> str:
    with pytest.raises(UserError) as caught:
        find_protocol(name, "folder", changes=changes, folder=folder)
    message = str(caught.value)
    assert "\n" not in message
    return message


# The files that ship


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("name", ["small", "mlrc", "smoke"])
def test_protocols_keep_the_values_that_they_had_in_python(name: str, dataset: str) -> None:
    protocol = json.loads(json.dumps(dataclasses.asdict(find_protocol(name, dataset))))
    assert protocol == {**EARLIER[name][dataset], **ADDED[name]}


@pytest.mark.parametrize("name", protocol_names())
def test_every_number_of_a_file_that_ships_has_a_reason(name: str) -> None:
    lines = (PROTOCOLS_FOLDER / f"{name}.toml").read_text(encoding="utf-8").splitlines()
    above = False  # a comment stands above a block of fields, as far as the next empty line
    for line in lines:
        if not line or line.startswith("#"):
            above = line.startswith("#")
        field = line.partition(" = ")[0]
        if field in field_types():
            assert above or " # " in line, line


@pytest.mark.parametrize("name", protocol_names())
@pytest.mark.parametrize("dataset", DATASETS)
def test_json_brings_back_the_protocol(name: str, dataset: str) -> None:
    protocol = find_protocol(name, dataset)
    assert protocol.name == name
    data = json.loads(json.dumps(dataclasses.asdict(protocol)))
    assert protocol_from_json(data) == protocol
    assert isinstance(protocol_from_json(data).crop_scale, tuple)


def test_protocol_of_a_newer_version_is_refused_by_its_fields() -> None:
    data = dataclasses.asdict(find_protocol("small", "omniglot")) | {"warmup": 3}
    with pytest.raises(UserError, match="newer version of wpm: this one does not know warmup"):
        protocol_from_json(data)


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


def test_default_protocol_is_that_of_the_published_table() -> None:
    published = {name: default_protocol(name) for name in ("cub200", "cars196", "sop")}
    assert set(published.values()) == {"mlrc"}
    assert {default_protocol(name) for name in ("glyphs", "omniglot", "folder")} == {"small"}


# Files


def test_file_takes_over_what_its_base_says_and_names_the_protocol(tmp_path: Path) -> None:
    path = write_protocol(tmp_path, 'base = "smoke"\ncrop = 18\nlearning_rate = 1\n')
    protocol = find_protocol(path, "glyphs")
    expected = dataclasses.replace(
        find_protocol("smoke", "glyphs"), name="mine", crop=18, learning_rate=1.0
    )
    assert protocol == expected
    assert isinstance(protocol.learning_rate, float)


def test_what_a_file_says_wins_over_its_base_also_for_a_data_set(tmp_path: Path) -> None:
    write_protocol(
        tmp_path, 'base = "small"\nflip = 0.1\n[dataset.folder]\nflip = 0.2\ncrop = 20\n', "first"
    )
    second = write_protocol(tmp_path, 'base = "first"\nflip = 0.3\n', "second")
    third = write_protocol(tmp_path, 'base = "first"\nruns = 3\n', "third")
    flips = {
        (Path(path).stem, dataset): find_protocol(path, dataset).flip
        for path in (second, third)
        for dataset in ("folder", "glyphs")
    }
    assert flips == {
        ("second", "folder"): 0.3, ("second", "glyphs"): 0.3,
        ("third", "folder"): 0.2, ("third", "glyphs"): 0.1,
    }  # fmt: skip
    assert find_protocol(second, "folder").crop == 20


def test_names_are_looked_up_in_the_own_folder_before_the_one_that_ships(tmp_path: Path) -> None:
    write_protocol(tmp_path, 'base = "small"\ncrop = 20\n')
    write_protocol(tmp_path, 'base = "mine"\ntrials = 2\n', "smoke")
    assert protocol_names(tmp_path) == sorted({*protocol_names(), "mine"})
    assert find_protocol("mine", "glyphs", folder=tmp_path).crop == 20
    assert find_protocol("smoke", "glyphs", folder=tmp_path).crop == 20
    assert find_protocol("mlrc", "glyphs", folder=tmp_path) == find_protocol("mlrc", "glyphs")
    assert [file.path.name for file in read_protocol("smoke", tmp_path)] == [
        "small.toml", "mine.toml", "smoke.toml"
    ]  # fmt: skip
    assert find_protocol("smoke", "glyphs") != find_protocol("smoke", "glyphs", folder=tmp_path)


def test_base_of_the_same_name_is_the_one_that_ships(tmp_path: Path) -> None:
    path = write_protocol(tmp_path, 'base = "smoke"\ncrop = 18\n', "smoke")
    expected = dataclasses.replace(find_protocol("smoke", "glyphs"), crop=18)
    assert find_protocol(path, "glyphs") == expected
    assert find_protocol("smoke", "glyphs", folder=tmp_path) == expected


def test_file_without_a_base_gives_every_value_that_has_no_default(tmp_path: Path) -> None:
    values = EARLIER["small"]["glyphs"]
    lines = [
        f"{field} = {json.dumps(value)}"
        for field, value in values.items()
        if field not in ("name", "precision")
    ]
    whole = find_protocol(write_protocol(tmp_path, "\n".join(lines)), "glyphs")
    assert whole == protocol_from_json({**values, "name": "mine"})
    for line in lines:
        rest = "\n".join(other for other in lines if other != line)
        field = line.partition(" = ")[0]
        message = error_of(write_protocol(tmp_path, rest))
        assert message.startswith(f"{tmp_path / 'mine.toml'}: has no {field}; set it, or ")


BAD_VALUES = {
    "trunk": ["''", "3", "[]"],
    "optimizer": ["'sgd'", "'Adam'", "1"],
    "precision": ["'fp8'", "'float16'", "true"],
    "flip": ["-0.1", "1.01", "nan", "true", "'0.5'"],
    "crop_scale": ["0.5", "[0.5]", "[0.1, 0.2, 0.3]", "[0.9, 0.2]", "[0, 1]", "[0.5, 1.1]",
                   "[0.5, nan]", "['a', 1]"],
    "crop_ratio": ["[0, 1]", "[2, 1]", "[-1, 1]", "[1, inf]"],
    "learning_rate": ["0", "-1e-4", "inf", "nan", "'1e-4'"],
    "weight_decay": ["-1", "inf"],
    "loss_weight_decay": ["-1", "inf"],
    "validate_untrained": ["0", "1", "'true'", "[]"],
    "stopping": ["'asha'", "true", "''"],
    "first_folds": ["-1", "0.5", "true", "'1'"],
    "folds": ["1", "0", "4.0"],
    "reduction_factor": ["1", "2.5"],
}  # fmt: skip
_COUNTS = [field for field, kind in field_types().items() if kind == WholeNumber()]
BAD_VALUES |= {field: ["0", "-3", "2.0", "true", "'2'"] for field in _COUNTS}


@pytest.mark.parametrize(
    ("field", "value"), [(field, value) for field, values in BAD_VALUES.items() for value in values]
)
def test_value_that_breaks_the_rule_is_refused_by_file_field_and_rule(
    field: str, value: str, tmp_path: Path
) -> None:
    path = write_protocol(tmp_path, f'base = "small"\n{field} = {value}\n')
    message = error_of(path)
    rule = field_types()[field].rule
    assert message.startswith(f"{path}: {field} is ")
    assert message.endswith(f", must be {rule}")
    path = write_protocol(tmp_path, f'base = "small"\n[dataset.sop]\n{field} = {value}\n')
    assert error_of(path).startswith(f"{path}: dataset.sop.{field} is ")


def test_every_field_has_a_rule_that_is_tried() -> None:
    names = [field.name for field in dataclasses.fields(Protocol)]
    assert list(field_types()) == names[1:]
    assert BAD_VALUES.keys() == field_types().keys()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("crop = ", "not valid TOML"),
        ("\ufeffcrop = 20", "it starts with a byte order mark); save it as UTF-8 without one"),
        ("cropp = 20", "the file has 'cropp', which is not known; allowed are base, classes_per_"),
        ("name = 'x'", "the file has 'name', which is not known"),
        ("description = 3", "description must be text"),
        ("dataset = 'cub200'", "dataset is 'cub200', must be a table"),
        ("[dataset]\ncub200 = 3", "cub200 is 3, must be a table"),
        ("[dataset.cub200]\nbase = 'small'", "dataset.cub200 has 'base', which is not known"),
        ("base = 3", "base is 3, must be the name of a protocol"),
        ("base = 'tiny'", "base is 'tiny', must be one of demo, mlrc, "),
        ("base = '../small'", "base is '../small', must be one of demo, mlrc, "),
        ("base = 'mine'", "base is 'mine', which leads back to itself (mine -> mine)"),
        ("base = 'small'\ncrop = 29", "mine: crop 29 px exceeds resize 28 px"),
        ("base = 'small'\nfirst_folds = 4", "mine: first_folds is 4, must be less than folds = 4"),
        ("base = 'demo'\nfirst_folds = 2", "mine: first_folds is 2, must be less than folds = 2"),
        ("crop = " + 5000 * "9", "not valid TOML"),
        ("crop = " + 400 * "9", "crop is a whole number beyond TOML's 64 bits"),
        ("crop = 0x" + 9000 * "f", "crop is a whole number beyond TOML's 64 bits"),
        ("lr = -" + 400 * "9", "lr is a whole number beyond TOML's 64 bits"),
        ("crop_scale = [1, " + 400 * "9" + "]", "crop_scale is a whole number beyond"),
        ("[dataset.sop]\nlr = " + 400 * "9", "dataset.sop.lr is a whole number beyond"),
        ("crop = " + 5000 * "[", "not valid TOML"),
    ],
)  # fmt: skip
def test_file_that_is_not_understood_is_refused_in_one_line(
    text: str, message: str, tmp_path: Path
) -> None:
    path = write_protocol(tmp_path, text)
    assert error_of(path).startswith(f"{path}: ")
    assert message in error_of(path)


def test_circle_of_bases_is_refused_with_its_members(tmp_path: Path) -> None:
    write_protocol(tmp_path, 'base = "b"', "a")
    write_protocol(tmp_path, 'base = "c"', "b")
    write_protocol(tmp_path, 'base = "b"', "c")
    message = error_of("a", tmp_path)
    assert message == (
        f"{tmp_path}/c.toml: base is 'b', which leads back to itself (a -> b -> c -> b)"
    )


def test_files_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    assert error_of(f"{tmp_path}/none.toml").startswith(f"{tmp_path}/none.toml: cannot be read (No")
    (tmp_path / "folder.toml").mkdir()
    assert "cannot be read (Is a directory)" in error_of(f"{tmp_path}/folder.toml")
    (tmp_path / "latin.toml").write_bytes('description = "é"'.encode("latin-1"))
    assert "save it as UTF-8" in error_of(f"{tmp_path}/latin.toml")
    path = write_protocol(tmp_path, 'base = "small"', "a b")
    assert (
        error_of(path) == f"{path}: 'a b' cannot name a protocol: letters, digits and '_.+-' only"
    )


def test_unknown_protocol_lists_the_choices(tmp_path: Path) -> None:
    write_protocol(tmp_path, 'base = "small"')
    message = error_of("mlcr", tmp_path)
    assert message.startswith("unknown protocol 'mlcr'; choose from demo, mine, mlrc, ")
    assert all(name in message for name in protocol_names())
    assert message.endswith("or give a file: FILE.toml")


# Values


@pytest.mark.parametrize("field", ["folds", "trunk_passes", "max_epochs", "patience"])
def test_counts_that_are_too_small_are_refused(field: str) -> None:
    changes: dict[str, Any] = {field: 0}
    with pytest.raises(UserError, match=f"protocol small: {field} is 0, must be a whole number >="):
        dataclasses.replace(find_protocol("small", "glyphs"), **changes)


def test_crop_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UserError, match="crop 30 px exceeds"):
        dataclasses.replace(find_protocol("small", "glyphs"), crop=30)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (WholeNumber(), "40", 40),
        (RealNumber(), "1e-4", 1e-4),
        (RealNumber(), "3", 3.0),
        (LowAndHigh(RealNumber(0, 1)), "0.25,1", (0.25, 1.0)),
        (LowAndHigh(RealNumber(0, 1)), "[0.25, 1]", (0.25, 1.0)),
        (Word(), "timm:vit_tiny", "timm:vit_tiny"),
        (Word(PRECISIONS), "bf16", "bf16"),
    ],
)
def test_text_becomes_a_value_of_the_fields_type(
    kind: WholeNumber | RealNumber | LowAndHigh | Word, text: str, value: Value
) -> None:
    assert kind.parse(text) == value
    assert type(kind.parse(text)) is type(value)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (WholeNumber(), "4.0"), (WholeNumber(), "0"), (WholeNumber(), ""), (WholeNumber(), "x"),
        (RealNumber(), "-1"), (RealNumber(), "nan"), (RealNumber(), "inf"), (RealNumber(), "1,2"),
        (LowAndHigh(RealNumber()), "1"), (LowAndHigh(RealNumber()), "2,1"),
        (LowAndHigh(RealNumber()), "1,2,3"), (LowAndHigh(RealNumber()), "a,b"),
        (Word(), ""), (Word(OPTIMIZERS), "sgd"),
    ],
)  # fmt: skip
def test_text_that_breaks_the_rule_is_refused(
    kind: WholeNumber | RealNumber | LowAndHigh | Word, text: str
) -> None:
    with pytest.raises(ValueError):
        kind.parse(text)


# Changes


def test_another_trunk_or_precision_is_another_protocol() -> None:
    plain = find_protocol("mlrc", "cars196")
    changes: dict[str, Value] = {"precision": "bf16", "trunk": "torchvision:resnet50"}
    other = find_protocol("mlrc", "cars196", changes=changes)
    assert other.name == "mlrc-torchvision.resnet50-bf16"
    assert dataclasses.replace(other, name="mlrc", trunk=plain.trunk, precision="float32") == plain
    changes = {"trunk": "bninception", "precision": "float32"}
    assert find_protocol("mlrc", "cars196", changes=changes) == plain
    assert error_of("mlrc", changes={"precision": "fp8"}) == (
        "protocol mlrc-fp8: precision is 'fp8', must be one of float32, tf32, bf16"
    )


def test_changes_name_the_protocol_in_the_order_of_the_fields() -> None:
    changes: dict[str, Value] = {
        "max_epochs": 40, "precision": "bf16", "crop_scale": (0.25, 1.0), "learning_rate": 1e-5,
        "flip": 0.0,
    }  # fmt: skip
    protocol = find_protocol("small", "glyphs", changes=changes)
    assert protocol.name == ("small-crop_scale_0.25_1.0-learning_rate_1e-05-max_epochs_40-bf16")
    assert protocol.max_epochs == 40
    again = find_protocol("small", "glyphs", changes=dict(reversed(changes.items())))
    assert again == protocol


def test_two_values_become_two_names() -> None:
    names = {
        find_protocol("small", "glyphs", changes={"learning_rate": rate}).name
        for rate in (1e-4, 1.0000001e-4, 1e-5)
    }
    assert len(names) == 3


def test_changes_are_checked_together() -> None:
    assert find_protocol("small", "glyphs", changes={"crop": 96, "resize": 108}).crop == 96
    assert (
        error_of("small", changes={"crop": 96})
        == "protocol small-crop_96: crop 96 px exceeds resize 28 px"
    )


def test_more_changes_than_a_folder_can_be_named_after_are_refused() -> None:
    small = find_protocol("small", "folder")
    changes: dict[str, Value] = {
        field: getattr(small, field) + 1
        for field, kind in field_types().items()
        if isinstance(kind, WholeNumber)
    }
    assert "are too many for the name of a folder; write a file" in error_of(
        "small", changes=changes
    )
