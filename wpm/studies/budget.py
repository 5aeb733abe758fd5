"""What a launch may use; when it is used up, work ends after its checkpoint and is left for later.

A launch's own limits stop it as Ctrl-C does. A study's limit ends its work and lets the others go
on.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from wpm.jobs.job import StepResult
from wpm.jobs.work import Work, WorkSource
from wpm.records import gpu_seconds


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


class MeteredWork:
    """A `wpm.jobs.work.WorkSource` that passes everything on, and adds up what the work takes."""

    def __init__(
        self,
        source: WorkSource,
        budget: Budget,
        spent_seconds: Mapping[str, Mapping[str, float]],
        *,
        announce: Callable[[str, str], None] = lambda study, reason: None,
    ) -> None:
        """Start the clock; a study that has spent its hours already is handed out no more.

        Args:
            source: of the work.
            budget: limits.
            spent_seconds: GPU seconds of earlier launches, by study and folder of a training.
            announce: told the name of a study whose hours are spent, and how many they were.
        """
        self._source, self._budget = source, budget
        self._announce = announce
        self._disk_over: Callable[[], str] = str
        self._seconds = {study: dict(seconds) for study, seconds in spent_seconds.items()}
        self._started = time.monotonic()
        self._begun: dict[str, float] = {}  # when each study's first work was handed out
        self._retired: set[str] = set()
        self._leaving: set[str] = set()  # keys of work that ends because its study's hours did
        self.running = 0  # pieces of work that are handed out
        for study in self._seconds:
            self._retire_if_spent(study)

    def cap_disk(self, over: Callable[[], str]) -> None:
        """Ask, with every look at the other limits, why no more may be written; empty: it may."""
        self._disk_over = over

    @property
    def retired(self) -> frozenset[str]:
        """Names of the studies whose hours are spent."""
        return frozenset(self._retired)

    def over(self) -> str:
        """Return which limit of the launch is reached, in words; empty while there is none."""
        hours = (time.monotonic() - self._started) / 3600
        if self._budget.hours is not None and hours >= self._budget.hours:
            return f"{self._budget.hours:g} hours (--max-hours)"
        used = sum(sum(seconds.values()) for seconds in self._seconds.values()) / 3600
        if self._budget.gpu_hours is not None and used >= self._budget.gpu_hours:
            return f"{used:.2f} of {self._budget.gpu_hours:g} GPU-hours (--max-gpu-hours)"
        return self._disk_over()

    def _meter(self, work: Work, reports: list[dict[str, Any]]) -> None:
        if reports:
            seconds = self._seconds.setdefault(work.study, {})
            seconds[str(work.payload["folder"])] = gpu_seconds(reports)
            self._retire_if_spent(work.study)

    def _retire_if_spent(self, study: str) -> None:
        if study in self._retired:
            return
        reason = self._study_over(study)
        if reason:
            self._retired.add(study)
            self._source.retire(study)
            self._announce(study, reason)

    def _study_over(self, study: str) -> str:
        """Return which limit of a study is reached, in words; empty while there is none."""
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
        """Return the source's next work, none once a limit is reached."""
        for study in self._begun:  # a clock runs out between two reports, too
            self._retire_if_spent(study)
        work = None if self.over() else self._source.next_work()
        if work is not None:
            self.running += 1
            self._begun.setdefault(work.study, time.monotonic())
        return work

    @property
    def exhausted(self) -> bool:
        """Whether the source is."""
        return self._source.exhausted

    @property
    def remaining(self) -> int:
        """What remains of the source."""
        return self._source.remaining

    def on_step(self, work: Work, step: StepResult) -> bool:
        """Meter, and pass on; work of a study whose hours are spent ends in any case."""
        self._meter(work, step.reports)
        if self._source.on_step(work, step):
            return True
        if work.study in self._retired:
            self._leaving.add(work.key)
        return work.key in self._leaving

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Pass on who ended the work: the source, or the end of its study's hours."""
        self.running -= 1
        if work.key in self._leaving:
            self._leaving.discard(work.key)
            self._source.on_suspended(work)
        else:
            self._source.on_stopped(work, step)

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Meter, and pass on."""
        self.running -= 1
        self._meter(work, step.reports)
        self._source.on_ended(work, step)

    def on_crashed(self, work: Work, reason: str) -> None:
        """Pass on."""
        self.running -= 1
        self._source.on_crashed(work, reason)

    def on_suspended(self, work: Work) -> None:
        """Pass on."""
        self.running -= 1
        self._source.on_suspended(work)

    def retire(self, study: str) -> None:
        """Pass on."""
        self._source.retire(study)

    def describe(self) -> str:
        """Return the source's progress."""
        return self._source.describe()
