"""The sweep of protocol `photos`: what it changes, trains and prints."""

from pathlib import Path

import torch

from benchmarks.photos_sweep import (
    CHANGES,
    PARAMETERS,
    describe,
    train,
)
from tests.support.tiny import make_config, make_pixels
from wpm.protocol_files import find_protocol
from wpm.protocols import change_protocol
from wpm.rows import Row
from wpm.spaces import load_space


def test_changes_and_parameters_are_those_of_the_protocol_and_the_rows() -> None:
    protocol = find_protocol("photos", "folder")
    names = [change_protocol(protocol, change).name for change in CHANGES]
    assert names[0] == "photos"
    assert len(set(names)) == len(CHANGES), "every change changes something"
    for row, parameters in PARAMETERS.items():
        assert parameters.keys() == load_space(Row(row)).searched.keys()


def test_scores_are_in_percent_and_say_what_diverged() -> None:
    assert describe([0.20, 0.22], 2) == "21.0 (sd 1.4)"
    assert describe([0.2], 1) == "20.0"
    assert describe([0.2], 3) == "20.0 (2 diverged)"
    assert describe([], 2) == "- (2 diverged)"


def test_training_is_as_long_as_its_protocol_and_starts_like_a_shorter_one(tmp_path: Path) -> None:
    pixels = make_pixels(tmp_path)
    device = torch.device("cpu")
    long, short = (
        train(make_config(folds=(0,), max_epochs=epochs, patience=1), pixels,
              weights="random", device=device)
        for epochs in (4, 2)
    )  # fmt: skip
    assert long is not None
    assert short is not None
    assert len(long.best) == len(long.seconds) == 4
    assert list(long.best[:2]) == list(short.best)
    assert list(long.best) == sorted(long.best)
