"""The seam between an executor and who hands out work: pieces of work, and their source."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

from wpm.jobs.job import StepResult


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        key: unique in a launch.
        study: name of the study that it belongs to.
        payload: input of `wpm.jobs.start.start_job` on the worker, in plain JSON types.
    """

    key: str
    study: str
    payload: Mapping[str, Any]


class Decision(Enum):
    """What happens to a piece of work after a step.

    CONTINUE: the worker does the next step.
    STOP: the work ends here for good, because it is not good enough; `on_stopped` follows.
    SUSPEND: the work ends after its checkpoint, because a budget is used up; `on_suspended`
        follows, and a later launch resumes it.
    """

    CONTINUE = auto()
    STOP = auto()
    SUSPEND = auto()


class WorkSource(Protocol):
    """Hands out work and is notified of every step and end; called from one thread.

    Every piece of work that was handed out ends with exactly one call of `on_stopped`, `on_ended`,
    `on_crashed` or `on_suspended`, unless the launch itself ends first: then a later launch adopts
    it, as `wpm.records.TrialState` draws.
    """

    def next_work(self) -> Work | None:
        """Return work to start now, None when there is none at present."""

    @property
    def exhausted(self) -> bool:
        """Whether no work will be handed out any more."""

    @property
    def remaining(self) -> int:
        """Pieces of work that have not ended yet, handed out or not."""

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Handle a step after which the work has not ended; decide whether it continues."""

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Handle that the work was stopped, as `on_step` decided."""

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Handle that the work ended by itself: `step.result` says how."""

    def on_crashed(self, work: Work, reason: str) -> None:
        """Handle that the work's process crashed too often."""

    def on_suspended(self, work: Work) -> None:
        """Handle that the work was suspended after a checkpoint; a later launch resumes it."""

    def stop_study(self, study: str) -> None:
        """Hand out no more work of a study; what has not ended remains for a later launch."""

    def describe(self) -> str:
        """Return the progress in one line."""


class ForwardingSource:
    """A `WorkSource` that forwards every call to another; subclasses override what they change."""

    def __init__(self, source: WorkSource) -> None:
        self._source = source

    def next_work(self) -> Work | None:
        """Return the next work of the source."""
        return self._source.next_work()

    @property
    def exhausted(self) -> bool:
        """Whether the source is exhausted."""
        return self._source.exhausted

    @property
    def remaining(self) -> int:
        """Pieces of work of the source that have not ended yet."""
        return self._source.remaining

    def on_step(self, work: Work, step: StepResult) -> Decision:
        """Return the decision of the source."""
        return self._source.on_step(work, step)

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Notify the source that the work was stopped."""
        self._source.on_stopped(work, step)

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Notify the source that the work ended."""
        self._source.on_ended(work, step)

    def on_crashed(self, work: Work, reason: str) -> None:
        """Notify the source that the work crashed."""
        self._source.on_crashed(work, reason)

    def on_suspended(self, work: Work) -> None:
        """Notify the source that the work was suspended."""
        self._source.on_suspended(work)

    def stop_study(self, study: str) -> None:
        """Make the source hand out no more work of a study."""
        self._source.stop_study(study)

    def describe(self) -> str:
        """Return the progress of the source."""
        return self._source.describe()
