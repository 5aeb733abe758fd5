"""Stopping rules replayed over recorded trials: epochs saved, and what the best score loses.

python -m benchmarks.search_stopping [--quick]

Every trial was recorded to the end of its patience, or of the epochs of its protocol, fold by fold.
Each replay is a search of 20 of them, drawn and ordered at random: which trial is the best, and
whether it starts slowly, then differs from replay to replay. The code of the search decides which
train on. An epoch of one fold is the unit of cost.
"""

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.search_replay import HISTORIES, Curves, RecordedStudy, Rule, read_studies, replay
from wpm.cpus import count_cpus
from wpm.formatting import format_table
from wpm.protocols import HALVING, NO_STOPPING, PAUSING, Protocol

COLUMNS = ("stopping", "first folds", "first rung, factor", "fewer epochs", "loss", "95th",
           "best tenth stopped", "complete")  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a rule did to the trials of one search.

    Attributes:
        cost: epochs of single folds that were trained, as a share of those of patience alone.
        loss: how much of the best score the best complete trial lacks, as a share.
        stopped: share of the best tenth of the trials that did not become complete.
        complete: number of complete trials.
    """

    cost: float
    loss: float
    stopped: float
    complete: int


def main() -> None:
    """Print a table for each recorded study."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--trials", type=int, default=20, help="of each search; at most all")
    parser.add_argument("--searches", type=int, default=200, help="random draws of the trials")
    parser.add_argument("--quick", action="store_true", help="ten searches, a few rules")
    args = parser.parse_args()
    rules = list(make_rules())
    if args.quick:
        args.searches, rules = 10, rules[::9]
    for study in read_studies(args.histories):
        print_rules(study, rules, args.trials, args.searches, args.workers)


def make_rules() -> Iterator[Rule]:
    """Yield the rules."""
    yield Rule(NO_STOPPING)
    for stopping in (HALVING, PAUSING):
        for first_folds in (0, 1, 2):
            for factor in (2, 3, 4):
                for grace in (2, 3, 4, 5):
                    yield Rule(stopping, first_folds, grace, factor)


def print_rules(
    study: RecordedStudy, rules: Sequence[Rule], trials: int, searches: int, workers: int
) -> None:
    """Replay every rule over the trials of a study, and print a line for each."""
    trials = min(trials, len(study.curves))
    print(
        f"\n{study.name}: {searches} searches of {trials} of {len(study.curves)} trials, "
        f"{workers} workers; rank correlation of the first fold with the mean of all folds, at the "
        f"end: {correlate_first_fold(study.curves):.2f}, of the better half of the trials "
        f"{correlate_first_fold(better_half(study.curves)):.2f}"
    )
    rows = []
    with ProcessPoolExecutor(count_cpus()) as pool:
        for rule in rules:
            run = partial(spend, study.curves, trials, rule, study.protocol, workers)
            outcomes = list(pool.map(run, range(searches), chunksize=10))
            losses = sorted(outcome.loss for outcome in outcomes)
            rows.append([
                rule.stopping, str(rule.first_folds), f"{rule.grace}, {rule.factor}",
                f"{1 / statistics.mean(o.cost for o in outcomes):.2f}",
                f"{statistics.mean(losses):.2%}", f"{losses[int(0.95 * searches)]:.1%}",
                f"{statistics.mean(o.stopped for o in outcomes):.0%}",
                f"{statistics.mean(o.complete for o in outcomes):.1f}",
            ])  # fmt: skip
    print(format_table(COLUMNS, rows, "text"), flush=True)


def correlate_first_fold(trials: Sequence[Curves]) -> float:
    """Return how well the first fold alone ranks trials at their ends (Spearman's rho)."""
    rho, _ = spearmanr([trial.values[0][-1] for trial in trials], [trial.end for trial in trials])
    return float(rho)


def better_half(trials: Sequence[Curves]) -> list[Curves]:
    """Return the half of the trials with the best ends, rounded up."""
    return sorted(trials, key=lambda trial: -trial.end)[: -(-len(trials) // 2)]


def spend(
    curves: Sequence[Curves], trials: int, rule: Rule, protocol: Protocol, workers: int, seed: int
) -> Outcome:
    """Replay some recorded trials under a stopping rule, drawn and ordered at random."""
    drawn = random.Random(seed).sample(curves, trials)
    histories = [trial.under(protocol.max_epochs, rule.first_folds) for trial in drawn]
    ended = replay(histories.__getitem__, rule.rungs(protocol), trials, workers)
    complete = {trial.number for trial in ended if trial.complete}
    ranked = sorted(range(trials), key=lambda number: -drawn[number].end)
    tenth = ranked[: max(1, round(trials / 10))]
    best, found = drawn[ranked[0]].end, max((drawn[n].end for n in complete), default=0.0)
    return Outcome(
        cost=sum(trial.cost for trial in ended) / sum(trial.cost for trial in drawn),
        loss=1 - found / best if best else 0.0,
        stopped=sum(number not in complete for number in tenth) / len(tenth),
        complete=len(complete),
    )


if __name__ == "__main__":
    main()
