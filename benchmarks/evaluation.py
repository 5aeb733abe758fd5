"""What a validation costs: time to score CUB's test half, and its share of a real training.

python -m benchmarks.evaluation                                          # trains on the glyphs
python -m benchmarks.evaluation --dataset omniglot --data-root DIR --work-root DIR
"""

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import astuple

import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torch.nn.functional import normalize

from benchmarks.image_data import add_image_flags, open_trainval
from benchmarks.machine import find_device
from wpm import retrieval
from wpm.data.pixels import Pixels
from wpm.protocol_files import find_protocol
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

IMAGES, CLASSES, DIM = 5_900, 100, 512
SCORES = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
MARGINS = {"pos_margin": 0.1, "neg_margin": 0.8}
MINED = {"embedding_dropout": 0.05, "channel_dropout": 0.1, "sharpness": 32.0}


def make_set(
    device: torch.device, images: int = IMAGES, classes: int = CLASSES
) -> tuple[Tensor, Tensor]:
    """Return (N, D) embeddings around class centres, and their labels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(images).remainder(classes)
    embeddings = torch.randn(classes, DIM, generator=generator)[labels]
    embeddings += 2 * torch.randn(images, DIM, generator=generator)
    return normalize(embeddings).to(device), labels.to(device)


def score_by(way: str, embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Score with one way of finding neighbours, instead of the usual one of the device."""
    usual = retrieval.FAISS_DEVICES
    retrieval.FAISS_DEVICES = ("cpu",) if way == "faiss" else ()
    try:
        return retrieval_scores(embeddings, labels)
    finally:
        retrieval.FAISS_DEVICES = usual


def compare_scoring(device: torch.device, repeats: int) -> None:
    """Print the time of every way, its ratio to AccuracyCalculator, and how its scores differ."""
    embeddings, labels = make_set(device)
    calculator = AccuracyCalculator(include=SCORES, k="max_bin_count", device=device)

    def theirs() -> RetrievalScores:
        found = calculator.get_accuracy(embeddings, labels)
        return RetrievalScores(*(found[name] for name in SCORES))

    ways: dict[str, Callable[[], RetrievalScores]] = {
        "AccuracyCalculator": theirs,
        "ours, matrix products": lambda: score_by("products", embeddings, labels),
    }
    if device.type == "cpu":  # faiss works on memory of the CPU
        ways["ours, faiss"] = lambda: score_by("faiss", embeddings, labels)
    scores = {name: torch.tensor(astuple(way()), dtype=torch.float64) for name, way in ways.items()}
    times = [{name: measure(way) for name, way in ways.items()} for _ in range(repeats)]
    for name in ways:
        milliseconds = 1e3 * statistics.median(row[name] for row in times)
        ratio = statistics.median(row["AccuracyCalculator"] / row[name] for row in times)
        apart = float((scores[name] - scores["AccuracyCalculator"]).abs().max())
        print(f"{IMAGES} x {DIM}, {CLASSES} classes, {name}: {milliseconds:.0f} ms, "
              f"{ratio:.2f} x as fast, scores apart by {apart:.0e} (n = {repeats})",
              flush=True)  # fmt: skip


def measure(function: Callable[[], object]) -> float:
    """Return the seconds that a call takes. It returns plain numbers, so a GPU has finished too."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def print_split(pixels: Pixels, row: Row, device: torch.device, dataset: str, epochs: int) -> None:
    """Train all folds of one trial for some epochs, and print where the time went."""
    protocol = find_protocol("small", dataset)
    parameters = {**MARGINS, **(MINED if row.miner else {})}
    config = TrainingConfig(row, protocol, parameters, 0, tuple(range(protocol.folds)))
    training = Training(config, pixels, device)
    for _ in range(epochs):
        report = training.run_epoch()
    assert report is not None  # `small` validates after every epoch
    trained = sum(fold.training_seconds for fold in report.folds)
    validated = sum(fold.validation_seconds for fold in report.folds)
    print(f"{row} on {dataset}, protocol small, {epochs} epochs of {protocol.folds} folds: "
          f"training {trained:.1f} s, validation {validated:.1f} s, {validated / trained:.1%} of "
          "that", flush=True)  # fmt: skip


def main() -> None:
    """Print the time of scoring, then the split between training and validation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_image_flags(parser)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    import faiss

    faiss.omp_set_num_threads(args.threads)
    device, on = find_device()
    print(f"{on}, {args.threads} threads, torch {torch.__version__}, faiss {faiss.__version__}")
    compare_scoring(device, repeats=3 if args.quick else 15)
    pixels = open_trainval(args, find_protocol("small", args.dataset))
    for row in (Row("contrastive"), Row("contrastive", "wpm")):
        print_split(pixels, row, device, args.dataset, epochs=1 if args.quick else 8)


if __name__ == "__main__":
    main()
