"""What two lines of the published procedure move: the deck of classes, and patience from epoch 0.

Trains fold 0 to the protocol's last epoch, with classes drawn anew for every batch (as before
version 0.3) and with classes dealt from a deck. Where patience would have ended each training, with
and without epoch 0, is then read off its curve.

python -m benchmarks.procedure --dataset omniglot --data-root DIR
"""

import argparse
import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.image_data import add_image_flags, open_trainval
from benchmarks.machine import find_device
from wpm.data.batches import ClassBalancedSampler
from wpm.data.pixels import Pixels
from wpm.formatting import format_table
from wpm.protocol_files import find_protocol, protocol_names
from wpm.protocols import Protocol
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.patience import is_patience_over
from wpm.training.training import Training

PARAMETERS = {"pos_margin": 0.1, "neg_margin": 0.8}
DECK, ANEW = "a deck", "anew for each batch"


class IndependentSampler(ClassBalancedSampler):
    """Draws the classes of a batch without regard to the batches before, as version 0.2 did."""

    def draw(self) -> Tensor:
        """Return (B,) positions of the next batch, class after class."""
        chosen = torch.randperm(len(self._members), generator=self._generator)
        chosen = chosen[: self._classes_per_batch]
        return torch.cat([self._draw_members(self._members[i]) for i in chosen.tolist()])


SAMPLERS = {ANEW: IndependentSampler, DECK: ClassBalancedSampler}


@dataclass(frozen=True)
class Curve:
    """One training to its last epoch.

    Attributes:
        untrained: validation MAP@R of epoch 0.
        scores: epoch and validation MAP@R of every later validation.
        spread: standard deviation by mean of how often a class was trained on within an epoch.
    """

    untrained: float
    scores: Sequence[tuple[int, float]]
    spread: float

    def end(self, patience: int, *, counts_untrained: bool) -> tuple[int, float]:
        """Return the epoch in which patience ends the training, and the best score until then."""
        best_epoch, best = 0, -1.0
        untrained = self.untrained if counts_untrained else None
        for epoch, score in self.scores:
            if score > best:
                best_epoch, best = epoch, score
            if is_patience_over(epoch, best_epoch, best, untrained, patience):
                break
        return epoch, best


def follow(classes: str, seed: int, protocol: Protocol, pixels: Pixels) -> Curve:
    """Train fold 0 to the last epoch, whatever its patience."""
    endless = dataclasses.replace(
        protocol, patience=protocol.max_epochs, validate_untrained=True, precision="float32"
    )
    config = TrainingConfig(Row("contrastive"), endless, PARAMETERS, seed, (0,))
    with patch("wpm.training.fold.ClassBalancedSampler", SAMPLERS[classes]):
        training = Training(config, pixels, find_device()[0])
    fold = training.folds[0]
    drawn: list[Tensor] = []
    draw = fold.draw_batch

    def count() -> Tensor:
        drawn.append(draw())
        return drawn[-1]

    fold.draw_batch = count  # type: ignore[method-assign]
    scores, spreads = [], []
    while not training.finished:
        report = training.run_epoch()
        spreads.append(class_spread(pixels.labels[torch.cat(drawn)], fold._sampler))
        drawn.clear()
        if report is not None:
            scores.append((report.epoch, report.folds[0].map_at_r))
            untrained = report.folds[0].untrained_map_at_r
    assert untrained is not None
    return Curve(untrained, scores, statistics.mean(spreads))


def class_spread(labels: Tensor, sampler: ClassBalancedSampler) -> float:
    """Return the standard deviation by the mean of how many images of each class were drawn."""
    counts = Counter(labels.tolist())
    by_class = [*counts.values(), *[0] * (len(sampler._members) - len(counts))]
    return statistics.pstdev(by_class) / statistics.mean(by_class)


def describe(values: Sequence[float]) -> str:
    """Return mean and sample standard deviation in percent."""
    percents = [100 * value for value in values]
    spread = f" (sd {statistics.stdev(percents):.2f})" if len(percents) > 1 else ""
    return f"{statistics.mean(percents):.2f}{spread}"


def summarise(curves: Sequence[Curve], patience: int) -> list[str]:
    """Return the cells of a table's line: spread, then scores and epochs under both rules."""
    cells = [f"{statistics.mean(curve.spread for curve in curves):.3f}"]
    for counts_untrained in (False, True):
        ends = [curve.end(patience, counts_untrained=counts_untrained) for curve in curves]
        cells.append(describe([score for _, score in ends]))
        cells.append(" ".join(str(epoch) for epoch, _ in ends))
    return [*cells, describe([curve.untrained for curve in curves])]


def main() -> None:
    """Print a line for each way to choose classes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_image_flags(parser)
    parser.add_argument("--protocol", choices=protocol_names(), default="small")
    parser.add_argument("--epochs", type=int, help="train so many epochs [the protocol's]")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="torch threads [1]")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    protocol = find_protocol(args.protocol, args.dataset)
    protocol = dataclasses.replace(protocol, max_epochs=args.epochs or protocol.max_epochs)
    pixels = open_trainval(args, protocol)
    print(f"{find_device()[1]}, torch {torch.__version__}, {args.dataset}, protocol "
          f"{args.protocol}, contrastive, fold 0, {args.seeds} seeds, at most "
          f"{protocol.max_epochs} epochs, patience {protocol.patience}; "
          "MAP@R in %", flush=True)  # fmt: skip
    rows = []
    for classes in SAMPLERS:
        curves = [follow(classes, seed, protocol, pixels) for seed in range(args.seeds)]
        rows.append([classes, *summarise(curves, protocol.patience)])
        print(" | ".join(rows[-1]), flush=True)  # the first line takes minutes
    heading = ["classes drawn", "sd / mean of class counts", "MAP@R", "epochs",
               "MAP@R, epoch 0 in patience", "epochs", "untrained"]  # fmt: skip
    print(format_table(heading, rows, "markdown"))


if __name__ == "__main__":
    main()
