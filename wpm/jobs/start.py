"""Start the job that a payload describes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.jobs.job import Job
from wpm.jobs.train_job import TrainJob
from wpm.training.config import TrainingConfig


def _start_training(payload: Mapping[str, Any]) -> Job:
    return TrainJob(
        Path(payload["folder"]),
        Path(payload["pixels"]),
        TrainingConfig.from_json(payload["config"]),
        payload["export"],
        payload.get("gpus", 0.0),
    )


def _start_test(payload: Mapping[str, Any]) -> Job:
    # Imported here: a search never loads the code that can open test images.
    from wpm.jobs.scoring_job import ScoringJob

    return ScoringJob(payload)


_KINDS: dict[str, Callable[[Mapping[str, Any]], Job]] = {
    "train": _start_training,
    "test": _start_test,
}


def start_job(payload: Mapping[str, Any]) -> Job:
    """Start the work that a payload describes.

    Raises:
        UserError: unknown kind of work.
    """
    if payload["kind"] not in _KINDS:
        raise UserError(f"unknown work {payload['kind']!r}; choose from {', '.join(_KINDS)}")
    return _KINDS[payload["kind"]](payload)
