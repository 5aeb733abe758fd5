"""Several studies as one source of work: orphans first, then whoever has started least."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from wpm.console import format_eta
from wpm.errors import UserError
from wpm.jobs import StepResult
from wpm.records import COMPLETE, FAILED, PRUNED
from wpm.steps import LOW_MEMORY
from wpm.study import Study
from wpm.work import Work

# So many failures before anything succeeds are not bad luck: a wrong path, a broken loss.
MAX_FIRST_FAILURES = 3


class SearchWork:
    """A `wpm.work.WorkSource` of the trials of several studies."""

    def __init__(self, studies: Sequence[Study], announce: Callable[[str], None]) -> None:
        """Take studies over; the caller closes them.

        Args:
            studies: open studies.
            announce: told a line whenever a trial ends.
        """
        self._studies = list(studies)
        self._announce = announce
        self._running: dict[str, tuple[Study, int]] = {}
        self._ended = {study.plan.place.name: 0 for study in studies}
        self._first_failures: dict[str, list[str]] = {name: [] for name in self._ended}
        self._best: dict[str, float] = {}
        self._started_at = time.monotonic()

    def next_work(self) -> Work | None:
        """Return the next trial of the study that is furthest behind."""
        for study in sorted(self._studies, key=lambda s: (not s.has_orphans, s.started)):
            asked = study.ask()
            if asked is not None:
                number, payload = asked
                key = f"{study.plan.place.name}/{number}"
                self._running[key] = (study, number)
                return Work(key, payload)
        return None

    @property
    def exhausted(self) -> bool:
        """Whether every study's budget is handed out."""
        return all(study.exhausted for study in self._studies)

    def on_step(self, work: Work, step: StepResult) -> bool:
        """Report to the study; it says whether to stop."""
        study, number = self._running[work.key]
        return study.report(number, step.reports)

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Successive halving stopped the trial."""
        study, number = self._running.pop(work.key)
        study.tell_stopped(number, step.reports)
        last = step.reports[-1]
        self._hear_end(study, number, PRUNED, last["best_map_at_r"], f"at epoch {last['epoch']}")

    def on_ended(self, work: Work, step: StepResult) -> None:
        """The trial ran to its end, or failed by name."""
        study, number = self._running.pop(work.key)
        assert step.result is not None
        study.tell_ended(number, step.result, step.reports)
        result = step.result
        detail = result["reason"] or f"{result['epochs']} epochs"
        if any(f.get("step_mode") == LOW_MEMORY for r in step.reports[-1:] for f in r["folds"]):
            detail += ", in low-memory steps: the fast ones did not fit"
        self._hear_end(study, number, result["state"], result["score"], detail)

    def on_lost(self, work: Work, reason: str) -> None:
        """The trial's process died too often."""
        study, number = self._running.pop(work.key)
        study.tell_lost(number, reason)
        self._hear_end(study, number, FAILED, None, reason)

    def describe(self) -> str:
        """Return the progress of all studies in one line."""
        parts = []
        for study in self._studies:
            name, row = study.plan.place.name, study.plan.place.row
            running = sum(1 for s, _ in self._running.values() if s is study)
            best = f" best {self._best[name]:.3f}" if name in self._best else ""
            ended = study.started - running
            parts.append(f"{row} {ended}/{study.plan.trials} (+{running}){best}")
        return " | ".join([*parts, format_eta(self._started_at, self._ends, self.remaining)])

    @property
    def remaining(self) -> int:
        """Trials that have not ended yet."""
        waiting = sum(max(0, study.plan.trials - study.started) for study in self._studies)
        return waiting + len(self._running)

    @property
    def _ends(self) -> int:
        """Trials that ended in this launch."""
        return sum(self._ended.values())

    def _hear_end(self, study: Study, number: int, state: str, score: Any, detail: str) -> None:
        name = study.plan.place.name
        self._ended[name] += 1
        shown = "" if score is None else f"  MAP@R {score:.4f}"
        word = "stopped" if state == PRUNED else state
        self._announce(f"{name} trial {number:>3} {word:<8}{shown}  {detail}")
        if state == COMPLETE:
            self._best[name] = max(score, self._best.get(name, score))
        if state == FAILED:
            self._first_failures[name].append(detail)
            if self._ended[name] == len(self._first_failures[name]) == MAX_FIRST_FAILURES:
                raise UserError(
                    f"study {name}: the first {MAX_FIRST_FAILURES} trials of this launch all "
                    f"failed, the last: {detail}; see error.log under {study.plan.place.folder}"
                )
