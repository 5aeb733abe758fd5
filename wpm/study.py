"""One search: an Optuna study that remembers everything, asked and told by whoever runs trials."""

import json
import logging
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import (
    BaseSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)
from optuna.trial import Trial, TrialState

from wpm.atomic import hold_lock
from wpm.config import Protocol, TrainingConfig
from wpm.errors import UserError
from wpm.jobs import identify, summarise, training_payload
from wpm.journal import check_end, open_journal
from wpm.records import (
    COMPLETE,
    FAILED,
    PRUNED,
    StudyPlace,
    TrainingFolder,
    provenance,
    read_study,
    remove_empty_study,
    trial_numbers,
    write_study,
)
from wpm.spaces import Range, SearchSpace

_STATES = {COMPLETE: TrialState.COMPLETE, PRUNED: TrialState.PRUNED, FAILED: TrialState.FAIL}
_log = logging.getLogger(__name__)

DEFAULT_SAMPLER = "tpe"
# Each is given a seed.
_SAMPLERS: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": lambda seed: TPESampler(seed=seed),
    "gp": lambda seed: GPSampler(seed=seed, warn_independent_sampling=False),
    "cmaes": lambda seed: CmaEsSampler(seed=seed, warn_independent_sampling=False),
    "qmc": lambda seed: QMCSampler(
        seed=seed, scramble=True, warn_asynchronous_seeding=False, warn_independent_sampling=False
    ),
    "random": lambda seed: RandomSampler(seed=seed),
}
SAMPLER_NAMES = tuple(_SAMPLERS)
# What a sampler imports when it is first used, and Optuna does not install.
_SAMPLER_PACKAGES = {"cmaes": "cmaes"}


@dataclass(frozen=True)
class StudyPlan:
    """What a study searches, and with which budget.

    Attributes:
        place: where its records go.
        space: what is searched.
        protocol: what all rows share.
        images: what the data set's images are, so that others are noticed.
        pixels: cache of trainval images.
        trials: how many trials in all, however they end.
        seed: of the sampler and of every trial's training.
        first_points: parameter values to try first; missing ones are sampled.
        early_stopping: whether ASHA stops trials.
        weights: file of the trunk's weights, or "random".
        sampler: what chooses configurations, one of `SAMPLER_NAMES`.
        left_out: path and reason of images that could not be read, for the record.
    """

    place: StudyPlace
    space: SearchSpace
    protocol: Protocol
    images: Mapping[str, Any]
    pixels: Path
    trials: int
    seed: int
    first_points: tuple[Mapping[str, float], ...] = ()
    early_stopping: bool = True
    weights: str = "random"
    sampler: str = DEFAULT_SAMPLER
    left_out: Sequence[tuple[str, str]] = ()

    def identity(self) -> dict[str, Any]:
        """Return what must not change under a study, in JSON types."""
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "row": str(self.space.row),
                    "searched": {name: asdict(r) for name, r in self.space.searched.items()},
                    "fixed": dict(self.space.fixed),
                    "protocol": asdict(self.protocol),
                    "images": dict(self.images),
                    "seed": self.seed,
                    "early_stopping": self.early_stopping,
                    # By name: the same file may lie elsewhere on another day.
                    "weights": Path(self.weights).name,
                    "sampler": self.sampler,
                }
            )
        )


def record_plan(plan: StudyPlan, trials: int) -> None:
    """Write study.json, or check that it says the same.

    Args:
        plan: the study's.
        trials: budget to record; a smaller one than before changes nothing, 0 is no search.

    Raises:
        UserError: the plan differs from the study's, or its files are damaged.
    """
    place, identity = plan.place, plan.identity()
    before = read_study(place)
    if before is None:
        if place.journal.exists():
            raise UserError(
                f"{place.folder} has a study.journal but no study.json; restore study.json, or "
                "start a new study with another --run-root"
            )
    elif before["identity"] != identity:
        difference = _first_difference(before["identity"], identity)
        raise UserError(
            f"study {place.name} was started with {difference}; start a new one with another "
            f"--run-root, or move {place.folder} away"
        )
    if before is None or trials > before["trials"]:
        now = {**provenance(), "left_out": list(plan.left_out)}
        first = before["provenance"] if before else now
        write_study(place, {"identity": identity, "trials": trials, "provenance": first})


