"""Learning rate, crops, epochs and halving of protocol `photos`, swept on folders of photographs.

python -m benchmarks.photos_sweep --images BIRDS CARS --weights FILE
python -m benchmarks.photos_sweep --images DIR --weights FILE --quick
python -m benchmarks.photos_sweep --images DIR --weights FILE --changes crop_scale --epochs 10

Prints Markdown: validation MAP@R of fold 0 in percent, mean and standard deviation over the seeds,
with one value of the protocol changed at a time. Every training runs as long as the largest number
of epochs that is asked for, and is read off at each, because nothing in it depends on its end.
Then random configurations of each row are trained, and stopping rules are replayed over them.
"""

import argparse
import dataclasses
import math
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from benchmarks.image_data import open_trainval
from benchmarks.machine import find_device
from benchmarks.search_replay import Curves, Rule
from benchmarks.search_stopping import spend
from wpm.data.pixels import Pixels
from wpm.model.trunks import RANDOM_WEIGHTS
from wpm.protocol_fields import Value
from wpm.protocol_files import find_protocol
from wpm.protocols import HALVING, NO_STOPPING, Protocol, change_protocol
from wpm.rows import Row
from wpm.space_files import Range
from wpm.spaces import load_space
from wpm.training.config import TrainingConfig
from wpm.training.fold import DivergedError
from wpm.training.training import Training

# One value at a time, beside the protocol's own.
CHANGES: Sequence[Mapping[str, Value]] = (
    {},
    {"learning_rate": 3e-5},
    {"learning_rate": 2e-4},
    {"learning_rate": 3e-4},
    {"crop_scale": (0.16, 1.0)},
    {"crop_scale": (0.25, 1.0)},
    {"crop_scale": (0.6, 1.0)},
)
EPOCHS = (5, 10, 15)
NAMES = tuple(dict.fromkeys(name for change in CHANGES for name in change))
# Untuned losses: what is compared is the protocol.
PARAMETERS = {
    "contrastive": {"pos_margin": 0.1, "neg_margin": 0.7},
    "multi_similarity": {"alpha": 2.0, "beta": 50.0, "base": 0.5},
}
RUNGS = ((1, 2), (2, 2), (3, 2), (1, 3), (2, 3), (3, 3), (4, 2))
ORDERS = 200  # in which the configurations of a replayed search come


def main() -> None:
    """Print a table of changes, and one of stopping rules."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=Path, nargs="+", required=True, metavar="DIR")
    parser.add_argument("--weights", default=RANDOM_WEIGHTS, help="file of the trunk's weights")
    parser.add_argument("--work-root", type=Path, default=Path("data"))
    parser.add_argument("--protocol", default="photos")
    parser.add_argument("--rows", nargs="+", choices=PARAMETERS, default=[*PARAMETERS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--configurations", type=int, default=16, help="of each row, for halving")
    parser.add_argument("--workers", type=int, default=4, help="of the replayed searches [4]")
    parser.add_argument("--changes", nargs="*", choices=NAMES, default=[*NAMES], help="fields")
    parser.add_argument("--epochs", type=int, nargs="+", default=[*EPOCHS], help="read off at")
    parser.add_argument("--threads", type=int, default=1, help="torch threads [1]")
    parser.add_argument("--quick", action="store_true", help="seconds: to see that all of it runs")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    protocol = find_protocol(args.protocol, "folder")
    changes = [change for change in CHANGES if change.keys() <= {*args.changes}]
    if args.quick:
        args.seeds, args.configurations, args.epochs, changes = 1, 2, [1, 2], changes[:2]
        protocol = dataclasses.replace(protocol, iterations_per_epoch=2, max_epochs=2)
    device, on = find_device()
    print(
        f"{on}, {args.threads} threads, torch {torch.__version__}, protocol {protocol.name}, "
        f"fold 0, {args.seeds} seeds, weights {Path(args.weights).name}\n"
    )
    sets = {path.stem: open_images(args, path, protocol) for path in args.images}
    sweep = partial(train, weights=args.weights, device=device)
    print_changes(sets, args.rows, protocol, changes, args.epochs, args.seeds, sweep)
    if args.configurations:
        print_rungs(sets, args.rows, protocol, args.configurations, args.workers, sweep)


def open_images(args: argparse.Namespace, path: Path, protocol: Protocol) -> Pixels:
    """Return the decoded trainval half of one folder."""
    place = argparse.Namespace(dataset="folder", data_root=path, work_root=args.work_root)
    return open_trainval(place, protocol)


@dataclass(frozen=True)
class Curve:
    """What one training of fold 0 reported, epoch by epoch.

    Attributes:
        best: the best validation MAP@R up to each epoch.
        seconds: of processor time since its start, validation included. Unlike the clock's, they
            hardly grow when the machine does other work too.
    """

    best: Sequence[float]
    seconds: Sequence[float]


def train(
    config: TrainingConfig, pixels: Pixels, *, weights: str, device: torch.device
) -> Curve | None:
    """Train to the end of the protocol's epochs; None where the training diverged."""
    # A fold that patience ends would be shorter than the others of its line.
    protocol = dataclasses.replace(
        config.protocol, patience=config.protocol.max_epochs, validation_interval=1
    )
    training = Training(
        dataclasses.replace(config, protocol=protocol, weights=weights), pixels, device
    )
    best, seconds, start = [], [], time.process_time()
    try:
        while not training.finished:
            report = training.run_epoch()
            assert report is not None  # every epoch is validated
            best.append(report.best_map_at_r)
            seconds.append(time.process_time() - start)
    except DivergedError:
        return None
    return Curve(best, seconds)


