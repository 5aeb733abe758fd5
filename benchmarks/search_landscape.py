"""A surrogate of a recorded study: what any configuration of its space would have reported."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import qmc
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.model_selection import KFold, cross_val_predict

from benchmarks.search_replay import History

_CANDIDATES = 2**13
_TREES = 50
_Array = NDArray[np.float64]


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
    """Extremely randomised trees over a study's trials: from parameters to the whole history.

    Of forests and Gaussian processes they predicted left-out trials best, and they invent no score
    better than the recorded ones. Histories that ended early keep their last value.

    Attributes:
        best: largest noise-free score in the space.
        noise: standard deviation of what the surrogate leaves unexplained of the last scores.
        explained: share of their variance that it explains at left-out tenths of the trials.
    """

    def __init__(self, study: Mapping[str, Any]) -> None:
        """Fit, with a fixed seed.

        Args:
            study: one of `benchmarks.search_replay.read_studies`.
        """
        self.name = study["row"]
        self.axes = [
            Axis(name, s["low"], s["high"], s["scale"] == "log")
            for name, s in study["searched"].items()
        ]
        histories = [trial["history"] for trial in study["trials"]]
        self._epochs = max((history.epochs for history in histories), key=len)
        points = np.array([self._features(trial["parameters"]) for trial in study["trials"]])
        curves = np.array([pad(history.values, len(self._epochs)) for history in histories])
        self._seconds_per_report = float(
            np.median([h.seconds[-1] / len(h.seconds) for h in histories])
        )

        forest = ExtraTreesRegressor(_TREES, min_samples_leaf=2, random_state=0)
        tenths = KFold(10, shuffle=True, random_state=0)
        left_out = cross_val_predict(forest, points, curves, cv=tenths)[:, -1] - curves[:, -1]
        self.explained = float(1 - np.mean(left_out**2) / curves[:, -1].var())
        forest.fit(points, curves)
        self._trees = [tree.tree_ for tree in forest.estimators_]
        self._residuals = curves - self._predict(points)
        self.noise = float(self._residuals[:, -1].std())
        self.best = float(self._predict(np.concatenate([self._spread(), points]))[:, -1].max())

    def _features(self, parameters: Mapping[str, float]) -> list[float]:
        """Return positions between 0 and 1, and for a pair of margins how far they are apart."""
        positions = [axis.to_unit(parameters[axis.name]) for axis in self.axes]
        if {"pos_margin", "neg_margin"} <= set(parameters):
            positions.append(parameters["neg_margin"] - parameters["pos_margin"])
        return positions

    def _spread(self) -> _Array:
        """Return features of configurations all over the space."""
        sobol = qmc.Sobol(len(self.axes), rng=0).random(_CANDIDATES)
        return np.array([
            self._features({a.name: a.from_unit(u) for a, u in zip(self.axes, point, strict=True)})
            for point in sobol
        ])  # fmt: skip

    def _predict(self, points: _Array) -> _Array:
        """Return (points, epochs) scores without noise."""
        features = points.astype(np.float32)
        curves = sum(tree.value[tree.apply(features), :, 0] for tree in self._trees)
        mean: _Array = np.maximum.accumulate(curves / len(self._trees), axis=1)
        return mean

    def score(self, parameters: Mapping[str, float]) -> float:
        """Return the last score of a configuration, without noise."""
        return float(self._predict(np.array([self._features(parameters)]))[0, -1])

    def train(self, parameters: Mapping[str, float], rng: np.random.Generator) -> History:
        """Return what a trial would report: the surrogate plus the residuals of a recorded trial.

        Args:
            parameters: values of all searched parameters.
            rng: chooses the trial whose residuals are the noise.
        """
        curve = self._predict(np.array([self._features(parameters)]))[0]
        noisy = np.maximum.accumulate(curve + rng.choice(self._residuals))
        count = len(self._epochs)
        seconds = self._seconds_per_report * rng.uniform(0.9, 1.1) * np.arange(1, count + 1)
        return History(self._epochs, noisy.tolist(), [1.0] * count, seconds.tolist())


def pad(values: Any, length: int) -> list[float]:
    """Repeat the last value."""
    return [*values, *[values[-1]] * (length - len(values))]
