"""The score that a random forest predicts over two parameters of a search."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.studies.forest import (
    LEAST_TRIALS,
    collect_points,
    fit_forest,
    scaled_edges,
    to_arrays,
)
from analysis.studies.histories import Search

_GRID = 25  # values on each side of a surface
_BACKGROUND = 50  # a surface averages the other parameters over at most this many trials


@dataclass(frozen=True)
class Surface:
    """The predicted score over two parameters, averaged over the others.

    Attributes:
        parameters: names of the parameter on the x axis and of the one on the y axis.
        x: values of the first, evenly spaced on its searched scale.
        y: values of the second, likewise.
        score: (len(y), len(x)) fractions.
    """

    parameters: tuple[str, str]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    score: NDArray[np.float64]


def predict_surface(search: Search, parameters: tuple[str, str]) -> Surface | None:
    """Predict the score over two parameters.

    A prediction averages over the values that the other parameters have in the trials (partial
    dependence, Friedman, Annals of Statistics 2001). Without this, scores drawn over two of five
    parameters show mostly the noise of the other three.

    Returns:
        The surface; None if there are fewer than `LEAST_TRIALS` trials.
    """
    _, points = collect_points(search)
    if len(points) < LEAST_TRIALS:
        return None
    searched, names = search.searched, list(search.searched)
    inputs, scores = to_arrays(points, searched)
    forest = fit_forest(inputs, scores)
    columns = [names.index(name) for name in parameters]
    axes = [np.linspace(*scaled_edges(searched[name]), _GRID) for name in parameters]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    spread = np.linspace(0, len(inputs) - 1, min(len(inputs), _BACKGROUND)).astype(int)
    # Every point of the grid is predicted once with the other parameters of each of these trials.
    asked = np.repeat(inputs[spread][None], len(grid), axis=0)
    asked[:, :, columns] = grid[:, None, :]
    predicted = forest.predict(asked.reshape(-1, len(names))).reshape(len(grid), -1).mean(axis=1)
    x, y = (
        np.exp(axis) if searched[name]["scale"] == "log" else axis
        for name, axis in zip(parameters, axes, strict=True)
    )
    return Surface(parameters, x, y, predicted.reshape(_GRID, _GRID))
