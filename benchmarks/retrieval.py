"""Time to score a set of embeddings: ours against AccuracyCalculator of pytorch-metric-learning.

python -m benchmarks.retrieval
"""

import platform
import statistics
import time
from collections.abc import Callable

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.nn.functional import normalize

from wpm.retrieval import retrieval_scores

REPEATS = 7
INCLUDE = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
# (images, classes, dimensions): a fold of `small`; CUB's test half, separated and concatenated
SIZES = ((340, 17, 128), (1500, 25, 128), (5900, 100, 128), (5900, 100, 512))


def main() -> None:
    """Print a line for each size: both medians, and the median of the paired ratios."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, "
          f"device {device}, torch {torch.__version__}, n = {REPEATS} pairs")  # fmt: skip
    theirs = AccuracyCalculator(include=INCLUDE, k="max_bin_count", device=device)
    for images, classes, dim in SIZES:
        generator = torch.Generator().manual_seed(0)
        labels = torch.arange(images).remainder(classes)
        centres = torch.randn(classes, dim, generator=generator)
        embeddings = centres[labels] + 2 * torch.randn(images, dim, generator=generator)
        embeddings, labels = normalize(embeddings).to(device), labels.to(device)

        def run_ours(e: torch.Tensor = embeddings, y: torch.Tensor = labels) -> object:
            return retrieval_scores(e, y)

        def run_theirs(e: torch.Tensor = embeddings, y: torch.Tensor = labels) -> object:
            return theirs.get_accuracy(e, y)

        run_ours(), run_theirs()
        pairs = [(measure(run_ours), measure(run_theirs)) for _ in range(REPEATS)]
        ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"{images} x {dim}, {classes} classes: ours {1e3 * ours:.1f} ms, "
              f"AccuracyCalculator {1e3 * other:.1f} ms, ratio {ratio:.2f}")  # fmt: skip


def measure(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
