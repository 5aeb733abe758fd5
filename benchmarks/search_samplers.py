"""Samplers on surrogates of recorded studies: trials and epochs to come within 1% of the best.

python -m benchmarks.search_samplers [--quick]

Needs Optuna and scikit-learn (and the package cmaes for that sampler). A surrogate
(`benchmarks.search_landscape`) says what any configuration would have reported; a search of 50
trials runs on it, 4 at a time, with and without successive halving.
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

from benchmarks.search_landscape import Landscape
from benchmarks.search_replay import HISTORIES, Ended, History, read_studies, replay
from wpm.config import Row, find_protocol
from wpm.spaces import SPACES_FOLDER, load_space, published_thresholds
from wpm.study import SAMPLER_NAMES, build_pruner, build_sampler

TRIALS, WORKERS, NEAR = 50, 4, 0.99
# What the study is told of stopped trials; None stops none.
STOPPING: dict[str, TrialState | None] = {
    "no stopping": None,
    "stopped told as stopped": TrialState.PRUNED,
    "stopped hidden": TrialState.FAIL,
    "stopped told as complete": TrialState.COMPLETE,
}
# Beside those of `wpm.study`.
MORE_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe univariate": lambda seed: TPESampler(seed=seed, multivariate=False, constant_liar=False),
    "tpe, 5 at random": lambda seed: TPESampler(seed=seed, n_startup_trials=5),
}
LEARN_NOTHING = ("qmc", "random")  # whatever they are told


@dataclass(frozen=True)
class Setting:
    """A way to search.

    Attributes:
        sampler: by name.
        stopping: one of `STOPPING`.
        first: parameter values tried first.
    """

    sampler: str
    stopping: str
    first: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What a search found.

    Attributes:
        trials: that had ended when a complete one was within 1% of the best, None for never.
        epochs: trained until then.
        spent: epochs of the whole search.
        regret: share of the best score, without noise, that the chosen trial lacks.
    """

    trials: int | None
    epochs: float
    spent: float
    regret: float


def main() -> None:
    """Print a table of the samplers, and one of the first points, for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--samplers", nargs="+", default=[*available(), *MORE_SAMPLERS])
    parser.add_argument("--quick", action="store_true", help="TPE, QMC and random, three seeds")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.samplers = 3, ["tpe", "qmc", "random"]
    for study in read_studies(args.histories):
        landscape = Landscape(study)
        print(
            f"\n{study['dataset']}/{study['protocol']}/{study['row']}: surrogate of "
            f"{len(study['trials'])} trials, {len(landscape.axes)} parameters; best "
            f"{landscape.best:.4f}, noise {landscape.noise:.4f}, explains "
            f"{landscape.explained:.0%} of trials left out; {TRIALS} trials, {WORKERS} at a time, "
            f"{args.seeds} seeds"
        )
        settings = [
            Setting(name, how)
            for name in args.samplers
            for how in list(STOPPING)[: 2 if name in LEARN_NOTHING else None]
        ]
        settings += [Setting("tpe", "stopped told as stopped", p) for p in first_points(landscape)]
        print(f"{'sampler':<20} {'':<26} {'reached':>7} {'trials':>6} {'epochs':>6} {'spent':>6}"
              f" {'regret':>7}")  # fmt: skip
        with ProcessPoolExecutor() as pool:
            for setting in settings:
                jobs = [(landscape, setting, seed) for seed in range(args.seeds)]
                print_line(setting, list(pool.map(search, *zip(*jobs, strict=True))))


def available() -> list[str]:
    """Return the samplers whose packages are installed."""
    return [n for n in SAMPLER_NAMES if n != "cmaes" or importlib.util.find_spec("cmaes")]


def first_points(landscape: Landscape) -> list[tuple[Mapping[str, float], ...]]:
    """Return published configurations of the row, data set by data set, then all of them."""
    row = Row.parse(landscape.name)
    space = load_space(row, SPACES_FOLDER)
    thresholds = published_thresholds(SPACES_FOLDER) if row.mined else {}
    points = [
        {**thresholds, **space.find_published(dataset).parameters}
        for dataset in ("cub200", "cars196", "sop")
    ]
    for point in points:
        print(f"published {point}: {landscape.score(point) / landscape.best:.1%} of the best")
    return [*((thresholds,) for _ in range(row.mined)), *((p,) for p in points), tuple(points)]


def print_line(setting: Setting, outcomes: Sequence[Outcome]) -> None:
    """Print medians over seeds; a search that never came near counts as its whole budget."""
    reached = [o for o in outcomes if o.trials is not None]
    trials = statistics.median(o.trials if o.trials is not None else TRIALS for o in outcomes)
    first = f" first: {len(setting.first)}" if setting.first else ""
    print(
        f"{setting.sampler:<20} {setting.stopping + first:<26} "
        f"{len(reached) / len(outcomes):>7.0%} {trials:>6.0f} "
        f"{statistics.median(o.epochs for o in outcomes):>6.0f} "
        f"{statistics.mean(o.spent for o in outcomes):>6.0f} "
        f"{statistics.mean(o.regret for o in outcomes):>7.2%}",
        flush=True,
    )


def search(landscape: Landscape, setting: Setting, seed: int) -> Outcome:
    """Run one search on a surrogate."""
    import torch  # of the Gaussian process: one thread a search

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


def judge(ended: Sequence[Ended], scores: Mapping[int, float], best: float) -> Outcome:
    """Compare what a search found with the best there is."""
    near, epochs = None, 0.0
    for count, trial in enumerate(ended, start=1):
        epochs += trial.cost
        if trial.complete and scores[trial.number] >= NEAR * best:
            near = count
            break
    chosen = max((t for t in ended if t.complete), key=lambda t: t.value)
    spent = sum(t.cost for t in ended)
    return Outcome(near, epochs, spent, 1 - scores[chosen.number] / best)


if __name__ == "__main__":
    main()
