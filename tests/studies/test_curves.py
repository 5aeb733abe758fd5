"""Samplers that learn from trials that have not ended, on studies whose curves are invented."""

import math
from collections.abc import Callable

import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState as OptunaState

from wpm.records import TrialState
from wpm.studies.curves import CurveSampler, WaitingTreeSampler

SPACE: dict[str, BaseDistribution] = {
    "x": FloatDistribution(0.0, 1.0),
    "y": FloatDistribution(1e-3, 1.0, log=True),
}
RUNGS = (2, 4)


def quality(x: float, y: float) -> float:
    """Return a score with its best of 1 at x = 0.7, y = 0.1."""
    return math.exp(-8 * (x - 0.7) ** 2 - 0.3 * math.log10(y / 0.1) ** 2)


def search(
    sampler: optuna.samplers.BaseSampler, trials: int, end: Callable[[optuna.Trial, float], None]
) -> list[float]:
    """Search, and return the true qualities of what was proposed."""
    study = optuna.create_study(direction="maximize", sampler=sampler)
    proposed = []
    for _ in range(trials):
        trial = study.ask(SPACE)
        proposed.append(quality(**trial.params))
        end(trial, proposed[-1])
    return proposed


def stop_at_the_first_rung(trial: optuna.Trial, score: float) -> None:
    """Leave a trial waiting: it stays RUNNING in the study."""
    trial.report(0.1 * score, step=1)
    trial.report(0.2 * score, step=2)


@pytest.mark.parametrize("sampler", [CurveSampler, WaitingTreeSampler])
def test_sampler_learns_from_trials_that_all_wait(
    sampler: type[CurveSampler | WaitingTreeSampler],
) -> None:
    proposed = search(sampler(0, RUNGS, SPACE), 30, stop_at_the_first_rung)
    blind = search(optuna.samplers.RandomSampler(seed=0), 30, stop_at_the_first_rung)
    assert sum(proposed[15:]) > 1.3 * sum(blind[15:])


def test_curves_find_the_best_within_a_percent() -> None:
    assert max(search(CurveSampler(0, RUNGS, SPACE), 15, stop_at_the_first_rung)) > 0.99


def test_ends_ahead_are_predicted_and_failures_are_left_out() -> None:
    sampler = CurveSampler(0, RUNGS, SPACE)
    study = optuna.create_study(direction="maximize", sampler=sampler)

    def begin(*reports: float) -> optuna.Trial:
        trial = study.ask(SPACE)
        for step, value in enumerate(reports, start=1):
            trial.report(value, step)
        return trial

    study.tell(begin(0.1, 0.2, 0.3, 0.4, 0.8), 0.8)
    begin(0.1, 0.1)
    begin(0.1, 0.2, 0.3, 0.5)
    begin(0.1)
    failed = begin(0.1, 0.9)
    study.tell(failed, state=OptunaState.FAIL)
    diverged = begin(0.1, 0.9)
    diverged.set_user_attr(TrialState.DIVERGED, True)
    study.tell(diverged, 0.0)
    tried = [t for t in study.trials if t.state is not OptunaState.FAIL]
    shown = sampler._show(tried)
    assert [None if t.value is None else round(t.value, 6) for t in shown] == [
        0.8, 0.45, 1.0, None, 0.0,
    ]  # fmt: skip
    assert [t.state.is_finished() for t in shown] == [True, True, True, False, True]


def test_first_proposals_are_spread_evenly() -> None:
    study = optuna.create_study(direction="maximize", sampler=CurveSampler(0, RUNGS, SPACE))
    halves = [study.ask(SPACE).params["x"] > 0.5 for _ in range(4)]
    assert sum(halves) == 2


def test_enqueued_points_come_first_and_count() -> None:
    study = optuna.create_study(direction="maximize", sampler=CurveSampler(0, RUNGS, SPACE))
    for x in (0.1, 0.4, 0.6, 0.9):
        study.enqueue_trial({"x": x, "y": 0.1})
    for x in (0.1, 0.4, 0.6, 0.9):
        trial = study.ask(SPACE)
        assert trial.params == {"x": x, "y": 0.1}
        study.tell(trial, quality(**trial.params))
    assert 0.55 < study.ask(SPACE).params["x"] < 0.85, "the process was asked at once"


@pytest.mark.parametrize("sampler", [CurveSampler, WaitingTreeSampler])
def test_parameter_with_a_single_value_is_sampled(
    sampler: type[CurveSampler | WaitingTreeSampler],
) -> None:
    space: dict[str, BaseDistribution] = {**SPACE, "z": FloatDistribution(0.3, 0.3)}
    study = optuna.create_study(direction="maximize", sampler=sampler(0, RUNGS, space))
    for _ in range(14):
        trial = study.ask(space)
        assert trial.params["z"] == 0.3
        study.tell(trial, trial.params["x"])
