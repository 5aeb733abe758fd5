"""A surrogate of a recorded study: it predicts what any configuration would have reported."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Kernel, Matern, WhiteKernel
from sklearn.model_selection import KFold

from benchmarks.search_replay import Curves, RecordedStudy

_CANDIDATES = 2**14
_Array = NDArray[np.float64]
# A function from (points, parameters) to (points, folds x epochs).
_Predict = Callable[[_Array], _Array]


def fit_trees(points: _Array, curves: _Array) -> _Predict:
    """Fit extremely randomised trees, which reproduce every recorded score."""
    forest = ExtraTreesRegressor(50, random_state=0).fit(points, curves)
    return partial(_ask_trees, [tree.tree_ for tree in forest.estimators_])


def _ask_trees(trees: Sequence[Any], asked: _Array) -> _Array:
    features = asked.astype(
        np.float32
    )  # calls the trees directly, without the slow checks of scikit-learn
    mean: _Array = np.mean([tree.value[tree.apply(features), :, 0] for tree in trees], axis=0)
    return mean


def fit_process(points: _Array, curves: _Array) -> _Predict:
    """Fit a Gaussian process: its kernel to the last scores, its weights to all scores."""
    kernel = ConstantKernel() * Matern(np.ones(points.shape[1]), (0.05, 20.0), nu=2.5)
    process = GaussianProcessRegressor(
        kernel + WhiteKernel(1e-3), normalize_y=True, n_restarts_optimizer=2, random_state=0
    )
    with warnings.catch_warnings():
        # The length scale of a parameter without effect ends at its bound, with a warning.
        warnings.simplefilter("ignore", ConvergenceWarning)
        process.fit(points, curves[:, -1])
    mean = curves.mean(axis=0)
    weights = np.linalg.solve(process.kernel_(points), curves - mean)
    return partial(_ask_process, process.kernel_.k1, points, mean, weights)


def _ask_process(
    smooth: Kernel, points: _Array, mean: _Array, weights: _Array, asked: _Array
) -> _Array:
    curve: _Array = mean + smooth(asked, points) @ weights
    return curve


SURROGATES = {"trees": fit_trees, "process": fit_process}


@dataclass(frozen=True)
class Axis:
    """A searched parameter."""

    name: str
    low: float
    high: float
    log: bool

    def to_unit(self, value: float) -> float:
        """Return a position between 0 and 1."""
        if self.log:
            return float(np.log(value / self.low) / np.log(self.high / self.low))
        return (value - self.low) / (self.high - self.low)

    def from_unit(self, position: float) -> float:
        """Return the value at a position between 0 and 1."""
        if self.log:
            return float(self.low * (self.high / self.low) ** position)
        return self.low + position * (self.high - self.low)


class Landscape:
    """A surrogate of a study, from the parameters to the curves of all folds. Its seed is fixed.

    Recorded curves that ended early are extended by their last value. The noise is the residuals
    of a recorded trial, drawn at random. With `fit_trees` there is no noise, because its landscape
    is as rugged as the recording.

    Args:
        study: the recorded trials.
        surrogate: one of `SURROGATES`.

    Attributes:
        best: largest score without noise, among 16,384 configurations from the entire space and
            the recorded ones.
        noise: standard deviation of the residuals of the last scores.
        explained: share of the variance of the last scores that is explained, on tenths of the
            trials that the surrogate was not fitted to.
    """

    def __init__(self, study: RecordedStudy, surrogate: str) -> None:
        self.study = study
        self.axes = [
            Axis(name, s["low"], s["high"], s["scale"] == "log")
            for name, s in study.searched.items()
        ]
        epochs = study.protocol.max_epochs
        self._shape = (study.protocol.folds, epochs)
        points = np.array([self._features(parameters) for parameters in study.parameters])
        curves = np.array([
            np.concatenate([pad(fold, epochs) for fold in trial.values]) for trial in study.curves
        ])  # fmt: skip
        self._seconds = float(np.median([trial.seconds for trial in study.curves]))

        fit, ends = SURROGATES[surrogate], self._ends(curves)
        errors = np.concatenate([
            self._ends(fit(points[rest], curves[rest])(points[tenth])) - ends[tenth]
            for rest, tenth in KFold(10, shuffle=True, random_state=0).split(points)
        ])  # fmt: skip
        self.explained = float(1 - np.mean(errors**2) / ends.var())
        self._fitted = fit(points, curves)
        self._residuals = curves.reshape(-1, *self._shape) - self._predict(points)
        self.noise = float(self._residuals[:, :, -1].mean(axis=1).std())
        scores = self._predict(np.concatenate([self._spread(), points]))[:, :, -1].mean(axis=1)
        self.best = float(scores.max())

    def _ends(self, curves: _Array) -> _Array:
        """Return the mean over folds of the last values of (trials, folds x epochs) curves."""
        ends: _Array = curves.reshape(-1, *self._shape)[:, :, -1].mean(axis=1)
        return ends

    def _features(self, parameters: Mapping[str, float]) -> list[float]:
        """Return positions between 0 and 1, and for a pair of margins their difference."""
        positions = [axis.to_unit(parameters[axis.name]) for axis in self.axes]
        if {"pos_margin", "neg_margin"} <= set(parameters):
            positions.append(parameters["neg_margin"] - parameters["pos_margin"])
        return positions

    def _spread(self) -> _Array:
        """Return the features of configurations that cover the space evenly."""
        sobol = qmc.Sobol(len(self.axes), rng=0).random(_CANDIDATES)
        return np.array([
            self._features({a.name: a.from_unit(u) for a, u in zip(self.axes, point, strict=True)})
            for point in sobol
        ])  # fmt: skip

    def _predict(self, points: _Array) -> _Array:
        """Return (points, folds, epochs) scores without noise; the best so far never falls."""
        curves: _Array = self._fitted(points).reshape(-1, *self._shape)
        return np.maximum.accumulate(curves, axis=2)

    def score(self, parameters: Mapping[str, float]) -> float:
        """Return the last score of a configuration, without noise."""
        return float(self._predict(np.array([self._features(parameters)]))[0, :, -1].mean())

    def train(self, parameters: Mapping[str, float], rng: np.random.Generator) -> Curves:
        """Return what a trial would report: the prediction plus the residuals of a recorded trial.

        Args:
            rng: chooses the trial whose residuals are the noise, and the pace.
        """
        curves = self._predict(np.array([self._features(parameters)]))[0]
        noisy = np.maximum.accumulate(curves + rng.choice(self._residuals), axis=1)
        return Curves(noisy.tolist(), self._seconds * rng.uniform(0.9, 1.1))


def pad(values: Sequence[float], length: int) -> list[float]:
    """Repeat the last value up to a length."""
    return [*values, *[values[-1]] * (length - len(values))]
