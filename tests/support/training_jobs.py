"""A training job on the tiny images, run in the test's own process."""

from pathlib import Path

from tests.support.tiny import make_config, make_pixels
from wpm.jobs.job import StepResult
from wpm.jobs.payloads import identify
from wpm.jobs.train_job import TrainJob
from wpm.records import Outcome, TrainingFolder
from wpm.training.config import TrainingConfig


def make_job(
    tmp_path: Path, config: TrainingConfig | None = None, export: bool = False
) -> TrainJob:
    config = config or make_config()
    folder = tmp_path / "training"
    if not (folder / "trial.json").exists():
        TrainingFolder(folder).write_identity(identify(0, config))
    return TrainJob(folder, make_pixels(tmp_path).folder, config, export)


def finish(job: TrainJob) -> list[StepResult]:
    steps = [job.step()]
    while steps[-1].result is None:
        steps.append(job.step())
    job.close()
    return steps


def outcome_of(step: StepResult) -> Outcome:
    """Return how a training ended, which it must have."""
    assert isinstance(step.result, Outcome)
    return step.result


def scores(step: StepResult) -> list[tuple[int, float]]:
    return [(r.epoch, r.best_map_at_r) for r in step.reports]
