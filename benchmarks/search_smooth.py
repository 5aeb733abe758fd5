"""Samplers on smooth landscapes of two parameters: trials until 99% of the best is found.

python -m benchmarks.search_smooth [--seeds 3]

Twelve landscapes without noise: four losses with two numeric parameters, on three data sets. Each
has its peak at the published point of that data set. Around it the score falls like a bell, whose
widths, direction and steepness are drawn from a fixed seed. One trial runs at a time, and each is
complete. "others first" tries the published points of the two other data sets before the sampler
chooses. A search that never comes within 1% in 50 trials counts as 51.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from itertools import product

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning

from wpm.cpus import count_cpus
from wpm.formatting import format_table
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.samplers import build_sampler

ROWS = {
    "contrastive": ("pos_margin", "neg_margin"),
    "normalized_softmax": ("metric_loss_lr", "temperature"),
    "proxy_nca": ("metric_loss_lr", "softmax_scale"),
    "cosface": ("margin", "scale"),
}
DATASETS = ("cub200", "cars196", "sop")
SAMPLERS = ("curves", "tpe", "gp", "random")
TRIALS, GOAL = 50, 0.99
NARROWEST, WIDEST = 0.15, 0.6  # of a bell, as shares of the searched range


class SmoothLandscape:
    """A bell over the unit square of a row's two parameters.

    Attributes:
        space: the searched parameters.
        others: published points of the other data sets.
    """

    def __init__(self, row: str, dataset: str) -> None:
        space, names = load_space(Row(row)), ROWS[row]
        ranges = {name: space.searched[name] for name in names}
        self.space: dict[str, BaseDistribution] = {
            name: FloatDistribution(r.low, r.high, log=r.scale == "log")
            for name, r in ranges.items()
        }
        points = {
            other: {name: space.find_published(other).parameters[name] for name in names}
            for other in DATASETS
        }
        self._ranges = ranges
        self._peak = self._place(points.pop(dataset))
        self.others = [
            point for point in points.values() if all(ranges[n].contains(point[n]) for n in names)
        ]
        rng = np.random.default_rng((list(ROWS).index(row), DATASETS.index(dataset)))
        angle = rng.uniform(0, math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        widths = np.exp(rng.uniform(math.log(NARROWEST), math.log(WIDEST), 2))
        self._shape = turn @ np.diag(widths**-2.0) @ turn.T
        self._steepness = rng.uniform(0.7, 1.3)

    def _place(self, point: Mapping[str, float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Return a point's position in the unit square."""
        positions = []
        for name, limits in self._ranges.items():
            low, high, value = limits.low, limits.high, point[name]
            if limits.scale == "log":
                low, high, value = math.log(low), math.log(high), math.log(value)
            positions.append(min(1.0, max(0.0, (value - low) / (high - low))))
        return np.array(positions)

    def score(self, point: Mapping[str, float]) -> float:
        """Return the score of a point, 1 at the peak."""
        away = self._place(point) - self._peak
        return math.exp(-0.5 * float(away @ self._shape @ away) ** self._steepness)


def main() -> None:
    """Print a line for each sampler, with and without other data sets' points first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="searches of each landscape [3]")
    parser.add_argument("--samplers", nargs="+", default=[*SAMPLERS])
    args = parser.parse_args()
    rows = []
    with ProcessPoolExecutor(count_cpus()) as pool:
        for sampler, others_first in product(args.samplers, (False, True)):
            jobs = [
                (sampler, others_first, row, dataset, seed)
                for row, dataset, seed in product(ROWS, DATASETS, range(args.seeds))
            ]
            found = list(pool.map(search, *zip(*jobs, strict=True)))
            trials = sorted(count for count, _ in found)
            rows.append([
                sampler, "others first" if others_first else "nothing",
                f"{statistics.mean(trials):.1f}", f"{statistics.median(trials):g}",
                f"{trials[int(0.9 * len(trials))]}",
                f"{statistics.mean(count > TRIALS for count in trials):.0%}",
                f"{statistics.mean(seconds for _, seconds in found):.3f}",
            ])  # fmt: skip
    columns = ("sampler", "known", "mean", "median", "90th", "never", "CPU s a proposal")
    print(f"{len(ROWS) * len(DATASETS)} landscapes, {args.seeds} seeds each: trials to {GOAL:.0%}")
    print(format_table(columns, rows, "text"))


def search(
    sampler: str, others_first: bool, row: str, dataset: str, seed: int
) -> tuple[int, float]:
    """Return the trials until a point reaches the goal, and the CPU seconds of a proposal."""
    import torch  # the Gaussian process uses it; one thread for each search

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    landscape = SmoothLandscape(row, dataset)
    study = optuna.create_study(
        direction="maximize", sampler=build_sampler(sampler, seed, 0, (), landscape.space)
    )
    for point in landscape.others if others_first else ():
        study.enqueue_trial(point)
    start = time.process_time()
    scores: list[float] = []
    while len(scores) < TRIALS and max(scores, default=0.0) < GOAL:
        trial = study.ask(landscape.space)
        scores.append(landscape.score(trial.params))
        study.tell(trial, scores[-1])
    spent = (time.process_time() - start) / len(scores)
    return len(scores) + (max(scores) < GOAL), spent


if __name__ == "__main__":
    main()
