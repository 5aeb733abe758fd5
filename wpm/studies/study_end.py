"""How a study ended, for whoever is notified of it."""

from dataclasses import dataclass

# The values of `StudyEnd.event`.
STUDY_FINISHED, STUDY_FAILED, STUDY_BUDGET = "study_finished", "study_failed", "study_budget"


@dataclass(frozen=True)
class StudyEnd:
    """How a study's search, or its final runs, ended.

    Attributes:
        study: its name.
        event: one of the three constants above.
        message: the details in words.
        best: its best validation score, None where there is none.
        best_trial: number of the trial that has it.
    """

    study: str
    event: str
    message: str
    best: float | None = None
    best_trial: int | None = None


def ignore_study_end(end: StudyEnd) -> None:
    """Do nothing: the default where nobody is to be notified."""
