"""How a study ended."""

from dataclasses import dataclass

# How a study ended, for `StudyEnd.event`.
STUDY_FINISHED, STUDY_FAILED, STUDY_BUDGET = "study_finished", "study_failed", "study_budget"


@dataclass(frozen=True)
class StudyEnd:
    """What became of a study, or of its final runs.

    Attributes:
        study: its name.
        event: one of the three above.
        message: more of it, for people.
        best: its best validation score, None where there is none.
        best_trial: number of the trial that has it.
    """

    study: str
    event: str
    message: str
    best: float | None = None
    best_trial: int | None = None
