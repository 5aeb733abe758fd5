"""Which searched parameters mattered: two estimates, whether they agree, and how far to trust them.

fANOVA asks how much of the variance of scores a parameter explains by itself, over the whole range;
permutation asks how much worse the scores of held-out trials are predicted once a parameter's
values are shuffled. The first does not see interactions, the second does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from analysis.studies.histories import Search, TrialHistory
from wpm.records import COMPLETE, PRUNED

if TYPE_CHECKING:
    import optuna
    from sklearn.ensemble import RandomForestRegressor

Point = tuple[Mapping[str, float], float]  # parameters, score

LEAST_SKILL = 0.1  # of a forest; by chance alone it comes out as high on a few dozen trials
LEAST_TRIALS = 10  # and at least three a parameter
MOST_TRIALS = 300  # fANOVA's time grows with their square; more are drawn from
_FANOVA_TREES = 16
_FOREST_TREES = 32
_FOLDS = 5
_SHUFFLES = 10
_SEED = 0  # the same records give the same numbers
_GRID = 25  # values a side of a surface
_BACKGROUND = 50  # trials over which a surface averages the other parameters


@dataclass(frozen=True)
class Importance:
    """How much each searched parameter mattered.

    Attributes:
        target: which score is explained, for people.
        trials: how many trials it is estimated from.
        available: how many there are; more than `trials` where these were drawn from them.
        fanova: share of the explained variance by parameter, the largest first; they sum to 1.
        permutation: share of the loss of held-out prediction by parameter; they sum to 1, or are
            all 0 where shuffling loses nothing.
        skill: share of the variance of held-out trials that the random forest predicts; below
            `LEAST_SKILL` the shares mean nothing.
        kendall: rank correlation of the two estimates, in [-1, 1]; None below three parameters.
    """

    target: str
    trials: int
    available: int
    fanova: Mapping[str, float]
    permutation: Mapping[str, float]
    skill: float
    kendall: float | None

    @property
    def first(self) -> tuple[str, str]:
        """The parameter that each estimate puts first: fANOVA, permutation."""
        return max(self.fanova, key=self.fanova.__getitem__), max(
            self.permutation, key=self.permutation.__getitem__
        )


@dataclass(frozen=True)
class Surface:
    """Predicted score over two parameters, the others averaged out.

    Attributes:
        parameters: their names: x, y.
        x: values of the first, on its searched scale.
        y: values of the second.
        score: (len(y), len(x)) fractions.
    """

    parameters: tuple[str, str]
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    score: NDArray[np.float64]


def collect_points(search: Search, *, complete_only: bool = False) -> tuple[str, list[Point]]:
    """Return what is to be explained: a score of every trial that has it.

    Where successive halving stopped trials, complete ones are those that were good early, and their
    final scores tell little about the range: the score at the first rung is one that all trials
    have, after the same number of epochs.

    Args:
        search: the search.
        complete_only: take the final scores of complete trials all the same.

    Returns:
        The score's name, and parameters and score of the trials.
    """
    inside = [trial for trial in search.in_state(COMPLETE, PRUNED) if _is_inside(trial, search)]
    if complete_only or not search.in_state(PRUNED):
        complete = [trial for trial in inside if trial.outcome.state == COMPLETE]
        scores = [trial.outcome.score for trial in complete]
        return "final score of complete trials", _pair(complete, scores)
    epoch = int(search.identity["protocol"].get("grace_epochs", 1))
    scores = [trial.score_at(epoch) for trial in inside]
    return f"score at the first rung (epoch {epoch}) of complete and stopped trials", _pair(
        inside, scores
    )


def _pair(trials: Sequence[TrialHistory], scores: Sequence[float | None]) -> list[Point]:
    return [
        (trial.outcome.parameters, score)
        for trial, score in zip(trials, scores, strict=True)
        if score is not None
    ]


def _is_inside(trial: TrialHistory, search: Search) -> bool:
    """Whether a trial has every searched parameter, within its range."""
    parameters = trial.outcome.parameters
    return all(
        name in parameters and bounds["low"] <= parameters[name] <= bounds["high"]
        for name, bounds in search.searched.items()
    )


def measure_importance(
    search: Search, *, complete_only: bool = False
) -> tuple[Importance | None, str]:
    """Estimate how much each searched parameter of a study mattered.

    Args:
        search: the study.
        complete_only: explain final scores also where trials were stopped.

    Returns:
        The estimates, or None and a line that says why there are none.
    """
    target, points = collect_points(search, complete_only=complete_only)
    available, names = len(points), list(search.searched)
    if len(names) < 2:
        return None, f"{len(names)} parameter is searched: there is nothing to weigh it against"
    needed = max(LEAST_TRIALS, 3 * len(names))
    if available < needed:
        return None, (
            f"too few trials to tell which parameters mattered: {available} have a {target}, "
            f"{needed} are needed for {len(names)} parameters"
        )
    if len({score for _, score in points}) == 1:
        return None, f"all {available} trials have the same {target}: no parameter mattered"
    if available > MOST_TRIALS:
        drawn = np.random.default_rng(_SEED).choice(available, MOST_TRIALS, replace=False)
        points = [points[i] for i in sorted(drawn)]
    fanova = _measure_fanova(points, search.searched)
    losses, skill = _measure_permutation(points, search.searched)
    total = sum(losses.values())
    permutation = {name: loss / total if total else 0.0 for name, loss in losses.items()}
    kendall = _rank_correlation(fanova, permutation) if len(names) > 2 else None
    return Importance(target, len(points), available, fanova, permutation, skill, kendall), ""


def describe_agreement(importance: Importance) -> str:
    """Say whether the two estimates agree, and what stands behind them, in a line."""
    if importance.skill < LEAST_SKILL:
        return (
            "a random forest predicts next to nothing of held-out trials "
            f"(R² {importance.skill:.2f}): the shares mean nothing yet, more trials are needed"
        )
    fanova, permutation = importance.first
    both = (
        f"both put {fanova} first"
        if fanova == permutation
        else f"they disagree: fANOVA puts {fanova} first, permutation {permutation}"
    )
    ranks = "" if importance.kendall is None else f", Kendall's tau {importance.kendall:.2f}"
    return f"{both}{ranks}; a random forest explains {importance.skill:.0%} of held-out variance"


def predict_surface(search: Search, parameters: tuple[str, str]) -> Surface | None:
    """Predict the score over two parameters by a random forest.

    A prediction averages over the other parameters' values in trials (partial dependence, Friedman,
    Annals of Statistics 2001): scores laid out over two of five parameters are mostly the noise of
    the other three.

    Returns:
        The surface; None with fewer than `LEAST_TRIALS` trials.
    """
    _, points = collect_points(search)
    if len(points) < LEAST_TRIALS:
        return None
    searched, names = search.searched, list(search.searched)
    inputs, scores = _to_arrays(points, searched)
    forest = _fit(inputs, scores)
    columns = [names.index(name) for name in parameters]
    axes = [np.linspace(*_scaled_edges(searched[name]), _GRID) for name in parameters]
    grid = np.stack(np.meshgrid(*axes), axis=-1).reshape(-1, 2)
    spread = np.linspace(0, len(inputs) - 1, min(len(inputs), _BACKGROUND)).astype(int)
    background = inputs[spread]
    asked = np.repeat(background[None], len(grid), axis=0)
    asked[:, :, columns] = grid[:, None, :]
    predicted = forest.predict(asked.reshape(-1, len(names))).reshape(len(grid), -1).mean(axis=1)
    x, y = (
        np.exp(axis) if searched[name]["scale"] == "log" else axis
        for name, axis in zip(parameters, axes, strict=True)
    )
    return Surface(parameters, x, y, predicted.reshape(_GRID, _GRID))


def _measure_fanova(
    points: Sequence[Point], searched: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Return Optuna's fANOVA (Hutter et al., ICML 2014), the largest share first."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = study_of_points(points, searched)
    evaluator = FanovaImportanceEvaluator(n_trees=_FANOVA_TREES, seed=_SEED)
    return {k: float(v) for k, v in get_param_importances(study, evaluator=evaluator).items()}


def study_of_points(
    points: Sequence[Point], searched: Mapping[str, Mapping[str, Any]]
) -> "optuna.Study":
    """Return an Optuna study in memory whose trials are complete.

    Raises:
        ValueError: a value lies outside its range.
    """
    import optuna
    from optuna.distributions import FloatDistribution

    # Whole numbers as well: their distribution would refuse a value that is not whole.
    distributions = {
        name: FloatDistribution(bounds["low"], bounds["high"], log=bounds["scale"] == "log")
        for name, bounds in searched.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of every study in memory
    study = optuna.create_study(direction="maximize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: parameters[name] for name in searched},
                distributions=dict(distributions),
                value=score,
            )
            for parameters, score in points
        ]
    )
    return study


def _measure_permutation(
    points: Sequence[Point], searched: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, float], float]:
    """Return what shuffling each parameter costs (Breiman, Machine Learning 2001), and the skill.

    Both on trials that the forest was not fitted on: `1 - squared error / variance` of them, and by
    how much it falls, at least 0, averaged over shuffles.
    """
    inputs, scores = _to_arrays(points, searched)
    rng = np.random.default_rng(_SEED)
    fold_of = rng.permutation(len(scores)) % _FOLDS
    columns = inputs.shape[1]
    error, shuffled_error = 0.0, np.zeros(columns)
    for fold in range(_FOLDS):
        held = fold_of == fold
        forest = _fit(inputs[~held], scores[~held])
        error += float(np.sum((forest.predict(inputs[held]) - scores[held]) ** 2))
        # All shuffles of all columns in one call: a call costs more than its rows.
        copies = np.repeat(inputs[held][None], columns * _SHUFFLES, axis=0)
        for copy in range(columns * _SHUFFLES):
            column = copy % columns
            copies[copy, :, column] = rng.permutation(copies[copy, :, column])
        predicted = forest.predict(copies.reshape(-1, columns)).reshape(_SHUFFLES, columns, -1)
        shuffled_error += np.mean(np.sum((predicted - scores[held]) ** 2, axis=2), axis=0)
    variance = float(np.sum((scores - scores.mean()) ** 2))
    losses = np.maximum(shuffled_error - error, 0) / variance
    return dict(zip(searched, losses.tolist(), strict=True)), 1 - error / variance


def _fit(inputs: NDArray[np.float64], scores: NDArray[np.float64]) -> "RandomForestRegressor":
    from sklearn.ensemble import RandomForestRegressor

    return RandomForestRegressor(_FOREST_TREES, random_state=_SEED).fit(inputs, scores)


def _to_arrays(
    points: Sequence[Point], searched: Mapping[str, Mapping[str, Any]]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (N, P) parameters on their searched scales, and (N,) scores."""
    inputs = np.array([[parameters[name] for name in searched] for parameters, _ in points])
    for column, bounds in enumerate(searched.values()):
        if bounds["scale"] == "log":
            inputs[:, column] = np.log(inputs[:, column])
    return inputs, np.array([score for _, score in points])


def _scaled_edges(bounds: Mapping[str, Any]) -> tuple[float, float]:
    if bounds["scale"] == "log":
        return math.log(bounds["low"]), math.log(bounds["high"])
    return bounds["low"], bounds["high"]


def _rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return Kendall's tau-a: concordant minus discordant pairs, as a share of all pairs."""
    names = list(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    signs = [float(np.sign(first[a] - first[b]) * np.sign(second[a] - second[b])) for a, b in pairs]
    return sum(signs) / len(pairs)
