"""Translate between Ray Tune, which thinks in Tune trials, and a work source."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ray.tune.execution.tune_controller import TuneController
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from wpm.errors import UserError
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work, WorkSource

_log = logging.getLogger(__name__)
MAX_CRASHES = 2  # of a work's process since its last report; one more crash fails the work


class NeverSaved:
    """Mixin: Tune pickles its parts for a restore that we never use, so pickle nothing."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class WorkSearcher(NeverSaved, Searcher):
    """Tune's searcher: every Tune trial that it suggests is a piece of work from the source."""

    def __init__(self, source: WorkSource, capacity: Callable[[], int]) -> None:
        """Begin with nothing handed out.

        Args:
            source: hands out the work.
            capacity: returns how many pieces of work Tune may have at a time.
        """
        super().__init__()
        self._source, self._capacity = source, capacity
        self._running: dict[str, Work] = {}
        self.error: Exception | None = None
        self.crashes: dict[str, str] = {}  # by Tune trial: how its process crashed last
        self.reported: dict[str, int] = {}  # by Tune trial: number of reports at its last step
        # Tune gives a trial up at the first crash of a process that the trial is taking over.
        self.given_up: dict[str, int] = {}  # by such a Tune trial: how often its process crashed
        self._earlier: dict[str, int] = {}  # by Tune trial: crashes of its work in earlier ones
        self._again: list[tuple[Work, int]] = []  # such work, and its crashes so far

    def suggest(self, trial_id: str) -> Any:
        """Return the next piece of work as a trial's configuration, as Tune's searchers do."""
        if self.error is not None:
            return Searcher.FINISHED
        try:
            if len(self._running) >= self._capacity():
                return None
            if self._again:
                work, self._earlier[trial_id] = self._again.pop(0)
            elif (new := self._source.next_work()) is not None:
                work = new
            else:
                # Tune asks no more once it has heard FINISHED, and running work may come again.
                is_over = self._source.exhausted and not self._running
                return Searcher.FINISHED if is_over else None
        except Exception as error:
            return self._give_up(error)
        self._running[trial_id] = work
        return {"payload": json.dumps(dict(work.payload))}

    def handle_step(self, trial_id: str, result: dict[str, Any]) -> Decision:
        """Pass a step on to the source, and what follows from its decision.

        Returns:
            The decision. SUSPEND if the launch has to end: a later one resumes the work.
        """
        if "refused" in result:
            del self._running[trial_id]  # it has not ended: the next launch resumes it
            self._give_up(UserError(result["refused"]))
            return Decision.SUSPEND
        work, step = self._running[trial_id], StepResult.from_json(json.loads(result["step"]))
        self.reported[trial_id] = len(step.reports)
        try:
            return self._notify_source(trial_id, work, step)
        except Exception as error:
            self._running.pop(trial_id, None)
            self._give_up(error)
            return Decision.SUSPEND

    def _notify_source(self, trial_id: str, work: Work, step: StepResult) -> Decision:
        if step.result is not None:
            del self._running[trial_id]
            self._source.on_ended(work, step)
            return Decision.CONTINUE  # Tune knows from the worker that the trial is done
        if self.error is not None:
            del self._running[trial_id]
            return Decision.SUSPEND
        decision = self._source.on_step(work, step)
        if decision is Decision.CONTINUE:
            return decision
        del self._running[trial_id]
        if decision is Decision.STOP:
            self._source.on_stopped(work, step)
        else:
            self._source.on_suspended(work)
        return decision

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Handle the end of a Tune trial that the scheduler has not handled.

        Tune calls this for every end: by itself, by our decision, by a signal, or by a crash.
        """
        if trial_id not in self._running:
            return
        if error:
            work, why = self._running.pop(trial_id), self.crashes.get(trial_id, "killed")
            crashes = self._earlier.pop(trial_id, 0)
            crashes += self.given_up.pop(trial_id, MAX_CRASHES + 1)
            if crashes <= MAX_CRASHES:
                self._again.append((work, crashes))
                return
            reason = f"its process died {crashes} times, the last time: {why}"
            try:
                self._source.on_crashed(work, reason)
            except Exception as failure:
                self._give_up(failure)
        elif result is not None and ("refused" in result or _has_ended(result)):
            self.handle_step(trial_id, result)

    def _give_up(self, error: Exception) -> str:
        """Remember the first error; Tune then gets no more work, and `run_work` raises it."""
        self.error = self.error or error
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Do nothing: the scheduler handles results, since only it may stop a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Save nothing: the source's own records are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Never used: every launch starts a new Tune run."""