def print_changes(
    sets: Mapping[str, Pixels],
    rows: Sequence[str],
    protocol: Protocol,
    changes: Sequence[Mapping[str, Value]],
    epochs: Sequence[int],
    seeds: int,
    sweep: "partial[Curve | None]",
) -> None:
    """Print a line for each set, row and change, with a column for each number of epochs."""
    columns = [f"{count} epochs" for count in epochs]
    print_line("images", "row", "change", *columns, "CPU s an epoch")
    print_line(*["---"] * (len(epochs) + 4))
    for name, pixels in sets.items():
        for row in rows:
            for change in changes:
                changed = change_protocol(protocol, {**change, "max_epochs": max(epochs)})
                curves = [
                    sweep(TrainingConfig(Row(row), changed, PARAMETERS[row], seed, (0,)), pixels)
                    for seed in range(seeds)
                ]
                done = [curve for curve in curves if curve is not None]
                words = ", ".join(f"{key} {value}" for key, value in change.items()) or "none"
                scores = [describe([c.best[count - 1] for c in done], seeds) for count in epochs]
                pace = [c.seconds[-1] / len(c.seconds) for c in done]
                print_line(
                    name, row, words, *scores, f"{statistics.mean(pace):.1f}" if pace else "-"
                )
    print()


def describe(scores: Sequence[float], seeds: int) -> str:
    """Return mean and standard deviation in percent, and how many seeds diverged."""
    diverged = f" ({seeds - len(scores)} diverged)" if len(scores) < seeds else ""
    if not scores:
        return f"-{diverged}"
    spread = f" (sd {100 * statistics.stdev(scores):.1f})" if len(scores) > 1 else ""
    return f"{100 * statistics.mean(scores):.1f}{spread}{diverged}"


def print_rungs(
    sets: Mapping[str, Pixels],
    rows: Sequence[str],
    protocol: Protocol,
    configurations: int,
    workers: int,
    sweep: "partial[Curve | None]",
) -> None:
    """Print what stopping rules save and lose on random configurations of each row."""
    print_line("images", "row", "first rung, factor", "fewer epochs", "loss", "95th percentile")
    print_line(*["---"] * 6)
    rules = {"patience alone": Rule(NO_STOPPING)}
    rules |= {f"{grace}, {factor}": Rule(HALVING, 0, grace, factor) for grace, factor in RUNGS}
    for name, pixels in sets.items():
        for row in rows:
            trials = [
                Curves([curve.best], curve.seconds[-1] / len(curve.seconds))
                for parameters in draw_configurations(row, configurations)
                if (curve := sweep(TrainingConfig(Row(row), protocol, parameters, 0, (0,)), pixels))
            ]
            for words, rule in rules.items() if trials else ():
                print_line(name, row, words, *replay_rule(trials, rule, protocol, workers))


def replay_rule(
    trials: Sequence[Curves], rule: Rule, protocol: Protocol, workers: int
) -> tuple[str, str, str]:
    """Return how many times fewer epochs a rule needs, and its loss of the best score."""
    outcomes = [spend(trials, len(trials), rule, protocol, workers, seed) for seed in range(ORDERS)]
    losses = sorted(outcome.loss for outcome in outcomes)
    return (
        f"{1 / statistics.mean(outcome.cost for outcome in outcomes):.2f} x",
        f"{statistics.mean(losses):.1%}",
        f"{losses[int(0.95 * ORDERS)]:.1%}",
    )


def draw_configurations(row: str, count: int) -> Iterator[dict[str, float]]:
    """Draw configurations from a row's search space."""
    space, generator = load_space(Row(row)), random.Random(0)
    for _ in range(count):
        drawn = {name: draw(limits, generator) for name, limits in space.searched.items()}
        yield space.complete(drawn)


def draw(limits: Range, generator: random.Random) -> float:
    """Draw a value from a range, evenly on its scale."""
    if limits.scale == "log":
        return math.exp(generator.uniform(math.log(limits.low), math.log(limits.high)))
    value = generator.uniform(limits.low, limits.high)
    return round(value) if limits.type == "int" else value


def print_line(*cells: str) -> None:
    """Print a line of a Markdown table, at once: a sweep takes hours."""
    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
