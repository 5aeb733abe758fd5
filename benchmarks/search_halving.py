"""Stopping rules replayed over recorded trials: epochs saved, and what the best score loses.

python -m benchmarks.search_halving [--quick]

Needs Optuna, whose pruners decide. Every trial was recorded to the end of its patience, or of the
epochs of its protocol. A replay starts the trials in some order on several workers, reports each
validation at its recorded time, and stops the trials that the pruner stops.
"""

import argparse
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import optuna
from optuna.pruners import (
    BasePruner,
    HyperbandPruner,
    MedianPruner,
    NopPruner,
    PercentilePruner,
    SuccessiveHalvingPruner,
)

from benchmarks.search_replay import HISTORIES, History, read_studies, replay
from wpm.cpus import count_cpus

GRACES = (1, 2, 3, 4, 5, 8, 10)
FACTORS = (2, 3, 4)
ORDERS = 200

MakePruner = Callable[[], BasePruner]


def main() -> None:
    """Print a table for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--orders", type=int, default=ORDERS, help="random orders of the trials")
    parser.add_argument("--quick", action="store_true", help="ten orders, two first rungs")
    args = parser.parse_args()
    rules = make_rules((2, 5) if args.quick else GRACES)
    for study in read_studies(args.histories):
        trials = [trial["history"] for trial in study["trials"]]
        print(
            f"\n{study['dataset']}/{study['protocol']}/{study['row']}: {len(trials)} trials of at "
            f"most {study['max_epochs']} epochs, patience {study['patience']}"
        )
        print_rules(trials, rules, 10 if args.quick else args.orders, args.workers)


def make_rules(graces: Sequence[int]) -> dict[str, MakePruner]:
    """Return the stopping rules by name."""
    rules: dict[str, MakePruner] = {"patience alone": NopPruner}
    for grace in graces:
        for factor in FACTORS:
            rules[f"halving {grace}, {factor}"] = partial(
                SuccessiveHalvingPruner, min_resource=grace, reduction_factor=factor
            )
    for grace in (2, 5):
        # Reports of warm-up steps are never judged.
        rules[f"median from {grace}"] = partial(MedianPruner, n_warmup_steps=grace - 1)
    rules["best third from 2"] = partial(PercentilePruner, 33.0, n_warmup_steps=1)
    rules["hyperband 2 to 20, 3"] = partial(HyperbandPruner, 2, 20, 3)
    return rules


def print_rules(
    trials: Sequence[History], rules: dict[str, MakePruner], orders: int, workers: int
) -> None:
    """Replay every rule over the trials of a study, and print a line for each."""
    epochs = sum(trial.cost(len(trial.epochs)) for trial in trials)
    best = max(trial.values[-1] for trial in trials)
    print(
        f"patience alone: {epochs:.0f} epochs, best {best:.4f}; {workers} workers; in recorded "
        f"order, then in {orders} random orders: mean, 95th percentile of the loss"
    )
    print(f"{'rule':<21} {'fewer':>6} {'loss':>6} | {'fewer':>6} {'loss':>6} {'95th':>6}"
          f" {'complete':>8}")  # fmt: skip
    shuffled = [random.Random(seed).sample(trials, len(trials)) for seed in range(orders)]
    with ProcessPoolExecutor(count_cpus()) as pool:
        for name, make_pruner in rules.items():
            run = partial(spend, make_pruner=make_pruner, workers=workers)
            (spent, found, _), *outcomes = pool.map(run, [trials, *shuffled], chunksize=10)
            losses = [1 - kept / best for _, kept, _ in outcomes]
            print(
                f"{name:<21} {epochs / spent:>5.2f}x {1 - found / best:>6.2%} | "
                f"{epochs / statistics.mean(o[0] for o in outcomes):>5.2f}x "
                f"{statistics.mean(losses):>6.2%} {sorted(losses)[int(0.95 * orders)]:>6.2%} "
                f"{statistics.mean(o[2] for o in outcomes):>8.1f}"
            )


def spend(
    trials: Sequence[History], make_pruner: MakePruner, workers: int
) -> tuple[float, float, int]:
    """Replay trials under a stopping rule.

    Returns:
        The epochs trained, the best score of a complete trial, and the number of complete trials.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name="replay", direction="maximize", pruner=make_pruner())
    ended = replay(study, lambda trial: trials[trial.number], len(trials), workers)
    complete = [trial.value for trial in ended if trial.complete]
    return sum(trial.cost for trial in ended), max(complete, default=0.0), len(complete)


if __name__ == "__main__":
    main()
