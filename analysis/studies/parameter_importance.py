"""Estimate which searched parameters mattered, in two ways, and say how far to trust the answer.

fANOVA gives the share of the variance of scores that a parameter explains by itself, over its
entire range. Permutation gives how much worse the scores of held-out trials are predicted once the
values of a parameter are shuffled. The first does not see interactions, the second does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from analysis.numbers.boundary import BoundaryCheck, check_boundaries
from analysis.studies.forest import (
    LEAST_TRIALS,
    SEED,
    ScoredParameters,
    collect_points,
    fit_forest,
    to_arrays,
)
from analysis.studies.histories import Search, TrialHistory

if TYPE_CHECKING:
    import optuna

LEAST_SKILL = 0.1  # a forest on a few dozen trials reaches this much by chance
LEAST_PER_PARAMETER = 3  # trials that are needed for each parameter, beside `LEAST_TRIALS` in all
MOST_TRIALS = 300  # the time of fANOVA grows with their square; of more trials a sample is drawn
_FANOVA_TREES = 16
_FOLDS = 5
_SHUFFLES = 10


@dataclass(frozen=True)
class Importance:
    """How much each searched parameter mattered.

    Attributes:
        target: name of the score that is explained, for people.
        trials: number of trials that the estimate uses.
        available: number of trials with that score; more than `trials` if a sample was drawn.
        fanova: by parameter, its share of the explained variance, the largest first; they sum to 1.
        permutation: by parameter, its share of what held-out prediction loses; they sum to 1, or
            are all 0 if shuffling loses nothing.
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
        """The parameter that fANOVA puts first, and the one that permutation puts first."""
        return max(self.fanova, key=self.fanova.__getitem__), max(
            self.permutation, key=self.permutation.__getitem__
        )


@dataclass(frozen=True)
class RowImportance:
    """What a search says about its parameters.

    Attributes:
        search: the study with its trials.
        importance: None if it cannot be estimated.
        why_not: the reason for that, or "".
        best: the best complete trial; None if there is none.
        checks: distance of each parameter of the best trial from the edges of its range, the
            nearest first.
    """

    search: Search
    importance: Importance | None
    why_not: str
    best: TrialHistory | None
    checks: Sequence[BoundaryCheck]


def find_importance(search: Search, *, complete_only: bool = False) -> RowImportance:
    """Weigh the parameters of a study, and check its best trial against the edges of the ranges.

    Args:
        complete_only: explain final scores even if trials were stopped early.
    """
    importance, why_not = measure_importance(search, complete_only=complete_only)
    best = search.best
    checks = check_boundaries(best.outcome.parameters, search.searched) if best else []
    return RowImportance(search, importance, why_not, best, checks)


def measure_importance(
    search: Search, *, complete_only: bool = False
) -> tuple[Importance | None, str]:
    """Estimate how much each searched parameter of a study mattered.

    Args:
        complete_only: explain final scores even if trials were stopped early.

    Returns:
        The estimates and "", or None and a line that says why there are none.
    """
    target, points = collect_points(search, complete_only=complete_only)
    available, names = len(points), list(search.searched)
    if len(names) < 2:
        return None, f"{len(names)} parameter is searched: there is nothing to weigh it against"
    needed = max(LEAST_TRIALS, LEAST_PER_PARAMETER * len(names))
    if available < needed:
        return None, (
            f"too few trials to tell which parameters mattered: {available} have a {target}, "
            f"{needed} are needed for {len(names)} parameters"
        )
    if len({score for _, score in points}) == 1:
        return None, f"all {available} trials have the same {target}: no parameter mattered"
    if available > MOST_TRIALS:
        drawn = np.random.default_rng(SEED).choice(available, MOST_TRIALS, replace=False)
        points = [points[i] for i in sorted(drawn)]
    fanova = _measure_fanova(points, search.searched)
    losses, skill = _measure_permutation(points, search.searched)
    total = sum(losses.values())
    permutation = {name: loss / total if total else 0.0 for name, loss in losses.items()}
    kendall = _rank_correlation(fanova, permutation) if len(names) > 2 else None
    return Importance(target, len(points), available, fanova, permutation, skill, kendall), ""


def describe_agreement(importance: Importance) -> str:
    """Say in a line whether the two estimates agree, and how well the forest predicts."""
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


def _measure_fanova(
    points: Sequence[ScoredParameters], searched: Mapping[str, Mapping[str, Any]]
) -> dict[str, float]:
    """Return the shares of Optuna's fANOVA (Hutter et al., ICML 2014), the largest first."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    study = study_of_points(points, searched)
    evaluator = FanovaImportanceEvaluator(n_trees=_FANOVA_TREES, seed=SEED)
    return {k: float(v) for k, v in get_param_importances(study, evaluator=evaluator).items()}


def study_of_points(
    points: Sequence[ScoredParameters], searched: Mapping[str, Mapping[str, Any]]
) -> "optuna.Study":
    """Return an Optuna study in memory whose trials are complete.

    Raises:
        ValueError: a value lies outside its range.
    """
    import optuna
    from optuna.distributions import FloatDistribution

    # Whole numbers use this too: their own distribution refuses a value that is not whole.
    distributions = {
        name: FloatDistribution(bounds["low"], bounds["high"], log=bounds["scale"] == "log")
        for name, bounds in searched.items()
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)  # else a line for every study in memory
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
    points: Sequence[ScoredParameters], searched: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, float], float]:
    """Return what shuffling each parameter costs (Breiman, Machine Learning 2001), and the skill.

    Both use trials that the forest was not fitted on. The skill is `1 - squared error / variance`
    of their scores; the cost is how much that falls, at least 0, averaged over the shuffles.
    """
    inputs, scores = to_arrays(points, searched)
    rng = np.random.default_rng(SEED)
    fold_of = rng.permutation(len(scores)) % _FOLDS
    columns = inputs.shape[1]
    error, shuffled_error = 0.0, np.zeros(columns)
    for fold in range(_FOLDS):
        held_out = fold_of == fold
        forest = fit_forest(inputs[~held_out], scores[~held_out])
        error += float(np.sum((forest.predict(inputs[held_out]) - scores[held_out]) ** 2))
        # All shuffles of all columns are one call, since a call costs more than its rows.
        copies = np.repeat(inputs[held_out][None], columns * _SHUFFLES, axis=0)
        for copy in range(columns * _SHUFFLES):
            column = copy % columns
            copies[copy, :, column] = rng.permutation(copies[copy, :, column])
        predicted = forest.predict(copies.reshape(-1, columns)).reshape(_SHUFFLES, columns, -1)
        shuffled_error += np.mean(np.sum((predicted - scores[held_out]) ** 2, axis=2), axis=0)
    variance = float(np.sum((scores - scores.mean()) ** 2))
    losses = np.maximum(shuffled_error - error, 0) / variance
    return dict(zip(searched, losses.tolist(), strict=True)), 1 - error / variance


def _rank_correlation(first: Mapping[str, float], second: Mapping[str, float]) -> float:
    """Return Kendall's tau-a: concordant minus discordant pairs, as a share of all pairs."""
    names = list(first)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[:i]]
    signs = [float(np.sign(first[a] - first[b]) * np.sign(second[a] - second[b])) for a, b in pairs]
    return sum(signs) / len(pairs)
