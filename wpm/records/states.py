"""The life of a trial."""

from enum import StrEnum


class TrialState(StrEnum):
    """Where a trial of a search, a fold of a final run, or a final run is in its life.

    The life of a trial, with the calls of `wpm.jobs.work.WorkSource` that move it on::

        next_work --> RUNNING --on_ended----------> COMPLETE   trained to its end
                       |  ^   --on_ended----------> DIVERGED   a loss or embeddings not finite
                       |  |   --on_ended----------> FAILED     an error, named in its record
                       |  |   --on_crashed--------> FAILED     its process died too often
                       |  |   --on_stopped--------> PRUNED     successive halving stopped it
                       |  |                           ^
          on_suspended |  | next_work                 | nothing is left that could make it one
                       v  |                           | of the best at its rung
                    suspended, or WAITING at a rung --+

    A suspended trial has a checkpoint and no result. One that waits for its rung to fill has a
    note of it (`TrainingFolder.write_waiting`), and its record says WAITING. One that a budget
    suspended still says RUNNING: so does that of a trial whose launch was killed. Both are orphans,
    which the next launch adopts and resumes before it starts new trials. All other states are
    final.

    A diverged trial scores 0, and the search learns that, as in the published protocol: its
    parameters are at fault. A failed trial says nothing about its parameters, so it has no score.
    A final run fails if one of its folds diverges.

    The values are what stands in result.json. PRUNED is Optuna's word; people read "stopped".
    Before version 0.3 a trial that diverged was recorded as FAILED.
    """

    RUNNING = "running"
    WAITING = "waiting"
    COMPLETE = "complete"
    PRUNED = "pruned"
    DIVERGED = "diverged"
    FAILED = "failed"

    @property
    def has_ended(self) -> bool:
        """Whether the state is final."""
        return self not in (TrialState.RUNNING, TrialState.WAITING)

    @property
    def for_people(self) -> str:
        """The state in the words of the search."""
        return "stopped" if self is TrialState.PRUNED else self.value
