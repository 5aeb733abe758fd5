"""Samplers on surrogates of recorded studies: trials that they need to come within 1% of the best.

python -m benchmarks.search_samplers [--quick]

Needs Optuna and scikit-learn, and the package cmaes for the sampler of that name. A surrogate
(`benchmarks.search_landscape`) predicts what any configuration would have reported. Searches of 50
trials run on it, 4 at a time, with and without successive halving.
"""

import argparse
import importlib.util
import statistics
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.search_landscape import SURROGATES, Landscape
from benchmarks.search_replay import HISTORIES, History, ReplayedTrial, read_studies, replay
from wpm.cpus import count_cpus
from wpm.protocol_files import find_protocol
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.samplers import SAMPLER_NAMES, build_pruner, build_sampler

TRIALS, WORKERS = 50, 4
NEAR = (0.99, 0.97)  # shares of the best score: the goal, and roughly what the noise allows
# The state under which a stopped trial is recorded in the study; None stops no trial.
STOPPING: dict[str, TrialState | None] = {
    "no stopping": None,
    "recorded as stopped": TrialState.PRUNED,
    "hidden from the sampler": TrialState.FAIL,
    "recorded as complete": TrialState.COMPLETE,
}
# Samplers beside those of `wpm.studies.samplers`.
MORE_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe univariate": lambda seed: TPESampler(seed=seed, multivariate=False, constant_liar=False),
    "tpe, 5 at random": lambda seed: TPESampler(seed=seed, n_startup_trials=5),
}
LEARN_NOTHING = ("qmc", "random")  # these ignore the recorded trials


@dataclass(frozen=True)
class Setting:
    """A way to search.

    Attributes:
        sampler: name of the sampler.
        stopping: one of `STOPPING`.
        first: configurations that are tried first.
        first_name: name of these configurations in the table.
    """

    sampler: str
    stopping: str
    first: tuple[Mapping[str, float], ...] = ()
    first_name: str = ""


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        trials: for each of `NEAR`, the number of trials that had ended when a complete one came so
            near the best; the entire budget if none did.
        reached: for each of `NEAR`, whether one did.
        epochs: epochs of the entire search.
        regret: share of the best score that the chosen trial misses, without noise.
    """

    trials: tuple[int, ...]
    reached: tuple[bool, ...]
    epochs: float
    regret: float


def main() -> None:
    """Print a table of the samplers and of the first configurations, for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samplers", nargs="+", default=[*available(), *MORE_SAMPLERS])
    parser.add_argument("--quick", action="store_true", help="TPE, QMC and random, three seeds")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.samplers = 3, ["tpe", "qmc", "random"]
    for study in read_studies(args.histories):
        for surrogate in SURROGATES:
            print_landscape(Landscape(study, surrogate), args.samplers, args.seeds, surrogate)


def print_landscape(
    landscape: Landscape, samplers: Sequence[str], seeds: int, surrogate: str
) -> None:
    """Print a line for each way to search a landscape."""
    print(
        f"\n{landscape.name}, {surrogate} over {len(landscape.axes)} parameters: best "
        f"{landscape.best:.4f}, noise {landscape.noise:.4f}, explains {landscape.explained:.0%} of "
        f"trials left out; {TRIALS} trials, {WORKERS} at a time, {seeds} seeds"
    )
    settings = [
        Setting(name, how)
        for name in samplers
        for how in list(STOPPING)[: 2 if name in LEARN_NOTHING else None]
    ]
    settings += [
        Setting("tpe", "recorded as stopped", points, f" + {name}")
        for name, points in first_points(landscape).items()
    ]
    print(f"{'sampler':<16} {'':<33} {'to 1%':>5} {'':>4} {'to 3%':>5} {'':>4} {'epochs':>6}"
          f" {'regret':>7}")  # fmt: skip
    with ProcessPoolExecutor(count_cpus()) as pool:
        for setting in settings:
            jobs = [(landscape, setting, seed) for seed in range(seeds)]
            print_line(setting, list(pool.map(search, *zip(*jobs, strict=True))))


def available() -> list[str]:
    """Return the samplers whose packages are installed."""
    return [n for n in SAMPLER_NAMES if n != "cmaes" or importlib.util.find_spec("cmaes")]


def first_points(landscape: Landscape) -> dict[str, tuple[Mapping[str, float], ...]]:
    """Return configurations to try first: published thresholds, published points, or all."""
    space = load_space(Row.parse(landscape.name))
    points: dict[str, Mapping[str, float]] = {
        dataset: {**space.thresholds, **space.find_published(dataset).parameters}
        for dataset in ("cub200", "cars196", "sop")
    }
    for dataset, point in points.items():
        print(f"published on {dataset}: {landscape.score(point) / landscape.best:.1%} of the best")
    named = {dataset: (point,) for dataset, point in points.items()}
    return {
        **({"thresholds": (space.thresholds,)} if space.thresholds else {}),
        **named,
        "all": tuple(points.values()),
    }


def print_line(setting: Setting, outcomes: Sequence[SearchOutcome]) -> None:
    """Print the median number of trials to come near, the share of seeds that do, and means."""
    cells = [
        f"{statistics.median(o.trials[near] for o in outcomes):>5.0f} "
        f"{statistics.mean(o.reached[near] for o in outcomes):>4.0%}"
        for near in range(len(NEAR))
    ]
    print(
        f"{setting.sampler:<16} {setting.stopping + setting.first_name:<33} {' '.join(cells)} "
        f"{statistics.mean(o.epochs for o in outcomes):>6.0f} "
        f"{statistics.mean(o.regret for o in outcomes):>7.2%}",
        flush=True,
    )


def search(landscape: Landscape, setting: Setting, seed: int) -> SearchOutcome:
    """Run one search on a surrogate."""
    import torch  # the Gaussian process uses it; one thread for each search

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    stopped_as = STOPPING[setting.stopping]
    protocol = find_protocol("small", "omniglot")
    study = optuna.create_study(
        direction="maximize",
        sampler=MORE_SAMPLERS[setting.sampler](seed)
        if setting.sampler in MORE_SAMPLERS
        else build_sampler(setting.sampler, seed, trials=0),
        pruner=build_pruner(protocol, early_stopping=stopped_as is not None),
    )
    for point in setting.first:
        study.enqueue_trial(dict(point))
    rng = np.random.default_rng(seed)
    scores: dict[int, float] = {}

    def start(trial: optuna.Trial) -> History:
        parameters = {
            axis.name: trial.suggest_float(axis.name, axis.low, axis.high, log=axis.log)
            for axis in landscape.axes
        }
        scores[trial.number] = landscape.score(parameters)
        return landscape.train(parameters, rng)

    ended = replay(study, start, TRIALS, WORKERS, stopped_as or TrialState.PRUNED)
    return judge(ended, scores, landscape.best)


def judge(
    ended: Sequence[ReplayedTrial], scores: Mapping[int, float], best: float
) -> SearchOutcome:
    """Compare what a search found with the best of the landscape."""
    complete = [(count, t) for count, t in enumerate(ended, start=1) if t.complete]
    first = [
        next((count for count, t in complete if scores[t.number] >= near * best), None)
        for near in NEAR
    ]
    chosen = max((t for _, t in complete), key=lambda t: t.value)
    return SearchOutcome(
        tuple(count or len(ended) for count in first),
        tuple(count is not None for count in first),
        sum(t.cost for t in ended),
        1 - scores[chosen.number] / best,
    )


if __name__ == "__main__":
    main()
