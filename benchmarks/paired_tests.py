"""How often the tests of analysis/ find a difference, and their intervals contain the truth.

python -m benchmarks.paired_tests [--quick]
"""

import argparse
import math
import platform
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy
from scipy.stats import rankdata

from analysis.numbers.correlation import correlate
from analysis.numbers.paired import paired_difference
from wpm.spreads import detectable_effect

_Rng = np.random.Generator


def main() -> None:
    """Print two tables of shares of simulated studies."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the repeats")
    repeats = 200 if parser.parse_args().quick else 2000
    print(f"Python {platform.python_version()}, numpy {np.__version__}, scipy {scipy.__version__}, "
          f"n = {repeats} simulated studies for each line")  # fmt: skip
    print_power(repeats)
    print_coverage(repeats // 4)


def print_power(repeats: int) -> None:
    """Print how often a difference is found at 5%, and how often the interval contains it.

    The differences of paired runs have standard deviation 1 around the true difference. They are
    normal, or one run in ten is worse by 5, as if its training had failed to converge.
    """
    draws: dict[str, Callable[[_Rng, int], Any]] = {
        "normal": lambda rng, pairs: rng.normal(size=pairs),
        "1 of 10 bad": lambda rng, pairs: (
            rng.normal(size=pairs) - 5 * (rng.random(pairs) < 0.1) + 0.5
        ),
    }
    print(
        "\npairs  runs         difference / sd  t-test finds  sign flip finds  interval contains it"
    )
    for pairs in (5, 10):
        for name, draw in draws.items():
            for effect in sorted({0.0, 1.0, 2.0, round(detectable_effect(pairs), 2)}):
                rng = np.random.default_rng(0)
                found = [
                    paired_difference((effect + draw(rng, pairs)).tolist()) for _ in range(repeats)
                ]
                t, flip, holds = (
                    sum(1 for d in found if d.t_p is not None and d.t_p < 0.05),
                    sum(1 for d in found if d.flip_p is not None and d.flip_p < 0.05),
                    sum(1 for d in found if d.half_width and abs(d.mean - effect) <= d.half_width),
                )
                print(f"{pairs:>5}  {name:<11}  {effect:>15.2f}  {t / repeats:>12.2f}  "
                      f"{flip / repeats:>15.2f}  {holds / repeats:>20.2f}")  # fmt: skip


def print_coverage(repeats: int) -> None:
    """Print how often Fisher's and bootstrap intervals of correlations contain the true value."""
    print("\nconfigurations  true r  Pearson: Fisher  bootstrap  Spearman: Fisher  bootstrap")
    for count in (5, 10, 20, 40):
        for true in (0.5, 0.9):
            rng = np.random.default_rng(0)
            true_ranks = 6 / math.pi * math.asin(true / 2)
            holds = np.zeros(4)
            for _ in range(repeats):
                x = rng.normal(size=count)
                y = true * x + math.sqrt(1 - true**2) * rng.normal(size=count)
                for column, ranks, target in ((0, False, true), (2, True, true_ranks)):
                    found = correlate(x.tolist(), y.tolist(), ranks=ranks)
                    if found.low is not None and found.high is not None:
                        holds[column] += found.low <= target <= found.high
                    low, high = bootstrap_interval(np.array([x, y]), ranks, rng)
                    holds[column + 1] += low <= target <= high
            shares = holds / repeats
            print(f"{count:>14}  {true:>6.2f}  {shares[0]:>15.2f}  {shares[1]:>9.2f}  "
                  f"{shares[2]:>16.2f}  {shares[3]:>9.2f}")  # fmt: skip


def bootstrap_interval(points: Any, ranks: bool, rng: _Rng, resamples: int = 1000) -> Any:
    """Return the 95% percentile interval of the correlation of (2, n) points."""
    count = points.shape[1]
    drawn = points[:, rng.integers(count, size=(resamples, count))]
    if ranks:
        drawn = rankdata(drawn, axis=-1)
    first, second = drawn - drawn.mean(axis=-1, keepdims=True)
    spread = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    varies = spread > 1e-12
    return np.quantile((first * second).sum(axis=-1)[varies] / spread[varies], (0.025, 0.975))


if __name__ == "__main__":
    main()
