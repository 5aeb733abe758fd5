"""Trials as points in the space of parameters, and a random forest that predicts their scores."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.studies.histories import Search, TrialHistory
from wpm.records import TrialState

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestRegressor

ScoredParameters = tuple[Mapping[str, float], float]

LEAST_TRIALS = 10  # a forest on fewer trials predicts nothing
_TREES = 32
SEED = 0  # fixed, so that the same records give the same numbers


def collect_points(
    search: Search, *, complete_only: bool = False
) -> tuple[str, list[ScoredParameters]]:
    """Return the trials with the score that is to be explained.

    If successive halving stopped trials, the complete ones are those that were good early, and
    their final scores say little about the entire range. The score at the first rung is one that
    all trials have, after the same number of epochs.

    Args:
        complete_only: take the final scores of complete trials even if others were stopped.

    Returns:
        The name of the score, and the parameters and the score of every trial that has one.
    """
    inside = [
        trial
        for trial in search.in_state(TrialState.COMPLETE, TrialState.PRUNED)
        if _is_inside(trial, search)
    ]
    if complete_only or not search.in_state(TrialState.PRUNED):
        complete = [trial for trial in inside if trial.outcome.state == TrialState.COMPLETE]
        scores = [trial.outcome.score for trial in complete]
        return "final score of complete trials", _pair(complete, scores)
    epoch = int(search.identity["protocol"].get("grace_epochs", 1))
    scores = [trial.score_at(epoch) for trial in inside]
    return f"score at the first rung (epoch {epoch}) of complete and stopped trials", _pair(
        inside, scores
    )


def _pair(trials: Sequence[TrialHistory], scores: Sequence[float | None]) -> list[ScoredParameters]:
    return [
        (trial.outcome.parameters, score)
        for trial, score in zip(trials, scores, strict=True)
        if score is not None
    ]


def _is_inside(trial: TrialHistory, search: Search) -> bool:
    """Return whether a trial has every searched parameter, within its range."""
    parameters = trial.outcome.parameters
    return all(
        name in parameters and bounds["low"] <= parameters[name] <= bounds["high"]
        for name, bounds in search.searched.items()
    )


def to_arrays(
    points: Sequence[ScoredParameters], searched: Mapping[str, Mapping[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the (N, P) parameters on their searched scales, and the (N,) scores."""
    inputs = np.array([[parameters[name] for name in searched] for parameters, _ in points])
    for column, bounds in enumerate(searched.values()):
        if bounds["scale"] == "log":
            inputs[:, column] = np.log(inputs[:, column])
    return inputs, np.array([score for _, score in points])


def scaled_edges(bounds: Mapping[str, Any]) -> tuple[float, float]:
    """Return both edges of a range on its searched scale."""
    if bounds["scale"] == "log":
        return math.log(bounds["low"]), math.log(bounds["high"])
    return bounds["low"], bounds["high"]


def fit_forest(inputs: NDArray[np.float64], scores: NDArray[np.float64]) -> "RandomForestRegressor":
    """Fit a random forest to the output of `to_arrays`."""
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(_TREES, random_state=SEED).fit(inputs, scores)