class Study:
    """Runs one study's bookkeeping; hold it open while its trials run.

    The Optuna study is the only memory: trials that a killed launch left RUNNING are adopted, the
    rungs of successive halving are kept by Optuna's pruner inside the study.
    """

    def __init__(self, plan: StudyPlan) -> None:
        """Lock the study, check that it is the same as before, adopt its orphans.

        Args:
            plan: what to search.

        Raises:
            UserError: another launch holds the study, the plan differs from the study's, or its
                files are damaged.
        """
        self.plan = plan
        self._running: dict[int, Trial] = {}
        self._held = ExitStack()
        place = plan.place
        self._held.enter_context(hold_lock(place.lock, wait_s=0, what=f"study {place.name}"))
        try:
            before = read_study(place)
            self._is_new = before is None
            record_plan(plan, before["trials"] if before else plan.trials)
            self._study = self._open_study()
            self._orphans = deque(self._find_orphans())
        except BaseException:
            self._held.close()
            raise

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Release the study; one that a refused launch has begun without a trial is removed."""
        with self._held:
            if kind is not None and issubclass(kind, UserError) and self._is_new:
                remove_empty_study(self.plan.place)

    @property
    def started(self) -> int:
        """Trials that were started, ended or not."""
        return len(
            self._study.get_trials(deepcopy=False, states=(*_STATES.values(), TrialState.RUNNING))
        )

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return len(self._study.get_trials(deepcopy=False, states=tuple(_STATES.values())))

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and score of the best complete trial."""
        complete = self._study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        scores = [(trial.number, float(trial.values[0])) for trial in complete]
        return max(scores, key=lambda scored: scored[1], default=None)

    @property
    def exhausted(self) -> bool:
        """Whether every trial of the budget has been handed out."""
        return not self._orphans and self.started >= self.plan.trials

    @property
    def has_orphans(self) -> bool:
        """Whether trials of an interrupted launch wait to go on."""
        return bool(self._orphans)

    def record_budget(self) -> None:
        """Write how many trials are wanted. Not sooner than work starts: it may be refused."""
        record_plan(self.plan, self.plan.trials)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Hand out the next trial: an orphan, else a new one.

        Returns:
            Its number and the work to do, or None when the budget is handed out.
        """
        while self._orphans:
            trial = self._orphans.popleft()
            folder = TrainingFolder(self.plan.place.trial_folder(trial.number))
            ended = folder.finish_result()
            if ended is None:
                return self._start(trial)
            # It ended, and its launch was killed before it could tell the study.
            self._running[trial.number] = trial
            self.tell_ended(trial.number, ended, folder.read().reports)
        if self.exhausted:
            return None
        return self._start(self._study.ask())

    def report(self, number: int, reports: list[dict[str, Any]]) -> bool:
        """Pass on what a trial reported; values that the study knows are skipped.

        Args:
            number: the trial.
            reports: all its reports so far.

        Returns:
            Whether to stop the trial.
        """
        trial = self._running[number]
        for report in self._unknown(trial, reports):
            trial.report(report["best_map_at_r"], step=report["epoch"])
            if trial.should_prune():
                return True
        return False

    def _unknown(self, trial: Trial, reports: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the reports that the study does not know: a killed launch may have lost some."""
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        return [report for report in reports if report["epoch"] not in known]

    def leave(self, number: int) -> None:
        """Forget that a trial runs; the study keeps it so, and the next launch adopts it."""
        del self._running[number]

    def tell_stopped(self, number: int, reports: list[dict[str, Any]]) -> None:
        """Record that a trial was stopped by successive halving."""
        epoch = reports[-1]["epoch"]
        self._write_and_tell(number, PRUNED, f"stopped at epoch {epoch}", reports)

    def tell_lost(self, number: int, reason: str) -> None:
        """Record that a trial's worker died too often."""
        folder = TrainingFolder(self.plan.place.trial_folder(number))
        record = folder.read()
        if record.result is not None:  # it died after it ended
            self.tell_ended(number, record.result, record.reports)
        else:
            self._write_and_tell(number, FAILED, reason, record.reports)

    def tell_ended(
        self, number: int, result: Mapping[str, Any], reports: list[dict[str, Any]]
    ) -> None:
        """Record that a trial ended by itself, as its result.json says."""
        trial = self._running[number]
        for report in self._unknown(trial, reports):
            trial.report(report["best_map_at_r"], step=report["epoch"])
        self._tell(number, result)

    def _write_and_tell(
        self, number: int, state: str, reason: str, reports: list[dict[str, Any]]
    ) -> None:
        result = summarise(state, reason, reports)
        # The record first: adopting a trial with a result tells it, the other order would lose it.
        TrainingFolder(self.plan.place.trial_folder(number)).write_result(result)
        self._tell(number, result)

    def _tell(self, number: int, result: Mapping[str, Any]) -> None:
        trial = self._running.pop(number)
        state = _STATES[result["state"]]
        if result["reason"]:
            trial.set_user_attr("reason", result["reason"])
        value = result["score"] if state == TrialState.COMPLETE else None
        self._study.tell(trial, value, state)

    def _start(self, trial: Trial) -> tuple[int, dict[str, Any]]:
        plan = self.plan
        sampled = {name: _suggest(trial, name, r) for name, r in plan.space.searched.items()}
        config = TrainingConfig(
            row=str(plan.space.row),
            protocol=plan.protocol,
            parameters=plan.space.complete(sampled),
            seed=plan.seed,
            folds=tuple(range(plan.protocol.folds)),
            weights=plan.weights,
        )
        folder = plan.place.trial_folder(trial.number)
        if not (folder / "trial.json").exists():
            TrainingFolder(folder).write_identity(identify(trial.number, config))
        self._running[trial.number] = trial
        return trial.number, training_payload(folder, plan.pixels, config, export=False)

    def _open_study(self) -> optuna.Study:
        plan, place = self.plan, self.plan.place
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = open_journal(place.journal)
        check_end(place.journal, storage, trial_numbers(place), self._recorded_parameters)
        study = optuna.create_study(
            storage=storage,
            study_name=place.name,
            direction="maximize",
            load_if_exists=True,
            pruner=build_pruner(plan.protocol, early_stopping=plan.early_stopping),
        )
        trials = study.get_trials(deepcopy=False)
        study.sampler = build_sampler(plan.sampler, plan.seed, len(trials))
        if not trials:
            for point in plan.first_points:
                study.enqueue_trial(dict(point))
        return study

    def _recorded_parameters(self, number: int) -> dict[str, float]:
        """Return what a trial's record says of the parameters that are searched."""
        identity = TrainingFolder(self.plan.place.trial_folder(number)).read_identity()
        searched = self.plan.space.searched
        return {n: value for n, value in identity["parameters"].items() if n in searched}

    def _find_orphans(self) -> list[Trial]:
        """Return trials that were running when their launch died, as objects to go on with."""
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        for trial in running:
            TrainingFolder(self.plan.place.trial_folder(trial.number)).check_progress()
        # Optuna has no public way to continue a trial; `Trial` is pinned by the lock file.
        return [Trial(self._study, trial._trial_id) for trial in running]


