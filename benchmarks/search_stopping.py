"""Stopping rules replayed over recorded trials: epochs saved, and what the best score loses.

python -m benchmarks.search_stopping [--quick]

Every trial was recorded to the end of its patience, or of the epochs of its protocol, fold by fold.
A replay starts the trials in random orders on several workers, and the code of the search decides
which train on. An epoch of one fold is the unit of cost.
"""

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.search_replay import HISTORIES, Curves, RecordedStudy, Rule, read_studies, replay
from wpm.cpus import count_cpus
from wpm.formatting import format_table
from wpm.protocols import HALVING, NO_STOPPING, PAUSING, Protocol

COLUMNS = ("stopping", "first folds", "first rung, factor", "fewer epochs", "loss", "95th",
           "best tenth stopped", "complete")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a rule did to the trials of a study, in one order.

    Attributes:
        cost: epochs of single folds that were trained.
        best: score of the best complete trial.
        stopped: share of the best tenth of the trials that did not become complete.
        complete: number of complete trials.
    """

    cost: int
    best: float
    stopped: float
    complete: int


def main() -> None:
    """Print a table for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--orders", type=int, default=100, help="random orders of the trials")
    parser.add_argument("--quick", action="store_true", help="ten orders, a few rules")
    args = parser.parse_args()
    rules = list(make_rules())
    if args.quick:
        args.orders, rules = 10, rules[::9]
    for study in read_studies(args.histories):
        print_rules(study, rules, args.orders, args.workers)


def make_rules() -> Iterator[Rule]:
    """Yield the rules."""
    yield Rule(NO_STOPPING)
    for stopping in (HALVING, PAUSING):
        for first_folds in (0, 1, 2):
            for factor in (2, 3, 4):
                for grace in (2, 3, 4, 5):
                    yield Rule(stopping, first_folds, grace, factor)


def print_rules(study: RecordedStudy, rules: Sequence[Rule], orders: int, workers: int) -> None:
    """Replay every rule over the trials of a study, and print a line for each."""
    trials = study.curves
    full, best = sum(trial.cost for trial in trials), max(trial.end for trial in trials)
    print(
        f"\n{study.name}: {len(trials)} trials, {full} epochs of single folds until the patience "
        f"ends, best {best:.4f}; {workers} workers, {orders} random orders"
    )
    rows = []
    with ProcessPoolExecutor(count_cpus()) as pool:
        for rule in rules:
            run = partial(spend, trials, rule, study.protocol, workers)
            outcomes = list(pool.map(run, range(orders), chunksize=10))
            losses = sorted(1 - outcome.best / best for outcome in outcomes)
            rows.append([
                rule.stopping, str(rule.first_folds), f"{rule.grace}, {rule.factor}",
                f"{full / statistics.mean(o.cost for o in outcomes):.2f}",
                f"{statistics.mean(losses):.2%}", f"{losses[int(0.95 * orders)]:.1%}",
                f"{statistics.mean(o.stopped for o in outcomes):.0%}",
                f"{statistics.mean(o.complete for o in outcomes):.1f}",
            ])  # fmt: skip
    print(format_table(COLUMNS, rows, "text"), flush=True)


def spend(
    trials: Sequence[Curves], rule: Rule, protocol: Protocol, workers: int, seed: int
) -> Outcome:
    """Replay trials under a stopping rule, in a random order."""
    shuffled = random.Random(seed).sample(trials, len(trials))
    histories = [trial.under(protocol.max_epochs, rule.first_folds) for trial in shuffled]
    ended = replay(histories.__getitem__, rule.rungs(protocol), len(trials), workers)
    complete = {trial.number for trial in ended if trial.complete}
    ranked = sorted(range(len(trials)), key=lambda number: -shuffled[number].end)
    tenth = ranked[: max(1, round(len(trials) / 10))]
    return Outcome(
        cost=sum(trial.cost for trial in ended),
        best=max((shuffled[number].end for number in complete), default=0.0),
        stopped=sum(number not in complete for number in tenth) / len(tenth),
        complete=len(complete),
    )


if __name__ == "__main__":
    main()
