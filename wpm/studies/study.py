"""One search: an Optuna study that remembers everything, with records beside it."""

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

from optuna.trial import Trial
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
)
from wpm.reports import Report
from wpm.studies.journal import has_no_trial
from wpm.studies.optuna_trials import OptunaTrials
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.rungs import Rungs
from wpm.training.config import TrainingConfig


class Study:
    """Runs one study's bookkeeping; hold it open while its trials run.

    `OptunaTrials` is the only memory, of the rungs too.
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
            self._trials = OptunaTrials(self.plan, self._rungs.steps)
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
        return self._trials.started

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return self._trials.ended

    @property
    def best(self) -> tuple[int, float] | None:
        """Number and score of the best complete trial."""
        return self._trials.best

    def origin_of(self, number: int) -> str:
        """Return where a trial's configuration was known from; "" if it was sampled."""
        return self._trials.origin_of(number)

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
            return self._start(self._trials.ask())
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
        for report in self._trials.unknown(trial, reports):
            step, value = self._trials.step_of(report), report.best_map_at_r
            trial.report(value, step=step)
            if not self._rungs.reach(number, step, value, known=self._is_known(number)):
                return Decision.SUSPEND if self._rungs.pauses else Decision.STOP
        return Decision.CONTINUE

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
        for report in self._trials.unknown(trial, reports):
            trial.report(report.best_map_at_r, step=self._trials.step_of(report))
        self._trials.tell_end(self._running.pop(number), result)

    def _record_end(
        self, number: int, state: TrialState, reason: str, reports: Sequence[Report]
    ) -> Outcome:
        result = Outcome.from_reports(state, reports, reason)
        # The record is first: if this process is killed in between, the trial is adopted with its
        # result. In the other order the result would be lost.
        TrainingFolder(self.plan.place.trial_folder(number)).write_result(result)
        self._trials.tell_end(self._running.pop(number), result)
        return result

    def _start(self, trial: Trial) -> tuple[int, dict[str, Any]]:
        plan = self.plan
        config = TrainingConfig(
            row=plan.space.row,
            protocol=plan.protocol,
            parameters=plan.space.complete(self._trials.sample(trial)),
            seed=plan.trial_seed(trial.number),
            folds=tuple(range(plan.protocol.folds)),
            weights=plan.weights,
            loss=plan.space.loss,
        )
        folder = plan.place.trial_folder(trial.number)
        if not (folder / "trial.json").exists():
            origin = self._trials.origin_of(trial.number)
            TrainingFolder(folder).write_identity(identify(trial.number, config, origin))
        self._note_waiting(trial.number, False)
        self._running[trial.number] = trial
        return trial.number, training_payload(folder, plan.pixel_cache, config, export=False)

    def _is_known(self, number: int) -> bool:
        """Whether every searched parameter of a trial was known before the search."""
        points = self.plan.first_points  # tried in this order, before anything is sampled
        searched = self.plan.space.searched.keys()
        return number < len(points) and searched <= points[number].parameters.keys()

    def _restore_trials(self) -> list[Trial]:
        """Take in the trials of earlier launches; return those to adopt, ready to be resumed."""
        orphans = []
        for stored in self._trials.all:
            number, runs = stored.number, stored.state is OptunaState.RUNNING
            values = stored.intermediate_values
            self._rungs.take_in(number, values, known=self._is_known(number), ends=not runs)
            if not runs:
                continue
            folder = TrainingFolder(self.plan.place.trial_folder(number))
            folder.check_progress()
            trial = self._trials.adopt(stored)
            # Its worker may have gone on, and its launch was killed before it could note that.
            is_ahead = folder.has_ended or len(folder.read_reports()) > len(values)
            if number in self._rungs.waiting and not is_ahead:
                self._waiting[number] = trial
                self._note_waiting(number, True)
            else:
                self._rungs.waiting.discard(number)
                orphans.append(trial)
        return orphans
