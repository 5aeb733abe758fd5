"""What a cluster is asked to do: pieces of work, where they come from, and who hears of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from wpm.jobs.job import StepResult


@dataclass(frozen=True)
class Work:
    """One piece of work.

    Attributes:
        key: unique in a launch.
        study: name of the study that it belongs to.
        payload: what `wpm.jobs.start.start_job` is given on the worker, in plain JSON types.
    """

    key: str
    study: str
    payload: Mapping[str, Any]


class WorkSource(Protocol):
    """Hands out work and hears what became of it; called from one thread."""

    def next_work(self) -> Work | None:
        """Return work to start now, None when there is none at present."""

    @property
    def exhausted(self) -> bool:
        """Whether no work will be handed out any more."""

    @property
    def remaining(self) -> int:
        """Pieces of work that have not ended yet, handed out or not."""

    def on_step(self, work: Work, step: StepResult) -> bool:
        """Hear of a step; return whether to stop the work."""

    def on_stopped(self, work: Work, step: StepResult) -> None:
        """Hear that the work was stopped, as `on_step` asked for."""

    def on_ended(self, work: Work, step: StepResult) -> None:
        """Hear that the work ended by itself: `step.result` says how."""

    def on_crashed(self, work: Work, reason: str) -> None:
        """Hear that the work's process died once too often."""

    def on_suspended(self, work: Work) -> None:
        """Hear that the work was ended after its checkpoint; a later launch goes on with it."""

    def retire(self, study: str) -> None:
        """Hand out no more work of a study; what has not ended remains for a later launch."""

    def describe(self) -> str:
        """Return the progress in one line."""
