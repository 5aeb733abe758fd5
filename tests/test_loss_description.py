"""What a row's file says of its loss: it is read, carried as JSON, or refused in one line."""

import hashlib
import json
import tomllib
from pathlib import Path

import pytest

from wpm.errors import UserError
from wpm.loss_description import (
    ClassCall,
    LossDescription,
    OwnModule,
    ParameterValue,
    read_description,
)
from wpm.rows import PRETRAINED, Row
from wpm.spaces import known_losses, load_space, shipped_loss

SOURCE = "class Mine: pass\n"


def read(
    text: str, folder: Path, parameters: tuple[str, ...] = (), whole: tuple[str, ...] = ()
) -> LossDescription | None:
    return read_description(folder / "mine.toml", tomllib.loads(text), parameters, whole)


def test_parameters_are_arguments_under_their_own_names_except_those_of_training(
    tmp_path: Path,
) -> None:
    parameters = ("bins", "margin", "metric_loss_lr", "classes_per_batch", "images_per_class")
    description = read('loss = "SomeLoss"', tmp_path, parameters, whole=("bins",))
    assert description == LossDescription(
        ClassCall(
            "SomeLoss",
            {"bins": ParameterValue("bins", whole=True), "margin": ParameterValue("margin")},
        )
    )
    assert description.parameters == ["bins", "margin"]


def test_what_the_file_names_elsewhere_is_no_argument_of_the_loss(tmp_path: Path) -> None:
    text = """
        loss = "SomeLoss"
        own_weights = true
        miner = { class = "SomeMiner", threshold = "epsilon", kind = { value = "hard" } }
        distance = { class = "LpDistance", power = 2 }
        reducer = "MeanReducer"
        arguments = { weight = "w", learned = true, embedding_regularizer = { class = "a.b:C" } }
    """
    description = read(text, tmp_path, ("epsilon", "w", "margin"))
    assert description is not None
    distance = ClassCall("LpDistance", {"power": 2})
    assert description.miner == ClassCall(
        "SomeMiner",
        {"threshold": ParameterValue("epsilon"), "kind": "hard", "distance": distance},
    )
    assert description.loss.arguments == {
        "num_classes": ParameterValue("num_classes", whole=True),
        "embedding_size": ParameterValue("embedding_size", whole=True),
        "weight": ParameterValue("w"),
        "learned": True,
        "embedding_regularizer": ClassCall("a.b:C", {}),
        "distance": distance,
        "reducer": ClassCall("MeanReducer", {}),
        "margin": ParameterValue("margin"),
    }


def test_miner_keeps_a_distance_of_its_own(tmp_path: Path) -> None:
    text = """
        loss = "SomeLoss"
        distance = "LpDistance"
        miner = { class = "SomeMiner", distance = { class = "CosineSimilarity" } }
    """
    description = read(text, tmp_path)
    assert description is not None
    assert description.miner is not None
    assert description.miner.arguments == {"distance": ClassCall("CosineSimilarity", {})}


def test_file_without_a_loss_has_none(tmp_path: Path) -> None:
    assert read("", tmp_path, ("margin",)) is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("loss = 3", "loss is 3, must be the name of a class"),
        ('miner = "SomeMiner"', "miner needs the class that it is for; add loss = CLASS"),
        ('loss = "L"\nown_weights = 1', "own_weights is 1, must be true or false"),
        ('loss = "L"\nminer = { epsilon = "margin" }', "must name a class"),
        ('loss = "L"\ndistance = 2', "distance is 2, must name a class"),
        ('loss = "L"\narguments = 3', "arguments is 3, must be a table"),
        (
            'loss = "L"\narguments = { m = "margn" }',
            "names 'margn', which is neither searched nor fixed; did you mean 'margin'?",
        ),
        ('loss = "L"\narguments = { m = [1] }', "arguments.m is [1], must be the name of"),
        ('loss = "L"\narguments = { m = { value = [1] } }', "arguments.m is {'value': [1]}, must"),
        ('loss = "L"\narguments = { margin = 3 }', "margin is a parameter and an argument of its"),
        (
            'loss = "L"\ndistance = "D"\narguments = { distance = { class = "E" } }',
            "arguments.distance and distance are both set",
        ),
    ],
)
def test_what_is_not_understood_is_refused_in_one_line(
    text: str, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError) as caught:
        read(text, tmp_path, ("margin",))
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'mine.toml'}: ")
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [name for name in known_losses() if name != PRETRAINED])
def test_description_that_ships_survives_json(name: str) -> None:
    description = load_space(Row(name)).loss
    assert description is not None
    assert description == shipped_loss(name)
    assert LossDescription.from_json(json.loads(json.dumps(description.to_json()))) == description


def test_row_without_training_has_no_loss() -> None:
    assert load_space(Row(PRETRAINED)).loss is shipped_loss(PRETRAINED) is None


def test_own_module_is_read_from_beside_the_row_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, rows = tmp_path / "here", tmp_path / "rows"
    for folder in (here, rows):
        folder.mkdir()
    monkeypatch.chdir(here)
    assert read('loss = "mine:Mine"', rows) == LossDescription(ClassCall("mine:Mine", {}))
    (here / "mine.py").write_text("# beside the command\n")
    (here / "wpm.py").write_text("# shadows nothing\n")
    found = read('loss = "mine:Mine"', rows)
    assert found is not None
    assert found.modules["mine"].source == "# beside the command\n"
    (rows / "mine.py").write_text(SOURCE)
    found = read('loss = "mine:Mine"\nreducer = "wpm.losses:X"', rows)
    assert found is not None
    digest = hashlib.sha256(SOURCE.encode()).hexdigest()
    assert {name: (m.sha256, m.source) for name, m in found.modules.items()} == {
        "mine": (digest, SOURCE)
    }


def test_workers_get_the_text_of_own_modules_and_records_only_its_checksum() -> None:
    description = LossDescription(ClassCall("mine:Mine", {}), None, {"mine": OwnModule("12", "x")})
    carried = LossDescription.from_json(description.to_json())
    assert carried.modules["mine"].source == "x"
    recorded = LossDescription.from_json(description.to_json(with_source=False))
    assert recorded.modules["mine"].source is None
    assert carried == recorded == description
