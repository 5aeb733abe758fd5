"""What the page shows of one study."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from wpm.live_page.trainings import EndedTraining, OpenTraining
from wpm.records import StudyPlace, TrialState

# A training is silent that has reported nothing for this many times its usual interval, and for
# this many seconds: checkpoints, a busy disk and the first validation take their time, too.
_SILENT_INTERVALS, _SILENT_S = 5.0, 300.0
_SILENT_BEFORE_FIRST_S = 1800.0


class Stage(StrEnum):
    """Where a study is."""

    RUNNING = "running"  # a launch works on it
    FINISHED = "finished"  # its budget of trials is used up
    INTERRUPTED = "interrupted"  # no launch works on it, and it has trials left
    UNREADABLE = "unreadable"  # study.json is damaged, or of another version


@dataclass(frozen=True)
class Best:
    """The best complete trial of a study; `score` is its validation MAP@R, a fraction."""

    number: int
    score: float
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """A trial that failed or diverged, or a final run that failed."""

    name: str
    state: str
    reason: str
    ended: str
    log: Sequence[str] = ()


@dataclass(frozen=True)
class Running:
    """A training that has not ended, with a name for people."""

    title: str
    training: OpenTraining


@dataclass(frozen=True)
class StudyView:
    """What the page shows of a study.

    Attributes:
        place: where its records are.
        stage: where it is.
        budget: trials that it may have, however they end.
        trials: those that have ended, in the order in which they ended.
        running: trainings that have not ended, of trials and of final runs.
        best: the best complete trial.
        failures: how many trials and final runs failed or diverged, and the latest of them.
        failed_runs: how many final runs failed.
        tested: final runs that were tested.
        seconds: what workers have used, final runs included.
        gpu_seconds: the same times their shares of a GPU; 0 without GPUs.
        expected_end: when all trials will have ended at the speed of this launch, in seconds since
            1970; None where no launch works on trials, or none has ended since it began.
        max_epochs: of a fold; None where the study does not say.
        folds: of a trial; None where the study does not say.
        max_steps: of a trial, whose folds may train in two turns; None as above.
        problems: one line for each damaged record.
        notes: what else a reader should know.
    """

    place: StudyPlace
    stage: Stage
    budget: int = 0
    trials: Sequence[EndedTraining] = ()
    running: Sequence[Running] = ()
    best: Best | None = None
    failures: tuple[int, Sequence[Failure]] = (0, ())
    failed_runs: int = 0
    tested: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    expected_end: float | None = None
    max_epochs: int | None = None
    folds: int | None = None
    max_steps: int | None = None
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    def count(self, state: TrialState) -> int:
        """Return how many trials ended in a state."""
        return sum(trial.state is state for trial in self.trials)

    @property
    def at_work(self) -> list[Running]:
        """Trainings that a worker has, or will have soon; none where no launch works."""
        is_alive = self.stage is Stage.RUNNING
        return [running for running in self.running if is_alive and not running.training.waits]

    def silent(self, now: float) -> list[Running]:
        """Return the trainings at work that should have reported by now.

        Args:
            now: in seconds since 1970.
        """
        return [r for r in self.at_work if now - r.training.changed_at > _patience(r.training)]


def _patience(training: OpenTraining) -> float:
    if training.report_seconds is None:
        return _SILENT_BEFORE_FIRST_S
    return max(_SILENT_S, _SILENT_INTERVALS * training.report_seconds)
