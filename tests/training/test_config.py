"""A training's configuration: values are checked, JSON brings back what went in."""

import dataclasses
import json
import math

import pytest

from wpm.errors import UserError
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.rows import Row
from wpm.training.config import TrainingConfig


def make_config(protocol: Protocol | None = None, **parameters: float) -> TrainingConfig:
    protocol = protocol or find_protocol("small", "glyphs")
    return TrainingConfig(Row("triplet", "wpm"), protocol, parameters, seed=3, folds=(0, 2))


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
