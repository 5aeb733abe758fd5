"""Folds that wait for others train as they do in lockstep, and resume anywhere."""

import dataclasses
import itertools
from pathlib import Path

import pytest
import torch

from tests.support.tiny import make_config, make_pixels, run_to_end
from tests.support.trials import fold_report
from wpm.data.pixels import Pixels
from wpm.reports import FoldReport, Report
from wpm.training.config import TrainingConfig
from wpm.training.stages import Stages
from wpm.training.training import Training

CPU = torch.device("cpu")


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    return make_pixels(tmp_path)


def without_times(fold: FoldReport) -> FoldReport:
    return dataclasses.replace(
        fold, training_seconds=0.0, validation_seconds=0.0, images_per_second=0.0
    )


def numbers(reports: list[Report]) -> list[tuple[object, ...]]:
    """Return what must be reproducible: everything except times."""
    return [
        (r.step, r.epoch, r.best_map_at_r, *(without_times(fold) for fold in r.folds))
        for r in reports
    ]


def find_first_fold_that_loses_patience(pixels: Pixels) -> TrainingConfig:
    """Return a configuration in two stages, the first of which ends before its last epoch."""
    for seed in range(20):
        config = make_config(folds=(0, 1), max_epochs=8, patience=1, first_folds=1, seed=seed)
        reports = run_to_end(Training(config, pixels, CPU))
        if max(r.step for r in reports if r.step <= 8) < 7:
            return config
    raise AssertionError("no seed whose first fold stops early: the case is not tested")


@pytest.mark.parametrize("row", ["contrastive", "contrastive+wpm"])
def test_folds_end_as_they_do_in_lockstep(pixels: Pixels, row: str) -> None:
    together = run_to_end(Training(make_config(row), pixels, CPU))
    for first in (1, 3):
        config = make_config(row, first_folds=first)
        staged = run_to_end(Training(config, pixels, CPU))
        assert [r.step for r in staged] == list(range(1, 9))
        assert [r.epoch for r in staged] == [1, 2, 3, 4] * 2
        assert [len(r.folds) for r in staged] == [first] * 4 + [4] * 4
        for early, late, lockstep in zip(staged[:4], staged[4:], together, strict=True):
            assert [*map(without_times, early.folds)] == [
                *map(without_times, lockstep.folds[:first])
            ]
            assert [*map(without_times, late.folds[first:])] == [
                *map(without_times, lockstep.folds[first:])
            ]
            assert late.folds[:first] == staged[3].folds, "the last reports of finished folds"
        assert staged[-1].best_map_at_r == together[-1].best_map_at_r


def test_score_is_the_mean_over_the_folds_trained_so_far(pixels: Pixels) -> None:
    for report in run_to_end(Training(make_config(first_folds=2), pixels, CPU)):
        scores = [fold.best_map_at_r for fold in report.folds]
        assert report.best_map_at_r == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize(("folds", "first"), [((2,), 1), ((0, 1), 2), ((0, 1), 3), ((0, 1), 0)])
def test_training_of_no_more_folds_than_train_first_has_one_stage(
    pixels: Pixels, folds: tuple[int, ...], first: int
) -> None:
    reports = run_to_end(Training(make_config(folds=folds, first_folds=first), pixels, CPU))
    assert [(r.epoch, r.step, len(r.folds)) for r in reports] == [
        (epoch, epoch, len(folds)) for epoch in range(1, 5)
    ]
    lockstep = run_to_end(Training(make_config(folds=folds), pixels, CPU))
    assert numbers(reports) == numbers(lockstep)


def test_next_stage_begins_at_its_own_step_when_patience_ends_one_early(pixels: Pixels) -> None:
    config = find_first_fold_that_loses_patience(pixels)
    reports = run_to_end(Training(config, pixels, CPU))
    first = [r for r in reports if r.step <= 8]
    assert first[-1].folds[0].stopped
    assert [r.step for r in reports[len(first) :]] == [
        8 + r.epoch for r in reports[len(first) :]
    ], "equal steps mean equal epochs of the same folds"
    assert reports[len(first)].epoch == 1
    alone = run_to_end(Training(dataclasses.replace(config, folds=(1,)), pixels, CPU))
    assert without_times(reports[-1].folds[1]) == without_times(alone[-1].folds[0])


