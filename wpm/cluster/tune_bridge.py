"""Translate between Ray Tune and a work source: Tune's searcher and scheduler."""

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
from wpm.jobs.work import Work, WorkSource

_log = logging.getLogger(__name__)
MAX_CRASHES = 2  # of a work's process since its last report; the next death fails the work


class NeverSaved:
    """Mixed into what Tune is handed and pickles, to restore it later; we never do."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self


class WorkSearcher(NeverSaved, Searcher):
    """Stands between Tune, which thinks in trials, and a source of work."""

    def __init__(self, source: WorkSource, room: Callable[[], int]) -> None:
        super().__init__()
        self._source = source
        self._room = room
        self._running: dict[str, Work] = {}
        self.error: Exception | None = None
        self.errors: dict[str, str] = {}  # last words of every trial whose process died
        self.reported: dict[str, int] = {}  # how many reports every trial had at its last step

    def suggest(self, trial_id: str) -> Any:
        """Return the next piece of work as a trial's configuration, as Tune's searchers do."""
        if self.error is not None:
            return Searcher.FINISHED
        try:
            if len(self._running) >= self._room():
                return None
            work = self._source.next_work()
            if work is None:
                return Searcher.FINISHED if self._source.exhausted else None
        except Exception as error:
            return self._give_up(error)
        self._running[trial_id] = work
        return {"payload": json.dumps(dict(work.payload))}

    def hear(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Pass a step on; return whether Tune must stop the trial."""
        if "refused" in result:
            del self._running[trial_id]  # it has not ended: the next launch goes on with it
            self._give_up(UserError(result["refused"]))
            return True
        work, step = self._running[trial_id], StepResult(**json.loads(result["step"]))
        self.reported[trial_id] = len(step.reports)
        try:
            if step.result is not None:
                del self._running[trial_id]
                self._source.on_ended(work, step)
            elif self.error is not None or self._source.on_step(work, step):
                del self._running[trial_id]
                if self.error is None:
                    self._source.on_stopped(work, step)
                return True
        except Exception as error:
            self._running.pop(trial_id, None)
            self._give_up(error)
            return True
        return False

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """End of a Tune trial: by itself, by our stop, by an interrupt, or by a dead process."""
        if trial_id not in self._running:
            return
        if error:
            why = self.errors.get(trial_id, "killed")
            reason = f"its process died {MAX_CRASHES + 1} times, the last time: {why}"
            try:
                self._source.on_crashed(self._running.pop(trial_id), reason)
            except Exception as failure:
                self._give_up(failure)
        elif result is not None and ("refused" in result or _has_ended(result)):
            self.hear(trial_id, result)

    def _give_up(self, error: Exception) -> str:
        """Remember the first error; Tune is then run dry, and `run_work` raises it."""
        self.error = self.error or error
        return str(Searcher.FINISHED)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Results are heard by the scheduler, which alone may stop a trial."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the source's own records are the memory."""

    def restore(self, checkpoint_path: str) -> None:
        """Never used: every launch starts a new Tune run."""


def _has_ended(result: Mapping[str, Any]) -> bool:
    return bool(result.get("done") and json.loads(result["step"])["result"])


class WorkScheduler(NeverSaved, FIFOScheduler):
    """Asks the source after every step whether the work goes on."""

    def __init__(self, bridge: WorkSearcher) -> None:
        super().__init__()
        self._bridge = bridge
        self._ended: list[Trial] = []

    def on_trial_add(self, tune_controller: TuneController, trial: Trial) -> None:
        """Let go of trials that have ended, now that Tune is through with them."""
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

        But none whose own process is starting. Tune would drop that process, and where trials end
        faster than processes start, a node that has joined would never be used.
        """
        controller = vars(tune_controller)["_tune_controller"]  # what Tune hands out is a wrapper
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
        reported = self._bridge.reported
        before = reported.get(trial.trial_id, 0)
        stop = self._bridge.hear(trial.trial_id, result)
        if reported.get(trial.trial_id, 0) > before:
            # Nodes come and go while a long trial gets on; what kills its process every time does
            # not let it get on.
            trial.run_metadata.num_failures = 0
        return FIFOScheduler.STOP if stop else FIFOScheduler.CONTINUE

    def on_trial_error(self, tune_controller: TuneController, trial: Trial) -> None:
        """Remember why a trial's process ended; one that saved itself does not count."""
        error = _last_error(trial)
        if _WAS_INTERRUPTED in error:  # it has saved itself: that is no death
            trial.run_metadata.num_failures -= 1
        self._bridge.errors[trial.trial_id] = describe_crash(error)
        _log.warning("work %s: its process died: %s", trial.trial_id, error)


def empty_trial(trial: Trial) -> None:
    """Empty a trial that has ended: Tune keeps every one to the end, for an analysis of its own."""
    kept = trial.run_metadata
    kept.last_result, kept.metric_analysis, kept.metric_n_steps = {}, {}, {}
    trial.config, trial.evaluated_params, trial.experiment_tag = {}, {}, ""


def _last_error(trial: Trial) -> str:
    """Return what Tune has noted of a trial's last failure; `get_error` looks where it is not."""
    noted = Path(trial.error_file) if trial.error_file else None
    if noted is None or not noted.exists():
        return ""
    return noted.read_text(errors="replace").rpartition("Failure # ")[2]


_WAS_INTERRUPTED = "exit_actor"
# What Ray's lengthy messages mean; the first that fits.
_CRASHES = {
    _WAS_INTERRUPTED: "it was asked to end (SIGTERM)",
    "running low on memory": "out of memory, ended by Ray's memory monitor",
    "node has died": "its node died",
    "OOM killer": "killed, out of memory, hung or crashed",
}


def describe_crash(error: str) -> str:
    """Return in one line what became of a process, by what Ray says of it."""
    lines = error.strip().splitlines()
    known = (words for sign, words in _CRASHES.items() if any(sign in line for line in lines))
    return next(known, lines[-1].strip() if lines else "killed")
