"""Several studies as one source of work: orphans first, then the study that has started least."""

import time
from collections.abc import Callable, Sequence

from wpm.errors import UserError
from wpm.formatting import format_eta
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work
from wpm.records import Outcome, TrialState
from wpm.records.training_log import last_lines
from wpm.reports import LOW_MEMORY
from wpm.studies.study import Study
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd, ignore_study_end

# So many failures before any success are not bad luck: a wrong path, or a bug in a loss.
MAX_FIRST_FAILURES = 3


class SearchWork:
    """A `wpm.jobs.work.WorkSource` of the trials of several studies."""

    def __init__(
        self,
        studies: Sequence[Study],
        announce: Callable[[str], None],
        on_study_end: Callable[[StudyEnd], None] = ignore_study_end,
    ) -> None:
        """Begin with studies that are open; the caller closes them.

        Args:
            studies: open studies.
            announce: called with a line whenever a trial ends or begins to wait.
            on_study_end: called when all trials of a study have ended, or the study failed.
        """
        self._studies = list(studies)
        self._announce, self._on_study_end = announce, on_study_end
        self._begun = False
        self._stopped_studies: set[str] = set()
        self._unfinished = {study.plan.place.name for study in studies if not study.exhausted}
        self._running: dict[str, tuple[Study, int]] = {}
        self._ended = {study.plan.place.name: 0 for study in studies}
        self._first_failures: dict[str, list[str]] = {name: [] for name in self._ended}
        self._best: dict[str, float] = {}
        self._started_at = time.monotonic()

    def next_work(self) -> Work | None:
        """Return the next trial of the study that is furthest behind."""
        if not self._begun:
            for study in self._studies:  # also those whose turn may never come
                study.record_budget()
            self._begun = True
        for study in sorted(self._open_studies(), key=lambda s: (not s.has_orphans, s.started)):
            asked = study.ask()
            name = study.plan.place.name
            if asked is not None:
                number, payload = asked
                key = f"{name}/{number}"
                self._running[key] = (study, number)
                return Work(key, name, payload)
            for number, outcome in study.stop_waiting():
                self._handle_end(study, number, outcome, outcome.reason.removeprefix("stopped "))
            # Its last orphans may have turned out to have ended when they were to be adopted.
            self._notify_if_finished(study)
        return None

    def _open_studies(self) -> list[Study]:
        return [s for s in self._studies if s.plan.place.name not in self._stopped_studies]

    @property
    def exhausted(self) -> bool:
        """Whether every study's budget is handed out."""
        return all(study.exhausted for study in self._open_studies())

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Report to the study, whose rungs decide whether the trial continues."""
        study, number = self._running[work.key]
        decision = study.report(number, step.reports)
        if decision is Decision.SUSPEND:
            last = step.reports[-1]
            detail = f"at {study.describe_reached(last)}"
            self._announce_trial(study, number, "waits", last.best_map_at_r, detail)
        return decision

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Record that the trial was behind at a rung and ends there."""
        study, number = self._running.pop(work.key)
        outcome = study.record_stopped(number, step.reports)
        reached = study.describe_reached(step.reports[-1])
        self._handle_end(study, number, outcome, f"at {reached}")

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Record that the trial ran to its end, diverged, or failed with an error."""
        study, number = self._running.pop(work.key)
        outcome = step.result
        assert isinstance(outcome, Outcome)
        study.record_ended(number, outcome, step.reports)
        detail = outcome.reason or f"{outcome.epochs} epochs"
        last = step.reports[-1].folds if step.reports else ()
        if any(fold.step_mode == LOW_MEMORY for fold in last):
            detail += ", in low-memory steps: the fast ones did not fit"
        self._handle_end(study, number, outcome, detail)

    def on_crashed(self, work: Work, reason: str) -> None:
        """Record that the trial's process crashed too often."""
        study, number = self._running.pop(work.key)
        outcome = study.record_crashed(number, reason)
        self._handle_end(study, number, outcome, outcome.reason or reason)

    def on_suspended(self, work: Work) -> None:
        """Leave the trial as it is: it waits at a rung, or the next launch adopts it."""
        study, number = self._running.pop(work.key)
        study.suspend(number)

    def stop_study(self, study: str) -> None:
        """Start no more trials of a study."""
        self._stopped_studies.add(study)

    def describe(self) -> str:
        """Return the progress of all studies in one line."""
        parts = []
        for study in self._studies:
            name, label = study.plan.place.name, study.plan.place.label
            running = sum(1 for s, _ in self._running.values() if s is study)
            waiting = f", {study.waiting} wait" if study.waiting else ""
            best = f" best {self._best[name]:.3f}" if name in self._best else ""
            parts.append(f"{label} {study.ended}/{study.plan.trials} (+{running}{waiting}){best}")
        ended = sum(self._ended.values())
        return " | ".join([*parts, format_eta(self._started_at, ended, self.remaining)])

    @property
    def remaining(self) -> int:
        """Trials that have not ended yet, those of stopped studies and orphans among them."""
        return sum(max(study.plan.trials, study.started) - study.ended for study in self._studies)

    def _handle_end(self, study: Study, number: int, outcome: Outcome, detail: str) -> None:
        name, state, score = study.plan.place.name, outcome.state, outcome.score
        self._ended[name] += 1
        self._announce_trial(study, number, state.for_people, score, detail)
        if state is TrialState.COMPLETE and score is not None:
            self._best[name] = max(score, self._best.get(name, score))
        if state is TrialState.FAILED:
            self._handle_failure(study, number, detail)
        self._notify_if_finished(study)

    def _announce_trial(
        self, study: Study, number: int, state: str, score: float | None, detail: str
    ) -> None:
        shown = "" if score is None else f"  MAP@R {score:.4f}"
        origin = study.origin_of(number)
        known = f"  ({origin})" if origin else ""
        name = study.plan.place.name
        self._announce(f"{name} trial {number:>3} {state:<8}{shown}  {detail}{known}")

    def _handle_failure(self, study: Study, number: int, detail: str) -> None:
        """Show the trial's log; end the launch if every trial so far has failed.

        Raises:
            UserError: the first trials of the study in this launch all failed.
        """
        name = study.plan.place.name
        for line in last_lines(study.plan.place.trial_folder(number)):
            self._announce(f"    | {line}")
        self._first_failures[name].append(detail)
        if self._ended[name] == len(self._first_failures[name]) == MAX_FIRST_FAILURES:
            why = f"the first {MAX_FIRST_FAILURES} trials of this launch all failed"
            self._on_study_end(StudyEnd(name, STUDY_FAILED, f"{why}, the last: {detail}"))
            raise UserError(
                f"study {name}: {why}, the last: {detail}; "
                f"see error.log under {study.plan.place.folder}"
            )

    def _notify_if_finished(self, study: Study) -> None:
        """Notify once, when the last trial of a study has ended."""
        name = study.plan.place.name
        if name not in self._unfinished or study.ended < max(study.plan.trials, study.started):
            return
        self._unfinished.discard(name)
        if study.best is None:
            why = f"none of its {study.ended} trials is complete"
            self._on_study_end(StudyEnd(name, STUDY_FAILED, why))
            return
        number, score = study.best
        message = f"{study.ended} trials, the best is {number} with validation MAP@R {score:.4f}"
        self._on_study_end(StudyEnd(name, STUDY_FINISHED, message, score, number))