def build_pruner(protocol: Protocol, *, early_stopping: bool) -> BasePruner:
    """Return what decides whether a trial is stopped."""
    if not early_stopping:
        return NopPruner()
    return SuccessiveHalvingPruner(
        min_resource=protocol.grace_epochs, reduction_factor=protocol.reduction_factor
    )


def build_sampler(name: str, seed: int, trials: int) -> BaseSampler:
    """Return what chooses configurations.

    Args:
        name: one of `SAMPLER_NAMES`.
        seed: of the study.
        trials: that the study holds already.

    Raises:
        UserError: unknown name, or a package that it needs is missing.
    """
    if name not in _SAMPLERS:
        raise UserError(f"unknown sampler {name!r}; choose from {', '.join(_SAMPLERS)}")
    package = _SAMPLER_PACKAGES.get(name)
    if package is not None and find_spec(package) is None:
        raise UserError(
            f"sampler {name} needs the package {package}: python -m pip install {package}, or "
            f"choose another of {', '.join(_SAMPLERS)}"
        )
    if name != "qmc":  # of its one sequence the study counts how much is used
        # A seed of its own for every launch: the same one would propose the same points again.
        seed = int(np.random.SeedSequence((seed, trials)).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return _SAMPLERS[name](seed)


def _suggest(trial: Trial, name: str, searched: Range) -> float:
    """Sample a parameter, or return the value that an adopted trial has already."""
    distribution = _distribution(searched)
    return float(trial._suggest(name, distribution))


def _distribution(searched: Range) -> BaseDistribution:
    log = searched.scale == "log"
    if searched.type == "int":
        return IntDistribution(int(searched.low), int(searched.high), log=log)
    return FloatDistribution(searched.low, searched.high, log=log)


def _first_difference(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    """Name the first value that differs, old and new."""
    for key in sorted({*before, *now}):
        old, new = before.get(key), now.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return _first_difference(old, new, f"{path}{key}.")
            return f"{path}{key} = {old!r}, now {new!r}"
    return "another configuration"
