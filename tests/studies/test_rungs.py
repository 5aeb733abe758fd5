"""Rungs: who trains on, who waits, and what a restart remembers."""

import dataclasses
import random

import pytest

from wpm.protocol_files import find_protocol
from wpm.protocols import HALVING, NO_STOPPING, PAUSING, Protocol, rung_steps
from wpm.studies.rungs import Rungs


def protocol(epochs: int = 9, first_folds: int = 0) -> Protocol:
    """Return a protocol whose rungs are steps 1 and 3 of 9, and the end of the first folds."""
    return dataclasses.replace(
        find_protocol("smoke", "folder"),
        max_epochs=epochs,
        grace_epochs=1,
        reduction_factor=3,
        first_folds=first_folds,
    )


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ({"max_epochs": 20, "grace_epochs": 2, "reduction_factor": 2}, (2, 4, 8)),
        ({"max_epochs": 16, "grace_epochs": 2, "reduction_factor": 2}, (2, 4, 8)),
        ({"max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3}, (1, 3)),
        ({"max_epochs": 2, "grace_epochs": 2, "reduction_factor": 2}, ()),
        ({"max_epochs": 9, "grace_epochs": 1, "reduction_factor": 3, "first_folds": 1}, (1, 3, 9)),
    ],
)
def test_rungs_lie_where_much_is_left_to_save(
    settings: dict[str, int], steps: tuple[int, ...]
) -> None:
    assert rung_steps(settings) == steps


def test_best_third_trains_on_and_the_others_wait() -> None:
    rungs = Rungs(protocol(), PAUSING)
    assert [rungs.reach(n, 1, value) for n, value in enumerate([0.2, 0.1, 0.3])] == [
        False, False, True,
    ]  # fmt: skip
    assert rungs.waiting == {0, 1}
    assert rungs.resume_one() is None


def test_trial_that_waits_trains_on_once_its_rung_has_filled() -> None:
    rungs = Rungs(protocol(), PAUSING)
    for number, value in enumerate([0.5, 0.4, 0.1, 0.1, 0.1]):
        rungs.reach(number, 1, value)
    assert rungs.waiting == {0, 1, 2, 3, 4}, "the first of all could not know its place"
    assert rungs.resume_one() == 0
    assert rungs.resume_one() is None
    assert not rungs.reach(5, 1, 0.2)
    assert rungs.resume_one() == 1, "the second best of six"
    assert rungs.resume_one() is None
    assert rungs.reach(1, 2, 0.6), "between two rungs nothing is decided"


def test_of_equals_the_earlier_trial_has_the_place() -> None:
    rungs = Rungs(protocol(), PAUSING)
    for number in range(3):
        rungs.reach(number, 1, 0.4)
    assert rungs.waiting == {0, 1, 2}
    assert rungs.resume_one() == 0
    assert rungs.resume_one() is None


def test_highest_rung_goes_first() -> None:
    rungs = Rungs(protocol(), PAUSING)
    for number in range(6):
        assert rungs.reach(number, 1, 0.1 * number) == (number >= 2)
    for number in (5, 4, 3):
        assert not rungs.reach(number, 3, 0.1 * number)
    for number in range(6, 15):
        assert not rungs.reach(number, 1, 0.0)
    assert rungs.resume_one() == 5, "the best of three at rung 3"
    assert rungs.resume_one() == 1, "the fifth of fifteen at rung 1"
    assert rungs.resume_one() is None


def test_last_call_completes_at_least_one_trial() -> None:
    rungs = Rungs(protocol(), PAUSING)
    assert not rungs.reach(0, 1, 0.1)
    assert not rungs.reach(1, 1, 0.2)
    assert rungs.resume_one() is None, "two of three trials decide nothing"
    assert rungs.resume_one(is_last_call=True) == 1
    assert rungs.resume_one(is_last_call=True) is None
    assert not rungs.reach(1, 3, 0.2)
    assert rungs.resume_one(is_last_call=True) == 1


def test_jump_over_rungs_is_judged_at_each() -> None:
    """Where patience ends the first folds early, their last report has the last step."""
    rungs = Rungs(protocol(first_folds=1), PAUSING)
    for number in range(6):
        assert rungs.reach(number, 1, 0.1 * number) == (number >= 2)
    assert not rungs.reach(5, 9, 0.9)
    assert not rungs.reach(4, 9, 0.5)
    assert rungs.resume_one() is None, "two at rung 3 decide nothing"
    assert not rungs.reach(3, 3, 0.2)
    assert rungs.resume_one() is None, "5 passed rung 3 and waits at rung 9"
    assert not rungs.reach(2, 9, 0.1)
    assert rungs.resume_one() == 5, "2 is behind at rung 3, and counts at rung 9 all the same"


def test_halving_ends_a_trial_and_lets_the_first_pass() -> None:
    rungs = Rungs(protocol(), HALVING)
    assert [rungs.reach(n, 1, value) for n, value in enumerate([0.2, 0.1, 0.3])] == [
        True, False, True,
    ]  # fmt: skip
    assert not rungs.waiting
    assert rungs.resume_one(is_last_call=True) is None


def test_without_stopping_there_are_no_rungs() -> None:
    rungs = Rungs(protocol(first_folds=1), NO_STOPPING)
    assert all(rungs.reach(number, step, -step) for number in range(9) for step in (1, 3, 9))


def test_known_point_is_compared_at_the_last_rung_only() -> None:
    rungs = Rungs(protocol(first_folds=1), PAUSING)
    assert all(rungs.reach(9, step, 0.9, known=True) for step in (1, 2, 3, 8))
    for number, value in enumerate([0.2, 0.1, 0.3]):
        rungs.reach(number, 1, value)
    assert rungs.waiting == {0, 1}, "the best of the sampled ones passed beside the known one"
    assert not rungs.reach(9, 9, 0.9, known=True)
    for number in (2, 10):
        rungs.reach(number, 9, 0.3, known=number == 10)
    assert rungs.resume_one() == 9


@pytest.mark.parametrize("first_folds", [0, 1])
@pytest.mark.parametrize("seed", range(20))
def test_restart_at_any_moment_remembers_who_waits(seed: int, first_folds: int) -> None:
    rng = random.Random(seed)
    settings = protocol(first_folds=first_folds)
    rungs, curves = Rungs(settings, PAUSING), {n: {} for n in range(12)}  # type: ignore[var-annotated]
    active: list[int] = []
    for _ in range(60):
        fresh = [n for n in curves if not curves[n] and n not in active]
        resumed = rungs.resume_one()
        if resumed is not None:
            active.append(resumed)
        elif fresh:
            active.append(fresh[0])
        if active:
            number = rng.choice(active)
            step = max(curves[number], default=0) + 1
            curves[number][step] = rng.random()
            known = number == 3
            if not rungs.reach(number, step, curves[number][step], known=known) or step == 18:
                active.remove(number)
        again = Rungs(settings, PAUSING)
        for n, values in curves.items():
            again.take_in(n, values, known=n == 3, ends=max(values, default=0) == 18)
        # One that was told to train on and has not reported since may wait once more.
        assert again.waiting >= rungs.waiting
        assert again.waiting - rungs.waiting <= set(active)
        assert again._values == rungs._values
