"""Stopping rules replayed over recorded trials: epochs saved, and what it costs in the best score.

python -m benchmarks.search_halving [--quick]

Needs Optuna, whose pruners decide. Every trial was recorded to the end of its patience (or of its
protocol's epochs); a replay starts them in some order on several workers, passes on each report at
the time it was made, and stops those that the pruner stops.
"""

import argparse
import heapq
import json
import random
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner

HISTORIES = Path(__file__).parent / "data" / "search_histories.json"
GRACES = (1, 2, 3, 4, 5, 8, 10)
FACTORS = (2, 3, 4)
ORDERS = 20

MakePruner = Callable[[], BasePruner]


@dataclass(frozen=True)
class Recorded:
    """A recorded trial.

    Attributes:
        epochs: of each report.
        values: of each report: mean over the folds of the best score so far.
        folds_running: share of the folds that trained up to each report.
        seconds: since its start, at each report.
    """

    epochs: Sequence[int]
    values: Sequence[float]
    folds_running: Sequence[float]
    seconds: Sequence[float]

    def cost(self, reports: int) -> float:
        """Return the epochs trained until a report, an epoch of one fold counted as its share."""
        steps = [b - a for a, b in zip([0, *self.epochs], self.epochs, strict=False)]
        return sum(n * f for n, f in zip(steps[:reports], self.folds_running, strict=False))


def main() -> None:
    """Print a table for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--orders", type=int, default=ORDERS, help="random orders of the trials")
    parser.add_argument("--quick", action="store_true", help="three orders, fewer rules")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    orders = 3 if args.quick else args.orders
    for study in json.loads(args.histories.read_text()):
        trials = [read_trial(trial, study["folds"]) for trial in study["trials"]]
        print_study(study, trials, rules(args.quick), orders, args.workers)


def read_trial(trial: dict[str, Any], folds: int) -> Recorded:
    """Read what `benchmarks.search_histories` wrote."""
    shares = [running / folds for running in trial["folds_running"]]
    return Recorded(trial["epochs"], trial["values"], shares, trial["seconds"])


def rules(quick: bool) -> dict[str, MakePruner]:
    """Return the stopping rules by name."""
    pruners = optuna.pruners
    named: dict[str, MakePruner] = {"patience alone": pruners.NopPruner}
    for grace in (2, 5) if quick else GRACES:
        for factor in FACTORS:
            named[f"halving {grace:>2}, {factor}"] = partial(
                pruners.SuccessiveHalvingPruner, min_resource=grace, reduction_factor=factor
            )
    for warmup in (2, 5):
        named[f"median, from {warmup}"] = partial(
            pruners.MedianPruner, n_startup_trials=5, n_warmup_steps=warmup - 1
        )
    for share in (25, 33):
        named[f"best {share}%, from 2"] = partial(
            pruners.PercentilePruner, percentile=share, n_startup_trials=5, n_warmup_steps=1
        )
    named["hyperband 2, 3"] = partial(
        pruners.HyperbandPruner, min_resource=2, max_resource=20, reduction_factor=3
    )
    return named


def print_study(
    study: dict[str, Any],
    trials: list[Recorded],
    named: dict[str, MakePruner],
    orders: int,
    workers: int,
) -> None:
    """Replay every rule over a study, and print a line each."""
    patience_alone = sum(trial.cost(len(trial.epochs)) for trial in trials)
    best = max(trial.values[-1] for trial in trials)
    print(
        f"\n{study['dataset']}/{study['protocol']}/{study['row']}: {len(trials)} trials of at most "
        f"{study['max_epochs']} epochs, {patience_alone:.0f} epochs, best {best:.4f}; "
        f"{workers} workers; recorded order, then mean over {orders} random orders"
    )
    print(f"{'rule':<18} {'recorded':>8} {'loss':>7} | {'fewer':>6} {'loss':>7} {'worst':>7}"
          f" {'best kept':>9} {'complete':>8}")  # fmt: skip
    with ProcessPoolExecutor() as pool:
        for name, make_pruner in named.items():
            as_recorded = replay(trials, make_pruner, workers)
            shuffled = [random.Random(seed).sample(trials, len(trials)) for seed in range(orders)]
            outcomes = list(pool.map(replay, shuffled, [make_pruner] * orders, [workers] * orders))
            losses = [1 - outcome.best / best for outcome in outcomes]
            fewer = patience_alone / statistics.mean(outcome.epochs for outcome in outcomes)
            kept = sum(loss == 0 for loss in losses) / orders
            complete = statistics.mean(outcome.complete for outcome in outcomes)
            print(
                f"{name:<18} {patience_alone / as_recorded.epochs:>7.2f}x "
                f"{1 - as_recorded.best / best:>7.2%} | {fewer:>5.2f}x "
                f"{statistics.mean(losses):>7.2%} {max(losses):>7.2%} {kept:>9.0%} {complete:>8.1f}"
            )


@dataclass(frozen=True)
class Outcome:
    """What a search with a stopping rule would have spent and found."""

    epochs: float
    best: float
    complete: int


def replay(trials: Sequence[Recorded], make_pruner: MakePruner, workers: int) -> Outcome:
    """Run recorded trials again, as `wpm.study` would.

    Args:
        trials: in the order of their start.
        make_pruner: the stopping rule.
        workers: trials at a time.
    """
    study = optuna.create_study(direction="maximize", pruner=make_pruner())
    waiting = iter(trials)
    # (time of the next report, order of start, reports so far, trial, its Optuna twin)
    running: list[tuple[float, int, int, Recorded, optuna.Trial]] = []

    def start(now: float) -> None:
        recorded = next(waiting, None)
        if recorded is not None:
            twin = study.ask()
            heapq.heappush(running, (now + recorded.seconds[0], twin.number, 0, recorded, twin))

    for _ in range(workers):
        start(0.0)
    epochs, best, complete = 0.0, 0.0, 0
    while running:
        now, number, report, recorded, twin = heapq.heappop(running)
        value = recorded.values[report]
        twin.report(value, step=recorded.epochs[report])
        stop = twin.should_prune()
        last = report + 1 == len(recorded.epochs)
        if not stop and not last:
            wait = recorded.seconds[report + 1] - recorded.seconds[report]
            heapq.heappush(running, (now + wait, number, report + 1, recorded, twin))
            continue
        epochs += recorded.cost(report + 1)
        # A trial that ends by itself is never asked whether to stop: its last report ends it.
        if last:
            study.tell(twin, value)
            best, complete = max(best, value), complete + 1
        else:
            study.tell(twin, state=optuna.trial.TrialState.PRUNED)
        start(now)
    return Outcome(epochs, best, complete)


if __name__ == "__main__":
    main()
