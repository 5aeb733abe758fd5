"""Draw the figure of omniglot.md: every final run of every row.

python docs/results/draw.py --run-root runs --out docs/results/omniglot.svg
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import matplotlib.pyplot as plt

from analysis.studies.row_results import read_row
from wpm.records import StudyPlace
from wpm.rows import Row

LOSSES = ("contrastive", "triplet", "margin", "multi_similarity")
STYLES = {None: ("o", "white"), "wpm": ("D", "black")}  # told apart without colour


def main() -> None:
    """Write the figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-root", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    plt.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "omniglot", "font.size": 9}
    figure, axes = plt.subplots(figsize=(6.4, 2.6), layout="constrained")
    for position, loss in enumerate(LOSSES):
        for side, (miner, (marker, fill)) in enumerate(STYLES.items()):
            row, _ = read_row(StudyPlace(args.run_root, "omniglot", "small", Row(loss, miner)))
            assert row.finals is not None
            scores = [100 * score for score in row.finals.scores("concatenated", "map_at_r")]
            where = [position + 0.3 * side - 0.15] * len(scores)
            label = f"{'with' if miner else 'without'} within-pair mining"
            axes.scatter(
                where, scores, marker=marker, facecolor=fill, edgecolor="black", s=28,
                label=label if position == 0 else None,
            )  # fmt: skip
    axes.set_xticks(range(len(LOSSES)), LOSSES)
    axes.set_ylabel("test MAP@R, concatenated (%)")
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.savefig(args.out, metadata={"Date": None})


if __name__ == "__main__":
    main()