def _has_ended(result: Mapping[str, Any]) -> bool:
    """Whether the work itself has ended; Tune marks a trial that it stops as done, too."""
    return bool(result.get("done") and json.loads(result["step"])["result"])


class WorkScheduler(NeverSaved, FIFOScheduler):
    """Tune's scheduler: asks the source after every step whether the work continues."""

    def __init__(self, searcher: WorkSearcher) -> None:
        super().__init__()
        self._searcher = searcher
        self._ended: list[Trial] = []

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Empty the trials that have ended and that Tune no longer reads."""
        for ended in [trial for trial in self._ended if trial.is_finished()]:
            self._ended.remove(ended)
            empty_trial(ended)

    def on_trial_complete(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> None:
        """Remember a trial that has ended, to empty it once Tune no longer reads it."""
        self._ended.append(trial)

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        """Return the trial that takes over the process of one that has ended: the oldest waiting.

        A trial whose own process is starting is left out. Tune would drop that process, and where
        trials end faster than processes start, a node that has joined would never be used.
        """
        controller = vars(tune_controller)["_tune_controller"]  # Tune hands out a wrapper
        for trial in controller.get_trials():
            actor = controller._trial_to_actor.get(trial)
            starting = actor is not None and controller._actor_manager.is_actor_started(actor)
            if trial.status == Trial.PENDING and not starting:
                return trial  # type: ignore[no-any-return]
        return None

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        """Pass a step on to the work source; return whether the trial continues."""
        reported = self._searcher.reported
        before = reported.get(trial.trial_id, 0)
        decision = self._searcher.handle_step(trial.trial_id, result)
        if reported.get(trial.trial_id, 0) > before:
            # Nodes come and go while a long trial makes progress, so its crashes count from zero
            # again. A trial that crashes every time makes no progress.
            trial.run_metadata.num_failures = 0
        return FIFOScheduler.CONTINUE if decision is Decision.CONTINUE else FIFOScheduler.STOP

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Remember why a trial's process ended; one that saved itself does not count."""
        if trial.status == Trial.PENDING:
            # Tune handles the crash of a process that a trial is taking over twice: first the
            # trial waits for another process, as after any crash, then Tune gives it up.
            self._searcher.given_up[trial.trial_id] = trial.run_metadata.num_failures - 1
            return
        error = _last_error(trial)
        if _WAS_INTERRUPTED in error:  # it has saved itself: that is no crash
            trial.run_metadata.num_failures -= 1
        self._searcher.crashes[trial.trial_id] = describe_crash(error)
        _log.warning("work %s: its process died: %s", trial.trial_id, error)


def empty_trial(trial: Trial) -> None:
    """Empty a trial that has ended: Tune keeps all of them to the end, for its own analysis."""
    kept = trial.run_metadata
    kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
    trial.config, trial.evaluated_params, trial.experiment_tag = {}, {}, ""


def _last_error(trial: Trial) -> str:
    """Return Tune's note of a trial's last failure; `get_error` looks in another file."""
    noted = Path(trial.error_file) if trial.error_file else None
    if noted is None or not noted.exists():
        return ""
    return noted.read_text(errors="replace").rpartition("Failure # ")[2]


_WAS_INTERRUPTED = "exit_actor"
# What Ray's long messages mean; the first sign that is found decides.
_CRASHES = {
    _WAS_INTERRUPTED: "it was asked to end (SIGTERM)",
    "running low on memory": "out of memory, ended by Ray's memory monitor",
    "node has died": "its node died",
    "OOM killer": "killed, out of memory, hung or crashed",
}


def describe_crash(error: str) -> str:
    """Describe in one line, from Ray's message, how a process ended."""
    lines = error.strip().splitlines()
    known = (words for sign, words in _CRASHES.items() if any(sign in line for line in lines))
    return next(known, lines[-1].strip() if lines else "killed")
