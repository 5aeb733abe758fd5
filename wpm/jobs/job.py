"""The interface of a job: one piece of work on one worker, done in steps that can be resumed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch

from wpm.records import Outcome, ScoredRun
from wpm.reports import Report

# The types of a result by the name that they have on the way from worker to driver.
_RESULTS: Mapping[str, type[Outcome] | type[ScoredRun]] = {
    "training": Outcome,
    "test": ScoredRun,
}


@dataclass(frozen=True)
class StepResult:
    """Result of one `Job.step`.

    Attributes:
        reports: all validation reports so far, so that a driver that missed some can catch up.
        result: how the work ended; None while it continues.
        is_history: whether the step did nothing but report what an earlier process found.
    """

    reports: Sequence[Report] = ()
    result: Outcome | ScoredRun | None = None
    is_history: bool = False

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned on a worker."""
        reports = tuple(Report.from_json(report) for report in content["reports"])
        kind = content["kind"]
        return cls(reports, None if kind is None else _RESULTS[kind].from_json(content["result"]))

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        kinds = (name for name, kind in _RESULTS.items() if isinstance(self.result, kind))
        return {
            "reports": [report.to_json() for report in self.reports],
            "kind": next(kinds, None),
            "result": None if self.result is None else self.result.to_json(),
        }


class InterruptedJobError(Exception):
    """The work was asked to end, and has saved itself."""


class BrokenGpuError(Exception):
    """The GPU failed, and this process cannot use it again; the work itself may be resumed."""


class Job(Protocol):
    """Work in steps."""

    def step(self) -> StepResult:
        """Work until there is something to report.

        Raises:
            InterruptedJobError: `interrupt` was called, and the work is saved.
        """

    def interrupt(self) -> None:
        """Make the running step end soon; a signal's handler calls this in the middle of it."""

    def close(self) -> None:
        """Save work that has not ended, and release what it holds: locks, and open files."""


def choose_device(gpus: float) -> torch.device:
    """Return the GPU if the work was given one, or a share of one; else the CPU.

    Ray does not hide the GPUs of a node from work that was given none.

    Args:
        gpus: GPUs, or the share of one, that the work was given.
    """
    return torch.device("cuda" if gpus > 0 and torch.cuda.is_available() else "cpu")
