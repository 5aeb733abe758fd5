"""How often 95% intervals of the difference of two rows hold the truth, over searches and seeds.

python -m benchmarks.interval_coverage [--quick]

Worlds with a known truth. Both rows are searched S times, and every search's best configuration is
trained with K seeds. A score is the row's mean, what the search adds and what the seed adds. Twins
share seeds, so what the same search and seed add to both is correlated. The truth is the difference
of the means: what infinitely many searches would give.
"""

import argparse
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy.special import stdtrit

from analysis.numbers.paired import paired_difference
from analysis.numbers.search_scores import independent_scores

_Rng = np.random.Generator
_Interval = tuple[NDArray[Any], NDArray[Any]]  # lower and upper ends, one for each study
_RATIOS = (0.0, 0.5, 1.0, 2.0, 4.0)  # spread of searches / spread of seeds
_RESAMPLES = 500  # of each bootstrap


@dataclass(frozen=True)
class World:
    """A kind of comparison whose truth is known.

    Attributes:
        runs: for each search of both rows, the number of its runs.
        ratio: standard deviation of searches, in that of seeds.
        search_shared: correlation of what a search adds to the two rows.
        seed_shared: correlation of what a seed adds to the two rows.
        skewed: the second row's searches add exponential numbers below a best score, as where one
            of several searches finds much less.
    """

    runs: tuple[int, ...]
    ratio: float
    search_shared: float = 0.3
    seed_shared: float = 0.3
    skewed: bool = False

    def draw(self, studies: int, rng: _Rng) -> NDArray[Any]:
        """Return (2, studies, S, K) scores of the two rows; NaN where a search has fewer runs."""
        count, most = len(self.runs), max(self.runs)
        search = self.ratio * _draw_shared((studies, count, 1), self.search_shared, rng)
        if self.skewed:
            search[1] = self.ratio * (1 - rng.exponential(size=(studies, count, 1)))
        scores = search + _draw_shared((studies, count, most), self.seed_shared, rng)
        missing = np.arange(most) >= np.array(self.runs)[:, None]
        return np.where(missing, np.nan, scores)


def _draw_shared(shape: tuple[int, ...], shared: float, rng: _Rng) -> NDArray[Any]:
    """Return (2, *shape) normal numbers, whose two halves have a correlation."""
    own, common = rng.normal(size=(2, *shape)), rng.normal(size=shape)
    return np.asarray(np.sqrt(1 - shared) * own + np.sqrt(shared) * common)


def search_means(scores: NDArray[Any], _rng: _Rng) -> _Interval:
    """What the product does: Student's t over the mean paired difference of each search."""
    ends = []
    for study in scores[1] - scores[0]:
        groups = [runs[~np.isnan(runs)].tolist() for runs in study]
        found = paired_difference(independent_scores(groups))
        ends.append((found.low, found.high))
    low, high = np.array(ends, dtype=float).T
    return low, high


def all_runs(scores: NDArray[Any], _rng: _Rng) -> _Interval:
    """Student's t over the paired differences of all runs, as if each were a search of its own."""
    differences = (scores[1] - scores[0]).reshape(scores.shape[1], -1)
    return _student(differences)


def _student(values: NDArray[Any]) -> _Interval:
    """Return Student's interval of the mean of (studies, n) values, NaN left out."""
    count = np.sum(~np.isnan(values), axis=1)
    error = np.nanstd(values, axis=1, ddof=1) / np.sqrt(count)
    return _around(np.nanmean(values, axis=1), error, count - 1)


def _around(centre: NDArray[Any], error: NDArray[Any], freedom: Any) -> _Interval:
    width = stdtrit(freedom, 0.975) * error
    return centre - width, centre + width


def unpaired_means(scores: NDArray[Any], _rng: _Rng) -> _Interval:
    """Welch's t over the means of searches, without pairing the rows."""
    means = np.nanmean(scores, axis=3)
    count = means.shape[2]
    errors = means.var(axis=2, ddof=1) / count
    freedom = errors.sum(axis=0) ** 2 / (errors**2 / (count - 1)).sum(axis=0)
    difference = means[1].mean(axis=1) - means[0].mean(axis=1)
    return _around(difference, np.sqrt(errors.sum(axis=0)), freedom)


