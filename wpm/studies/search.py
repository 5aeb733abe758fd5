"""Several studies as one source of work: orphans first, then whoever has started least."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from wpm.errors import UserError
from wpm.formatting import format_eta
from wpm.jobs.job import StepResult
from wpm.jobs.work import Work
from wpm.records import TrialState
from wpm.records.training_log import last_lines
from wpm.studies.study import Study
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd
from wpm.training.mined_step import LOW_MEMORY

# So many failures before anything succeeds are not bad luck: a wrong path, a broken loss.
MAX_FIRST_FAILURES = 3


class SearchWork:
    """A `wpm.jobs.work.WorkSource` of the trials of several studies."""

    def __init__(
        self,
        studies: Sequence[Study],
        announce: Callable[[str], None],
        on_study_end: Callable[[StudyEnd], None] = lambda end: None,
    ) -> None:
        """Take studies over; the caller closes them.

        Args:
            studies: open studies.
            announce: told a line whenever a trial ends.
            on_study_end: told when all trials of a study have ended, or it failed.
        """
        self._studies = list(studies)
        self._announce, self._hear_study_end = announce, on_study_end
        self._begun = False
        self._retired: set[str] = set()
        self._unfinished = {study.plan.place.name for study in studies if not study.exhausted}
        self._running: dict[str, tuple[Study, int]] = {}
        self._ended = {study.plan.place.name: 0 for study in studies}
        self._first_failures: dict[str, list[str]] = {name: [] for name in self._ended}
        self._best: dict[str, float] = {}
        self._started_at = time.monotonic()

    def next_work(self) -> Work | None:
        """Return the next trial of the study that is furthest behind."""
        if not self._begun:
            for study in self._studies:  # also of those whose turn may never come
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
            # Its last orphans may have ended before they were adopted.
            self._hear_if_finished(study)
        return None

    def _open_studies(self) -> list[Study]:
        return [study for study in self._studies if study.plan.place.name not in self._retired]

    @property
    def exhausted(self) -> bool:
        """Whether every study's budget is handed out."""
        return all(study.exhausted for study in self._open_studies())

    def on_step(self, work: Work, step: StepResult) -> bool:
        """Report to the study; it says whether to stop."""
        study, number = self._running[work.key]
        return study.report(number, step.reports)

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Successive halving stopped the trial."""
        study, number = self._running.pop(work.key)
        study.tell_stopped(number, step.reports)
        last = step.reports[-1]
        self._hear_end(
            study, number, TrialState.PRUNED, last["best_map_at_r"], f"at epoch {last['epoch']}"
        )

    def on_ended(self, work: Work, step: StepResult) -> None:
        """The trial ran to its end, or failed by name."""
        study, number = self._running.pop(work.key)
        assert step.result is not None
        study.record_ended(number, step.result, step.reports)
        result = step.result
        detail = result["reason"] or f"{result['epochs']} epochs"
        if any(f.get("step_mode") == LOW_MEMORY for r in step.reports[-1:] for f in r["folds"]):
            detail += ", in low-memory steps: the fast ones did not fit"
        self._hear_end(study, number, TrialState(result["state"]), result["score"], detail)

    def on_crashed(self, work: Work, reason: str) -> None:
        """The trial's process died too often."""
        study, number = self._running.pop(work.key)
        study.tell_lost(number, reason)
        self._hear_end(study, number, TrialState.FAILED, None, reason)

    def on_suspended(self, work: Work) -> None:
        """The trial stays as it is, for the next launch to adopt."""
        study, number = self._running.pop(work.key)
        study.leave(number)

    def retire(self, study: str) -> None:
        """Start no more trials of a study."""
        self._retired.add(study)

    def describe(self) -> str:
        """Return the progress of all studies in one line."""
        parts = []
        for study in self._studies:
            name, row = study.plan.place.name, study.plan.place.row
            running = sum(1 for s, _ in self._running.values() if s is study)
            best = f" best {self._best[name]:.3f}" if name in self._best else ""
            parts.append(f"{row} {study.ended}/{study.plan.trials} (+{running}){best}")
        return " | ".join([*parts, format_eta(self._started_at, self._ends, self.remaining)])

    @property
    def remaining(self) -> int:
        """Trials that have not ended yet, those of retired studies and orphans among them."""
        return sum(max(study.plan.trials, study.started) - study.ended for study in self._studies)

    @property
    def _ends(self) -> int:
        """Trials that ended in this launch."""
        return sum(self._ended.values())

    def _hear_end(
        self, study: Study, number: int, state: TrialState, score: Any, detail: str
    ) -> None:
        name = study.plan.place.name
        self._ended[name] += 1
        shown = "" if score is None else f"  MAP@R {score:.4f}"
        self._announce(f"{name} trial {number:>3} {state.for_people:<8}{shown}  {detail}")
        if state == TrialState.COMPLETE:
            self._best[name] = max(score, self._best.get(name, score))
        if state == TrialState.FAILED:
            for line in last_lines(study.plan.place.trial_folder(number)):
                self._announce(f"    | {line}")
            self._first_failures[name].append(detail)
            if self._ended[name] == len(self._first_failures[name]) == MAX_FIRST_FAILURES:
                why = f"the first {MAX_FIRST_FAILURES} trials of this launch all failed"
                self._hear_study_end(StudyEnd(name, STUDY_FAILED, f"{why}, the last: {detail}"))
                raise UserError(
                    f"study {name}: {why}, the last: {detail}; "
                    f"see error.log under {study.plan.place.folder}"
                )
        self._hear_if_finished(study)

    def _hear_if_finished(self, study: Study) -> None:
        """Tell once, when the last trial of a study has ended."""
        name = study.plan.place.name
        if name in self._unfinished and study.ended >= max(study.plan.trials, study.started):
            self._unfinished.discard(name)
            if study.best is None:
                why = f"none of its {study.ended} trials is complete"
                self._hear_study_end(StudyEnd(name, STUDY_FAILED, why))
                return
            number, score = study.best
            told = f"{study.ended} trials, the best is {number} with validation MAP@R {score:.4f}"
            self._hear_study_end(StudyEnd(name, STUDY_FINISHED, told, score, number))
