"""Samplers and stopping rules on surrogates of recorded studies: what a search of 50 trials finds.

python -m benchmarks.search_samplers [--quick]

A surrogate (`benchmarks.search_landscape`) predicts what the folds of any configuration would have
reported. Searches run on it, 4 trials at a time, with the samplers and the rungs of the product.
Regret is the share of the best score that the chosen trial, the complete one with the best report,
lacks without noise. An epoch of one fold is the unit of cost.
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.trial import TrialState

from benchmarks.search_landscape import SURROGATES, Landscape
from benchmarks.search_replay import (
    HISTORIES,
    History,
    Listener,
    ReplayedTrial,
    Rule,
    read_studies,
    replay,
)
from wpm.cpus import count_cpus
from wpm.formatting import format_table
from wpm.protocols import HALVING, NO_STOPPING, Protocol
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.samplers import build_sampler

TRIALS, WORKERS = 50, 4
EARLY = 20  # trials after which the regret is shown too
COLUMNS = ("sampler", "stopping", "first", "regret", "+-", "of 20", "at 10%", "at 20%", "epochs",
           "complete", "CPU s")  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """A way to search.

    Attributes:
        sampler: name of the sampler.
        rule: which trials train on.
        published: whether the published points of all data sets are tried first.
    """

    sampler: str
    rule: Rule
    published: bool = False


@dataclass(frozen=True)
class SearchOutcome:
    """What a search found.

    Attributes:
        regret: of the chosen trial.
        early: of the best of the first `EARLY` trials, each trained to its end.
        at_cost: regret once a tenth and a fifth of the epochs are spent that all trials would take
            if nothing stopped them; 1 while no trial is complete.
        epochs: epochs of single folds, as a share of the same.
        complete: number of complete trials.
        seconds: CPU seconds of a proposal.
    """

    regret: float
    early: float
    at_cost: tuple[float, float]
    epochs: float
    complete: int
    seconds: float


def main() -> None:
    """Print a table for each recorded study and surrogate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--histories", type=Path, default=HISTORIES)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--studies", nargs="*", help="names such as omniglot/small/contrastive")
    parser.add_argument("--processes", type=int, default=count_cpus())
    parser.add_argument("--quick", action="store_true", help="two seeds, three settings")
    args = parser.parse_args()
    seeds = 2 if args.quick else args.seeds
    for study in read_studies(args.histories):
        if args.studies and study.name not in args.studies:
            continue
        settings = make_settings(study.protocol)[:: 6 if args.quick else 1]
        for surrogate in SURROGATES:
            landscape = Landscape(study, surrogate)
            print_landscape(landscape, settings, seeds, surrogate, args.processes)


def make_settings(protocol: Protocol) -> list[Setting]:
    """Return what is compared: samplers under the protocol's rule, then rules under two."""
    none, halving, default = Rule(NO_STOPPING), Rule(HALVING, 0, 2, 2), default_rule(protocol)
    return [
        *(Setting(name, default) for name in ("curves", "tpe", "gp", "random")),
        *(Setting(name, halving) for name in ("curves", "tpe")),
        *(Setting(name, none) for name in ("curves", "random")),
        Setting("curves", default, published=True),
    ]


def default_rule(protocol: Protocol) -> Rule:
    """Return the rule of a protocol."""
    return Rule(
        protocol.stopping, protocol.first_folds, protocol.grace_epochs, protocol.reduction_factor
    )


def print_landscape(
    landscape: Landscape, settings: Sequence[Setting], seeds: int, surrogate: str, processes: int
) -> None:
    """Print a line for each way to search a landscape."""
    print(
        f"\n{landscape.study.name}, {surrogate} over {len(landscape.axes)} parameters: best "
        f"{landscape.best:.4f}, noise {landscape.noise:.4f}, explains {landscape.explained:.0%} of "
        f"trials left out; {TRIALS} trials, {WORKERS} at a time, {seeds} seeds"
    )
    rows = []
    with ProcessPoolExecutor(processes) as pool:
        for setting in settings:
            jobs = [(landscape, setting, seed) for seed in range(seeds)]
            rows.append(lay_out(setting, list(pool.map(search, *zip(*jobs, strict=True)))))
    print(format_table(COLUMNS, rows, "text"), flush=True)


