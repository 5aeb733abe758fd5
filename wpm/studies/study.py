"""One search: an Optuna study that remembers everything, asked and told by whoever runs trials."""

import logging
from collections import deque
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.trial import Trial
from optuna.trial import TrialState as OptunaState

from wpm.errors import UserError
from wpm.files import hold_lock
from wpm.jobs.train_job import identify, training_payload
from wpm.records import (
    TrainingFolder,
    TrialState,
    read_study,
    remove_empty_study,
    summarise,
    trial_numbers,
)
from wpm.spaces import Range
from wpm.studies.journal import check_end, open_journal
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.samplers import build_pruner, build_sampler
from wpm.training.config import TrainingConfig

_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}
_log = logging.getLogger(__name__)


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
            self._study.get_trials(deepcopy=False, states=(*_STATES.values(), OptunaState.RUNNING))
        )

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return len(self._study.get_trials(deepcopy=False, states=tuple(_STATES.values())))

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and score of the best complete trial."""
        complete = self._study.get_trials(deepcopy=False, states=(OptunaState.COMPLETE,))
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
            self.record_ended(trial.number, ended, folder.read().reports)
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
        self._write_and_tell(number, TrialState.PRUNED, f"stopped at epoch {epoch}", reports)

    def tell_lost(self, number: int, reason: str) -> None:
        """Record that a trial's worker died too often."""
        folder = TrainingFolder(self.plan.place.trial_folder(number))
        record = folder.read()
        if record.result is not None:  # it died after it ended
            self.record_ended(number, record.result, record.reports)
        else:
            self._write_and_tell(number, TrialState.FAILED, reason, record.reports)

    def record_ended(
        self, number: int, result: Mapping[str, Any], reports: list[dict[str, Any]]
    ) -> None:
        """Record that a trial ended by itself, as its result.json says."""
        trial = self._running[number]
        for report in self._unknown(trial, reports):
            trial.report(report["best_map_at_r"], step=report["epoch"])
        self._tell(number, result)

    def _write_and_tell(
        self, number: int, state: TrialState, reason: str, reports: list[dict[str, Any]]
    ) -> None:
        result = summarise(state, reason, reports)
        # The record first: adopting a trial with a result tells it, the other order would lose it.
        TrainingFolder(self.plan.place.trial_folder(number)).write_result(result)
        self._tell(number, result)

    def _tell(self, number: int, result: Mapping[str, Any]) -> None:
        trial = self._running.pop(number)
        state = _STATES[TrialState(result["state"])]
        if result["reason"]:
            trial.set_user_attr("reason", result["reason"])
        value = result["score"] if state == OptunaState.COMPLETE else None
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
        running = self._study.get_trials(deepcopy=False, states=(OptunaState.RUNNING,))
        for trial in running:
            TrainingFolder(self.plan.place.trial_folder(trial.number)).check_progress()
        # Optuna has no public way to continue a trial; `Trial` is pinned by the lock file.
        return [Trial(self._study, trial._trial_id) for trial in running]


def _suggest(trial: Trial, name: str, searched: Range) -> float:
    """Sample a parameter, or return the value that an adopted trial has already."""
    distribution = _distribution(searched)
    return float(trial._suggest(name, distribution))


def _distribution(searched: Range) -> BaseDistribution:
    log = searched.scale == "log"
    if searched.type == "int":
        return IntDistribution(int(searched.low), int(searched.high), log=log)
    return FloatDistribution(searched.low, searched.high, log=log)
