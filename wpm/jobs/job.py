"""The interface of a job: one piece of work on one worker, done in resumable steps."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True)
class StepResult:
    """What a step brought.

    Attributes:
        reports: validations since the start, all of them: whoever lost some can catch up.
        result: how the work ended, None while it goes on.
    """

    reports: list[dict[str, Any]]
    result: Mapping[str, Any] | None


class InterruptedJobError(Exception):
    """The work was asked to end, and has saved itself."""


class Job(Protocol):
    """Work in steps."""

    def step(self) -> StepResult:
        """Go on until there is something to report.

        Raises:
            InterruptedJobError: `interrupt` was called, and the work is saved.
        """

    def interrupt(self) -> None:
        """Make a step that is under way end soon; called by a signal's handler in its midst."""

    def close(self) -> None:
        """Let go of what the work holds."""


def choose_device() -> torch.device:
    """Return the GPU that this process may see, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
