"""Seconds and GPU seconds that trainings used, from their reports."""

from collections.abc import Iterable, Sequence

from wpm.records.outcomes import Outcome
from wpm.reports import Report


def worker_seconds(reports: Sequence[Report]) -> float:
    """Return the seconds that a training's worker has used, by its last report."""
    folds = reports[-1].folds if reports else ()
    return sum((fold.worker_seconds for fold in folds), 0.0)


def gpu_seconds(reports: Sequence[Report]) -> float:
    """Return the GPU seconds that a training has used: its seconds times its share of a GPU."""
    return worker_seconds(reports) * reports[-1].gpus if reports else 0.0


def saving_share(trainings: Iterable[Sequence[Report]]) -> float | None:
    """Return the share of trainings' time that saving took, from their last reports.

    None where it was never recorded.
    """
    saving = total = 0.0
    for reports in trainings:
        if reports and reports[-1].saving_seconds is not None:
            saving += reports[-1].saving_seconds
            total += worker_seconds(reports) + reports[-1].saving_seconds
    return saving / total if total else None


def device_hours(outcome: Outcome) -> float:
    """Return the hours of a device that a training took, validation included.

    A worker's device is its GPU; where the record holds the share of a GPU that it had, the hours
    count in that proportion. A worker without a GPU counts as one device.
    """
    seconds = outcome.training_seconds + outcome.validation_seconds
    return seconds / 3600 * (outcome.gpus or 1.0)
