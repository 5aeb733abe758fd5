"""Hours that a launch may use; when they are used up it stops as Ctrl-C stops it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wpm.jobs import StepResult
from wpm.records import gpu_seconds
from wpm.work import Work, WorkSource


@dataclass(frozen=True)
class Budget:
    """Limits of a launch; None is no limit.

    Attributes:
        hours: on the clock, of this launch.
        gpu_hours: of all selected studies together, earlier launches included.
    """

    hours: float | None = None
    gpu_hours: float | None = None


class MeteredWork:
    """A `wpm.work.WorkSource` that passes everything on, and adds up what the work takes."""

    def __init__(
        self, source: WorkSource, budget: Budget, spent_seconds: Mapping[str, float]
    ) -> None:
        """Start the clock.

        Args:
            source: of the work.
            budget: limits.
            spent_seconds: GPU seconds by folder of a training, of earlier launches.
        """
        self._source, self._budget = source, budget
        self._seconds = dict(spent_seconds)
        self._started = time.monotonic()

    def over(self) -> str:
        """Return which limit is reached, in words; empty while there is none."""
        hours = (time.monotonic() - self._started) / 3600
        if self._budget.hours is not None and hours >= self._budget.hours:
            return f"{self._budget.hours:g} hours (--max-hours)"
        used = sum(self._seconds.values()) / 3600
        if self._budget.gpu_hours is not None and used >= self._budget.gpu_hours:
            return f"{used:.2f} of {self._budget.gpu_hours:g} GPU-hours (--max-gpu-hours)"
        return ""

    def _meter(self, work: Work, reports: list[dict[str, Any]]) -> None:
        if reports:
            self._seconds[str(work.payload["folder"])] = gpu_seconds(reports)

    def next_work(self) -> Work | None:
        """Return the source's next work, none once a limit is reached."""
        return None if self.over() else self._source.next_work()

    @property
    def exhausted(self) -> bool:
        """Whether the source is."""
        return self._source.exhausted

    @property
    def remaining(self) -> int:
        """What remains of the source."""
        return self._source.remaining

    def on_step(self, work: Work, step: StepResult) -> bool:
        """Meter, and pass on."""
        self._meter(work, step.reports)
        return self._source.on_step(work, step)

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Meter, and pass on."""
        self._meter(work, step.reports)
        self._source.on_stopped(work, step)

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Meter, and pass on."""
        self._meter(work, step.reports)
        self._source.on_ended(work, step)

    def on_lost(self, work: Work, reason: str) -> None:
        """Pass on."""
        self._source.on_lost(work, reason)

    def describe(self) -> str:
        """Return the source's progress."""
        return self._source.describe()
