"""The budgets of a launch; when one is used up, work ends after its checkpoint, to be resumed.

When a limit of the launch is reached, the launch stops as it does on Ctrl-C. When a limit of a
study is reached, only the work of that study is suspended, and the other studies continue.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, ForwardingSource, Work, WorkSource
from wpm.records import gpu_seconds
from wpm.reports import Report


@dataclass(frozen=True)
class Budget:
    """Limits of a launch; None is no limit.

    Attributes:
        hours: on the clock, of this launch.
        study_hours: on the clock, of each study in this launch, from its first piece of work on.
        gpu_hours: of all selected studies together, earlier launches included.
        study_gpu_hours: of each study, earlier launches included.
    """

    hours: float | None = None
    study_hours: float | None = None
    gpu_hours: float | None = None
    study_gpu_hours: float | None = None


def _no_limit() -> str:
    return ""


def _ignore_stop(study: str, reason: str) -> None:
    """Do nothing: the default where nobody is to be notified."""


class MeteredWork(ForwardingSource):
    """A work source that adds up what the work of another source takes, and keeps to a budget."""

    def __init__(
        self,
        source: WorkSource,
        budget: Budget,
        spent_seconds: Mapping[str, Mapping[str, float]],
        *,
        announce: Callable[[str, str], None] = _ignore_stop,
    ) -> None:
        """Start the clock; a study whose hours are used up already gets no more work.

        Args:
            source: hands out the work.
            budget: its limits.
            spent_seconds: GPU seconds of earlier launches, by study and by a training's folder.
            announce: called with the name of a study whose hours are used up, and the limit.
        """
        super().__init__(source)
        self._budget, self._announce = budget, announce
        self._disk_limit: Callable[[], str] = _no_limit
        self._seconds = {study: dict(seconds) for study, seconds in spent_seconds.items()}
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}  # when each study's first work was handed out
        self._stopped_studies: set[str] = set()
        self.running = 0  # pieces of work that are handed out and have not ended
        for study in self._seconds:
            self._stop_if_spent(study)

    def cap_disk(self, limit_reached: Callable[[], str]) -> None:
        """Add a check that returns why writing must stop, or "" while it may continue."""
        self._disk_limit = limit_reached

    @property
    def stopped_studies(self) -> frozenset[str]:
        """Names of the studies whose hours are used up."""
        return frozenset(self._stopped_studies)

    def limit_reached(self) -> str:
        """Return in words which limit of the launch is reached; "" while none is."""
        hours = (time.monotonic() - self._started) / 3600
        if self._budget.hours is not None and hours >= self._budget.hours:
            return f"{self._budget.hours:g} hours (--max-hours)"
        used = sum(sum(seconds.values()) for seconds in self._seconds.values()) / 3600
        if self._budget.gpu_hours is not None and used >= self._budget.gpu_hours:
            return f"{used:.2f} of {self._budget.gpu_hours:g} GPU-hours (--max-gpu-hours)"
        return self._disk_limit()

    def _meter(self, work: Work, reports: Sequence[Report]) -> None:
        if reports:
            seconds = self._seconds.setdefault(work.study, {})
            seconds[str(work.payload["folder"])] = gpu_seconds(reports)
            self._stop_if_spent(work.study)

    def _stop_if_spent(self, study: str) -> None:
        if study in self._stopped_studies:
            return
        reason = self._study_limit_reached(study)
        if reason:
            self._stopped_studies.add(study)
            self._source.stop_study(study)
            self._announce(study, reason)

    def _study_limit_reached(self, study: str) -> str:
        """Return in words which limit of a study is reached; "" while none is."""
        now = time.monotonic()
        hours, limit = (now - self._begun.get(study, now)) / 3600, self._budget.study_hours
        if limit is not None and hours >= limit:
            return f"{limit:g} hours (--max-hours-per-study)"
        used = sum(self._seconds.get(study, {}).values()) / 3600
        limit = self._budget.study_gpu_hours
        if limit is not None and used >= limit:
            return f"{used:.2f} of {limit:g} GPU-hours (--max-gpu-hours-per-study)"
        return ""

    def next_work(self) -> Work | None:
        """Return the source's next work, None once a limit is reached."""
        for study in self._begun:  # hours on the clock pass between two reports, too
            self._stop_if_spent(study)
        work = None if self.limit_reached() else self._source.next_work()
        if work is not None:
            self.running += 1
            self._begun.setdefault(work.study, time.monotonic())
        return work

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Add up the step; suspend the work if its study's hours are used up."""
        self._meter(work, step.reports)
        decision = self._source.on_step(work, step)
        if decision is Decision.CONTINUE and work.study in self._stopped_studies:
            return Decision.SUSPEND
        return decision

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Count the work as ended, and notify the source."""
        self.running -= 1
        super().on_stopped(work, step)

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Add up the last step, count the work as ended, and notify the source."""
        self.running -= 1
        self._meter(work, step.reports)
        super().on_ended(work, step)

    def on_crashed(self, work: Work, reason: str) -> None:
        """Count the work as ended, and notify the source."""
        self.running -= 1
        super().on_crashed(work, reason)

    def on_suspended(self, work: Work) -> None:
        """Count the work as ended, and notify the source."""
        self.running -= 1
        super().on_suspended(work)
