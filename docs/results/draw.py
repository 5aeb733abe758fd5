"""Draw the figure of a results page: every final run of the twins, and what mining changes.

python docs/results/draw.py --run-root runs --dataset omniglot --out docs/results/omniglot.svg
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from analysis.numbers.means import mean
from analysis.studies.comparison import Comparison, compare_rows
from analysis.studies.row_pairs import choose_twins
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import RowSearches, group_searches
from wpm.records import find_studies

LOSSES = ("contrastive", "triplet", "margin", "multi_similarity")
# Marker, filling, place within a loss's line, legend: told apart without colour.
PLAIN = ("o", "white", -0.19, "without mining")
MINED = ("D", "black", 0.19, "with mining")
BETWEEN_SEARCHES = 0.11  # how far the searches of a row lie apart, as a share of a line's height


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-root", type=Path, required=True)
    parser.add_argument("--dataset", required=True)
    parser.add_argument("--protocol")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    places = find_studies(args.run_root, args.dataset, args.protocol)
    pairs = choose_twins(group_searches(read_row(place)[0] for place in places))
    twins = [compare_rows(*pair) for pair in sorted(pairs, key=_position)]
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": args.out.stem, "font.size": 9}
    size = (7.2, 0.9 + 0.55 * len(twins))
    figure, (left, right) = plt.subplots(1, 2, figsize=size, sharey=True, layout="constrained")
    for line, twin in enumerate(twins):
        _draw_runs(left, line, twin.first, PLAIN)
        _draw_runs(left, line, twin.second, MINED)
        _draw_difference(right, line, twin)
    left.set_yticks(range(len(twins)), [str(twin.first.place.row) for twin in twins])
    left.set_ylim(len(twins) - 0.5, -0.5)
    left.set_xlabel("test MAP@R of every final run (%)")
    right.set_xlabel("with mining minus without (points)")
    right.axvline(0, color="black", linewidth=0.8)
    figure.legend(loc="outside upper center", ncols=4, frameon=False)
    figure.savefig(args.out, metadata={"Date": None})


def _position(pair: tuple[RowSearches, RowSearches]) -> int:
    return LOSSES.index(str(pair[0].place.row))


def _draw_runs(axes: Axes, line: int, row: RowSearches, look: tuple[str, str, float, str]) -> None:
    """Draw the runs of a row; those of a search share a height."""
    marker, filling, offset, name = look
    searches = row.scores_by_run("concatenated", "map_at_r")
    for place, runs in enumerate(searches.values()):
        height = line + offset + BETWEEN_SEARCHES * (place - (len(searches) - 1) / 2)
        axes.scatter(
            [100 * score for score in runs.values()], [height] * len(runs),
            marker=marker, facecolor=filling, edgecolor="black", linewidth=0.7, s=16,
            label=name if line == place == 0 else None,
        )  # fmt: skip


def _draw_difference(axes: Axes, line: int, twin: Comparison) -> None:
    """Draw the difference of each search, and the mean of the searches with its interval."""
    searches = [100 * mean([*runs.values()]) for runs in twin.pairs.values()]
    axes.scatter(
        searches, [line - 0.15] * len(searches),
        marker="|", color="black", s=40, linewidth=1, label="a search" if line == 0 else None,
    )  # fmt: skip
    difference = twin.difference
    if difference is not None:
        axes.errorbar(
            100 * difference.mean, line + 0.15,
            xerr=None if difference.half_width is None else 100 * difference.half_width,
            fmt="s", color="black", markersize=5, capsize=3,
            label="mean and 95% interval" if line == 0 else None,
        )  # fmt: skip


if __name__ == "__main__":
    main()