def lay_out(setting: Setting, outcomes: Sequence[SearchOutcome]) -> list[str]:
    """Return a line of the table: means over the seeds, and the standard error of the regret."""
    rule = setting.rule
    fold = f"{rule.first_folds} fold{'s' if rule.first_folds > 1 else ''} first, "
    words = f"{rule.stopping} {fold if rule.first_folds else ''}{rule.grace}, {rule.factor}"
    regrets = [outcome.regret for outcome in outcomes]
    return [
        setting.sampler,
        rule.stopping if rule.stopping == NO_STOPPING else words,
        "published" if setting.published else "",
        f"{statistics.mean(regrets):.1%}",
        f"{statistics.stdev(regrets) / len(regrets) ** 0.5:.1%}",
        f"{statistics.mean(o.early for o in outcomes):.1%}",
        *(f"{statistics.mean(o.at_cost[k] for o in outcomes):.1%}" for k in range(2)),
        f"{statistics.mean(o.epochs for o in outcomes):.0%}",
        f"{statistics.mean(o.complete for o in outcomes):.0f}",
        f"{statistics.mean(o.seconds for o in outcomes):.2f}",
    ]


class _Search(Listener):
    """An Optuna study that is told what a replay does, as `wpm.studies.study` tells its own."""

    def __init__(self, landscape: Landscape, setting: Setting, seed: int) -> None:
        self._landscape, self._rng = landscape, np.random.default_rng(seed)
        self.protocol = setting.rule.change(landscape.study.protocol)
        self.rungs = setting.rule.rungs(landscape.study.protocol)
        self._space: dict[str, BaseDistribution] = {
            a.name: FloatDistribution(a.low, a.high, log=a.log) for a in landscape.axes
        }
        self._study = optuna.create_study(
            direction="maximize",
            sampler=build_sampler(setting.sampler, seed, 0, self.rungs.steps, self._space),
            pruner=optuna.pruners.NopPruner(),
        )
        self.known = published_points(landscape) if setting.published else []
        for point in self.known:
            self._study.enqueue_trial(dict(point))
        self._trials: dict[int, optuna.Trial] = {}
        self.true: dict[int, float] = {}
        self.seconds, self.epochs, self.best = 0.0, 0, -1.0
        self.regrets: list[tuple[int, float]] = []  # epochs spent, and regret from then on
        self._histories: dict[int, History] = {}
        self._reports: dict[int, int] = {}

    def start(self, number: int) -> History:
        """Propose a configuration, and return what it would report."""
        before = time.process_time()
        trial = self._study.ask(self._space)
        self.seconds += time.process_time() - before
        self._trials[number] = trial
        self.true[number] = self._landscape.score(trial.params)
        curves = self._landscape.train(trial.params, self._rng)
        history = curves.under(self.protocol.max_epochs, self.protocol.first_folds)
        self._histories[number], self._reports[number] = history, 0
        return history

    def on_report(self, number: int, step: int, value: float) -> None:
        """Report to the study, and count the epochs."""
        self._trials[number].report(value, step)
        self.epochs += self._histories[number].costs[self._reports[number]]
        self._reports[number] += 1

    def on_end(self, number: int, value: float | None) -> None:
        """Tell the study."""
        state = TrialState.PRUNED if value is None else TrialState.COMPLETE
        self._study.tell(self._trials[number], value, state)
        if value is not None and value > self.best:
            self.best = value
            self.regrets.append((self.epochs, 1 - self.true[number] / self._landscape.best))


def published_points(landscape: Landscape) -> list[Mapping[str, float]]:
    """Return what was published for the row on every data set, without repetitions."""
    space = load_space(Row.parse(landscape.study.row))
    names = [axis.name for axis in landscape.axes]
    points = [
        {**space.thresholds, **space.find_published(dataset).parameters}
        for dataset in ("cub200", "cars196", "sop")
    ]
    return [{name: point[name] for name in names} for point in points]


def search(landscape: Landscape, setting: Setting, seed: int) -> SearchOutcome:
    """Run one search on a surrogate."""
    import torch  # the Gaussian process uses it; one thread for each search

    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", ExperimentalWarning)
    run = _Search(landscape, setting, seed)
    ended = replay(run.start, run.rungs, TRIALS, WORKERS, run, known=len(run.known))
    full = TRIALS * landscape.study.protocol.folds * landscape.study.protocol.max_epochs
    return SearchOutcome(
        regret=run.regrets[-1][1],
        early=_early_regret(ended, run.true, landscape.best),
        at_cost=(_regret_at(run.regrets, full / 10), _regret_at(run.regrets, full / 5)),
        epochs=run.epochs / full,
        complete=sum(trial.complete for trial in ended),
        seconds=run.seconds / TRIALS,
    )


def _early_regret(ended: Sequence[ReplayedTrial], true: Mapping[int, float], best: float) -> float:
    """Return the regret of the best-looking complete trial among the first ones; 1 if none."""
    first = [trial for trial in ended if trial.complete and trial.number < EARLY]
    chosen = max(first, key=lambda trial: trial.value, default=None)
    return 1.0 if chosen is None else 1 - true[chosen.number] / best


def _regret_at(regrets: Sequence[tuple[int, float]], epochs: float) -> float:
    return next((regret for spent, regret in reversed(regrets) if spent <= epochs), 1.0)


if __name__ == "__main__":
    main()