def test_resumed_at_any_step_of_a_stage_equals_uninterrupted(pixels: Pixels) -> None:
    config = make_config("contrastive+wpm", folds=(0, 1, 2), max_epochs=2, first_folds=1)
    whole = run_to_end(Training(config, pixels, CPU))
    steps = config.protocol.iterations_per_epoch
    positions = set()
    stops = range(2 * steps - 1, 6 * steps)  # from the last step of the first stage on
    for stop in stops:
        interrupted = Training(config, pixels, CPU)
        left = iter(range(stop))
        while interrupted.run_epoch(lambda left=left: next(left, None) is None) is not None:  # type: ignore[misc]
            pass
        positions.add(interrupted.position)
        resumed = Training(config, pixels, CPU)
        resumed.load_state_dict(interrupted.state_dict())
        assert resumed.position == interrupted.position
        done = interrupted.position[0]
        assert numbers(run_to_end(resumed)) == numbers(whole)[done:], stop
    assert len(positions) == len(stops), "a checkpoint is named after its position"


def test_resumed_after_patience_ended_a_stage_equals_uninterrupted(pixels: Pixels) -> None:
    config = find_first_fold_that_loses_patience(pixels)
    whole = numbers(run_to_end(Training(config, pixels, CPU)))
    for stop in range(1, len(whole)):
        interrupted = Training(config, pixels, CPU)
        for _ in range(stop):
            interrupted.run_epoch()
        resumed = Training(config, pixels, CPU)
        resumed.load_state_dict(interrupted.state_dict())
        assert numbers(run_to_end(resumed)) == whole[stop:]


def test_pauses_change_nothing(pixels: Pixels) -> None:
    config = make_config(first_folds=1, max_epochs=2, validate_untrained=True)
    whole = run_to_end(Training(config, pixels, CPU))
    paused, reports = Training(config, pixels, CPU), []
    turns = itertools.cycle((False, True))
    while not paused.finished:
        report = paused.run_epoch(lambda: next(turns))
        if report is not None:
            reports.append(report)
    assert numbers(reports) == numbers(whole)


def test_folds_take_no_memory_before_their_turn(pixels: Pixels) -> None:
    training = Training(make_config(first_folds=1, max_epochs=1), pixels, CPU)
    assert [fold.position for fold in training.folds] == [0]
    training.run_epoch()
    assert len(training.folds) == 1
    assert not training.finished, "three folds have not begun"
    training.run_epoch()
    assert [fold.position for fold in training.folds] == [0, 1, 2, 3]
    assert training.finished


def test_checkpoint_of_before_has_no_step(pixels: Pixels) -> None:
    config = make_config()
    whole = run_to_end(Training(config, pixels, CPU))
    training = Training(config, pixels, CPU)
    training.run_epoch()
    state = training.state_dict()
    del state["step"]
    resumed = Training(config, pixels, CPU)
    resumed.load_state_dict(state)
    assert numbers(run_to_end(resumed)) == numbers(whole)[1:]


def reach(epoch: int, step: int, stopped: tuple[bool, ...]) -> Report:
    folds = tuple(fold_report(fold, stopped=value) for fold, value in enumerate(stopped))
    return Report(epoch, 0.5, folds, step=step)


@pytest.mark.parametrize(
    ("report", "is_last"),
    [
        (reach(4, 4, (False,)), False),
        (reach(2, 2, (True,)), False),
        (reach(3, 7, (False, True, False, True)), False),
        (reach(3, 7, (False, True, True, True)), True),  # fold 0 ended with its epochs
        (reach(4, 8, (True, False, False, False)), True),
    ],
)
def test_last_report_is_that_of_the_last_stage(report: Report, is_last: bool) -> None:
    assert Stages.of(make_config(first_folds=1)).is_last(report) == is_last