def reml(scores: NDArray[Any], _rng: _Rng) -> _Interval:
    """REML of the mixed model with Satterthwaite's degrees of freedom; as many runs in each search.

    Where the spread of searches is estimated above 0, this is the interval over search means.
    Where it is estimated as 0, all runs count as independent.
    """
    differences = scores[1] - scores[0]
    _, count, runs = differences.shape
    means = differences.mean(axis=2)
    between = runs * means.var(axis=1, ddof=1)
    within = differences.var(axis=2, ddof=1).mean(axis=1)
    total = differences.reshape(len(differences), -1).var(axis=1, ddof=1)
    varies = between > within
    variance = np.where(varies, between, total) / (count * runs)
    freedom = np.where(varies, count - 1, count * runs - 1)
    return _around(means.mean(axis=1), np.sqrt(variance), freedom)


def bootstrap(scores: NDArray[Any], rng: _Rng) -> _Interval:
    """Percentiles of a hierarchical bootstrap: searches are drawn, then runs of each of them."""
    low, high = [], []
    for study in scores[1] - scores[0]:
        groups = [runs[~np.isnan(runs)] for runs in study]
        drawn = rng.integers(len(groups), size=(_RESAMPLES, len(groups)))
        sizes = np.array([len(group) for group in groups])[drawn]
        picked = (rng.random((*drawn.shape, study.shape[1])) * sizes[..., None]).astype(int)
        values = study[drawn[..., None], picked]
        counted = np.arange(study.shape[1]) < sizes[..., None]
        means = np.where(counted, values, 0.0).sum(axis=2) / sizes
        ends = np.quantile(means.mean(axis=1), (0.025, 0.975))
        low.append(ends[0])
        high.append(ends[1])
    return np.array(low), np.array(high)


METHODS: Mapping[str, Callable[[NDArray[Any], _Rng], _Interval]] = {
    "search means": search_means,
    "unpaired": unpaired_means,
    "REML": reml,
    "bootstrap": bootstrap,
    "all runs": all_runs,
}


def measure(world: World, method: str, studies: int, seed: int = 0) -> tuple[float, float]:
    """Return the share of intervals that hold the truth, and their mean width in seed spreads."""
    rng = np.random.default_rng(seed)
    scores = world.draw(studies, rng)  # the truth is 0, and every interval moves with it
    low, high = METHODS[method](scores, rng)
    return float(np.mean((low <= 0) & (high >= 0))), float(np.mean(high - low))


def main() -> None:
    """Print the tables of docs/statistics.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a twentieth of the repeats")
    studies = 500 if parser.parse_args().quick else 10_000
    print(
        f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}; "
        f"{studies} simulated comparisons for each line, a tenth of them for the bootstrap"
    )
    print("\nshare of 95% intervals that hold the truth; in brackets their mean width in standard "
          "deviations of a seed")  # fmt: skip
    equal = [(3,) * 3, (5,) * 3, (5,) * 4, (3,) * 5, (5,) * 5]
    print_worlds([World(runs, ratio) for runs in equal for ratio in _RATIOS], studies)
    print("\nunequal numbers of runs")
    ragged = [(5, 3, 1), (5, 5, 1), (5, 4, 3, 2, 1)]
    print_worlds([World(runs, ratio) for runs in ragged for ratio in _RATIOS], studies)
    print("\nother worlds: twins that share nothing or much; searches of one row sometimes fail")
    one = World((5,) * 3, 1.0)
    others = [
        replace(one, search_shared=0.0, seed_shared=0.0),
        replace(one, search_shared=0.8, seed_shared=0.5),
        replace(one, skewed=True),
        replace(one, skewed=True, runs=(5,) * 5, ratio=4.0),
    ]
    print_worlds(others, studies)


def print_worlds(worlds: Sequence[World], studies: int) -> None:
    """Print a line for each world, with the share and the width of every method."""
    print(f"{'runs of searches':>16}  {'search/seed':>11}  {'shared':>9}  searches  "
          + "  ".join(f"{name:>12}" for name in METHODS))  # fmt: skip
    for world in worlds:
        cells = []
        for name in METHODS:
            if name == "REML" and len(set(world.runs)) > 1:
                cells.append(f"{'-':>12}")
                continue
            share, width = measure(world, name, studies // (10 if name == "bootstrap" else 1))
            cells.append(f"{share:>5.3f} [{width:>4.1f}]")
        runs = " ".join(map(str, world.runs))
        shared = f"{world.search_shared:.1f}, {world.seed_shared:.1f}"
        kind = "skewed" if world.skewed else "normal"
        print(f"{runs:>16}  {world.ratio:>11.1f}  {shared:>9}  {kind:>8}  " + "  ".join(cells))


if __name__ == "__main__":
    main()
