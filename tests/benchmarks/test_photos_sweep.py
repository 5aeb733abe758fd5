"""The sweep of protocol `photos`: what it draws, replays and prints."""

from pathlib import Path

import pytest
import torch

from benchmarks import photos_sweep
from benchmarks.photos_sweep import (
    CHANGES,
    PARAMETERS,
    describe,
    draw_configurations,
    replay_rule,
    train,
)
from benchmarks.search_replay import Curves, Rule
from tests.support.tiny import make_config, make_pixels
from wpm.protocol_files import find_protocol
from wpm.protocols import HALVING, NO_STOPPING, change_protocol
from wpm.rows import Row
from wpm.spaces import load_space


def test_changes_and_parameters_are_those_of_the_protocol_and_the_rows() -> None:
    protocol = find_protocol("photos", "folder")
    names = [change_protocol(protocol, change).name for change in CHANGES]
    assert names[0] == "photos"
    assert len(set(names)) == len(CHANGES), "every change changes something"
    for row, parameters in PARAMETERS.items():
        assert parameters.keys() == load_space(Row(row)).searched.keys()


@pytest.mark.parametrize("row", ["contrastive", "ntxent", "fast_ap"])
def test_configurations_lie_in_the_search_space_and_are_the_same_every_time(row: str) -> None:
    drawn = list(draw_configurations(row, 20))
    assert drawn == list(draw_configurations(row, 20))
    for name, limits in load_space(Row(row)).searched.items():
        values = [configuration[name] for configuration in drawn]
        assert all(limits.contains(value) for value in values)
        assert len(set(values)) > 10
        assert limits.type != "int" or all(value == int(value) for value in values)


def test_scores_are_in_percent_and_say_what_diverged() -> None:
    assert describe([0.20, 0.22], 2) == "21.0 (sd 1.4)"
    assert describe([0.2], 1) == "20.0"
    assert describe([0.2], 3) == "20.0 (2 diverged)"
    assert describe([], 2) == "- (2 diverged)"


def test_halving_saves_epochs_and_finds_the_best_of_curves_that_never_cross(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(photos_sweep, "ORDERS", 10)
    protocol = find_protocol("photos", "folder")
    trials = [
        Curves([[0.01 * n * epoch for epoch in range(1, 11)]], seconds=1.0) for n in range(1, 9)
    ]
    assert replay_rule(trials, Rule(NO_STOPPING), protocol, 1) == ("1.00 x", "0.0%", "0.0%")
    fewer, loss, worst = replay_rule(trials, Rule(HALVING, 0, 1, 2), protocol, 1)
    assert float(fewer.removesuffix(" x")) > 1.3
    assert (loss, worst) == ("0.0%", "0.0%")


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
