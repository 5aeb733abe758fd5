"""One search: an Optuna study that remembers everything, with records beside it."""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.pruners import NopPruner
from optuna.trial import FrozenTrial, Trial
from optuna.trial import TrialState as OptunaState

from wpm.files import hold_lock
from wpm.jobs.payloads import identify, training_payload
from wpm.jobs.work import Decision
from wpm.records import (
    Outcome,
    TrainingFolder,
    TrialState,
    read_first_points,
    read_study,
    read_twin_cost,
    remove_empty_study,
    trial_numbers,
    validation_order,
)
from wpm.reports import Report
from wpm.spaces import Range
from wpm.studies.journal import check_end, has_no_trial, open_journal
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.rungs import Rungs
from wpm.studies.samplers import build_sampler
from wpm.training.config import TrainingConfig

_STATES = {
    TrialState.COMPLETE: OptunaState.COMPLETE,
    TrialState.DIVERGED: OptunaState.COMPLETE,  # the sampler learns its score, which is 0
    TrialState.PRUNED: OptunaState.PRUNED,
    TrialState.FAILED: OptunaState.FAIL,
}
_ORIGIN = "origin"  # a trial's user attribute


class Study:
    """Runs one study's bookkeeping; hold it open while its trials run.

    The Optuna study is the only memory, of the rungs too. For Optuna, a trial that waits at a rung
    is RUNNING, as is one that a killed launch left behind and that is adopted.
    """

    def __init__(self, plan: StudyPlan) -> None:
        """Lock the study, check that its plan is the same as before, find its orphans.

        Raises:
            UserError: another launch holds the study, the plan differs from the study's, or its
                files are damaged.
        """
        self.plan = plan
        self._rungs = Rungs(plan.protocol, plan.stopping)
        self._running: dict[int, Trial] = {}
        self._waiting: dict[int, Trial] = {}
        self._stack = ExitStack()
        place = plan.place
        self._stack.enter_context(hold_lock(place.lock, wait_s=0, what=f"study {place.name}"))
        try:
            before = read_study(place)
            if before is not None and not trial_numbers(place) and has_no_trial(place.journal):
                # A launch that was killed before its first trial left it; any plan may begin anew.
                # The same plan keeps what it found to try first: the run folder may have changed.
                points = read_first_points(before)
                if points is not None and before["identity"] == plan.identity():
                    plan = replace(plan, first_points=points, twin_cost=read_twin_cost(before))
                    self.plan = plan
                remove_empty_study(place)
                before = read_study(place)
            record_plan(plan, before["trials"] if before else plan.trials)
            self._study = self._open_study()
            self._orphans = deque(self._restore_trials())
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> "Study":
        return self

    def __exit__(self, kind: type[BaseException] | None = None, *_: object) -> None:
        """Release the study; remove it if the launch failed before the first trial of all."""
        with self._stack:
            if kind is not None and issubclass(kind, Exception) and not self.started:
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
        scores = [
            (trial.number, float(trial.values[0]))
            for trial in complete
            if not trial.user_attrs.get(TrialState.DIVERGED, False)
        ]
        return min(scores, key=lambda trial: validation_order(trial[1], trial[0]), default=None)

    def origin_of(self, number: int) -> str:
        """Return where a trial's configuration was known from; "" if it was sampled."""
        return _origin_of(self._study.get_trials(deepcopy=False)[number])

    @property
    def exhausted(self) -> bool:
        """Whether no trial will be handed out any more."""
        # A trial that runs may yet wait at a rung and be handed out again.
        may_return = self._rungs.pauses and bool(self._running)
        return not (self._orphans or self._waiting or may_return or self._can_begin)

    @property
    def _can_begin(self) -> bool:
        return self.started < self.plan.trials

    @property
    def has_orphans(self) -> bool:
        """Whether trials of an interrupted launch wait to be adopted."""
        return bool(self._orphans)

    def record_budget(self) -> None:
        """Record the trial budget.

        Called with the first trial: a launch that is refused before must not change it.
        """
        record_plan(self.plan, self.plan.trials)

    def ask(self) -> tuple[int, dict[str, Any]] | None:
        """Hand out the next trial: an orphan, else one that waited long enough, else a new one.

        Returns:
            Its number and the payload of its work, or None when there is none at present.
        """
        while self._orphans:
            trial = self._orphans.popleft()
            folder = TrainingFolder(self.plan.place.trial_folder(trial.number))
            ended = folder.finish_result()
            if ended is None:
                return self._start(trial)
            # It ended, and its launch was killed before it could tell the Optuna study.
            self._running[trial.number] = trial
            self.record_ended(trial.number, ended, folder.read().reports)
        resumed = self._rungs.resume_one()
        if resumed is None and self._can_begin:
            return self._start(self._study.ask())
        if resumed is None and not self._running:
            resumed = self._rungs.resume_one(is_last_call=True)
        return None if resumed is None else self._start(self._waiting.pop(resumed))

    def stop_waiting(self) -> list[tuple[int, Outcome]]:
        """Record the trials that wait as stopped, if no other trial can reach their rungs any more.

        Call it when `ask` has nothing to hand out.

        Returns:
            Their numbers, and what was recorded.
        """
        if self._running or self._orphans or self._can_begin:
            return []
        stopped = []
        for number, trial in sorted(self._waiting.items()):
            self._running[number] = trial
            reports = TrainingFolder(self.plan.place.trial_folder(number)).read_reports()
            stopped.append((number, self.record_stopped(number, reports)))
        self._waiting.clear()
        self._rungs.waiting.clear()
        return stopped

    @property
    def waiting(self) -> int:
        """Trials that wait at a rung."""
        return len(self._waiting)

    def report(self, number: int, reports: Sequence[Report]) -> Decision:
        """Report what a trial found so far; values that the Optuna study knows are skipped.

        Args:
            number: the trial.
            reports: all its reports so far.

        Returns:
            STOP if the trial is behind at a rung and ends, SUSPEND if it waits there.
        """
        trial = self._running[number]
        for report in self._unknown(trial, reports):
            step, value = self._step_of(report), report.best_map_at_r
            trial.report(value, step=step)
            if not self._rungs.reach(number, step, value, known=self._is_known(number)):
                return Decision.SUSPEND if self._rungs.pauses else Decision.STOP
        return Decision.CONTINUE

    def _unknown(self, trial: Trial, reports: Sequence[Report]) -> list[Report]:
        """Return the reports that Optuna does not know: a killed launch may have lost some."""
        known = self._study._storage.get_trial(trial._trial_id).intermediate_values
        return [report for report in reports if self._step_of(report) not in known]

    def _step_of(self, report: Report) -> int:
        """Return the step under which Optuna knows a report."""
        return report.compared_at(self.plan.protocol.folds, self.plan.protocol.max_epochs)

    def suspend(self, number: int) -> None:
        """Forget that a trial runs: it waits at a rung, or the next launch adopts it."""
        trial = self._running.pop(number)
        if number in self._rungs.waiting:
            self._waiting[number] = trial
            self._note_waiting(number, True)

    def record_stopped(self, number: int, reports: Sequence[Report]) -> Outcome:
        """Record that a trial was behind at a rung and ends; return what was recorded."""
        reason = f"stopped at {self.describe_reached(reports[-1])}"
        return self._record_end(number, TrialState.PRUNED, reason, reports)

    def describe_reached(self, report: Report) -> str:
        """Say which epoch a trial has reached, and on which folds where that varies."""
        protocol = self.plan.protocol
        return report.describe_reached(protocol.folds, protocol.first_folds)

    def _note_waiting(self, number: int, waits: bool) -> None:
        TrainingFolder(self.plan.place.trial_folder(number)).write_waiting(waits)

    def record_crashed(self, number: int, reason: str) -> Outcome:
        """Record that a trial's worker crashed too often; return what was recorded."""
        folder = TrainingFolder(self.plan.place.trial_folder(number))
        record = folder.read()
        if record.result is not None:  # the worker crashed after the trial had ended
            self.record_ended(number, record.result, record.reports)
            return record.result
        return self._record_end(number, TrialState.FAILED, reason, record.reports)

    def record_ended(self, number: int, result: Outcome, reports: Sequence[Report]) -> None:
        """Record in the Optuna study that a trial ended by itself, as its result.json says."""
        trial = self._running[number]
        for report in self._unknown(trial, reports):
            trial.report(report.best_map_at_r, step=self._step_of(report))
        self._tell_optuna(number, result)

    def _record_end(
        self, number: int, state: TrialState, reason: str, reports: Sequence[Report]
    ) -> Outcome:
        result = Outcome.from_reports(state, reports, reason)
        # The record is first: if this process is killed in between, the trial is adopted with its
        # result. In the other order the result would be lost.
        TrainingFolder(self.plan.place.trial_folder(number)).write_result(result)
        self._tell_optuna(number, result)
        return result

    def _tell_optuna(self, number: int, result: Outcome) -> None:
        trial = self._running.pop(number)
        if result.reason:
            trial.set_user_attr("reason", result.reason)
        if result.state is TrialState.DIVERGED:
            trial.set_user_attr(TrialState.DIVERGED, True)
        state = _STATES[result.state]
        self._study.tell(trial, result.score if state is OptunaState.COMPLETE else None, state)

    def _start(self, trial: Trial) -> tuple[int, dict[str, Any]]:
        plan = self.plan
        sampled = {name: _suggest(trial, name, r) for name, r in plan.space.searched.items()}
        config = TrainingConfig(
            row=plan.space.row,
            protocol=plan.protocol,
            parameters=plan.space.complete(sampled),
            seed=plan.trial_seed(trial.number),
            folds=tuple(range(plan.protocol.folds)),
            weights=plan.weights,
            loss=plan.space.loss,
        )
        folder = plan.place.trial_folder(trial.number)
        if not (folder / "trial.json").exists():
            TrainingFolder(folder).write_identity(identify(trial.number, config, _origin_of(trial)))
        self._note_waiting(trial.number, False)
        self._running[trial.number] = trial
        return trial.number, training_payload(folder, plan.pixel_cache, config, export=False)

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
            pruner=NopPruner(),  # `Rungs` decides
        )
        trials = study.get_trials(deepcopy=False)
        space = {name: _distribution(r) for name, r in plan.space.searched.items()}
        study.sampler = build_sampler(
            plan.sampler, plan.seed, len(trials), self._rungs.steps, space
        )
        if not trials:
            for point in plan.first_points:
                study.enqueue_trial(dict(point.parameters), {_ORIGIN: point.origin})
        return study

    def _is_known(self, number: int) -> bool:
        """Whether every searched parameter of a trial was known before the search."""
        points = self.plan.first_points  # tried in this order, before anything is sampled
        searched = self.plan.space.searched.keys()
        return number < len(points) and searched <= points[number].parameters.keys()

    def _recorded_parameters(self, number: int) -> dict[str, float]:
        """Return the searched parameters in a trial's record."""
        identity = TrainingFolder(self.plan.place.trial_folder(number)).read_identity()
        searched = self.plan.space.searched
        return {n: value for n, value in identity["parameters"].items() if n in searched}

    def _restore_trials(self) -> list[Trial]:
        """Take in the trials of earlier launches; return those to adopt, ready to be resumed."""
        orphans = []
        for stored in self._study.get_trials(deepcopy=False):
            number, runs = stored.number, stored.state is OptunaState.RUNNING
            values = stored.intermediate_values
            self._rungs.take_in(number, values, known=self._is_known(number), ends=not runs)
            if not runs:
                continue
            folder = TrainingFolder(self.plan.place.trial_folder(number))
            folder.check_progress()
            # Optuna has no public way to resume a trial, so this builds a `Trial` by its
            # constructor, which requirements.txt pins with the version.
            trial = Trial(self._study, stored._trial_id)
            # Its worker may have gone on, and its launch was killed before it could note that.
            is_ahead = folder.has_ended or len(folder.read_reports()) > len(values)
            if number in self._rungs.waiting and not is_ahead:
                self._waiting[number] = trial
                self._note_waiting(number, True)
            else:
                self._rungs.waiting.discard(number)
                orphans.append(trial)
        return orphans


def _origin_of(trial: Trial | FrozenTrial) -> str:
    """Return where a trial's configuration was known from; "" if it was sampled."""
    return str(trial.user_attrs.get(_ORIGIN, ""))


def _suggest(trial: Trial, name: str, searched: Range) -> float:
    """Sample a parameter, or return the value that an adopted trial has already."""
    distribution = _distribution(searched)
    return float(trial._suggest(name, distribution))


def _distribution(searched: Range) -> BaseDistribution:
    log = searched.scale == "log"
    if searched.type == "int":
        return IntDistribution(int(searched.low), int(searched.high), log=log)
    return FloatDistribution(searched.low, searched.high, log=log)
