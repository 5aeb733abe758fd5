"""Seconds and GPU seconds that trainings used, from their reports."""

from collections.abc import Mapping, Sequence
from typing import Any


def worker_seconds(reports: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds that a training's worker has used, by its last report."""
    folds = reports[-1]["folds"] if reports else []
    return float(sum(fold["training_seconds"] + fold["validation_seconds"] for fold in folds))


def gpu_seconds(reports: list[dict[str, Any]]) -> float:
    """Return the same, of a GPU: each in proportion to the share of one that it had."""
    share: float = reports[-1].get("gpus", 0.0) if reports else 0.0
    return worker_seconds(reports) * share


def device_hours(outcome: Mapping[str, Any]) -> float:
    """Return the hours of a device that a training took, validation included.

    A worker's device is its GPU; where the record holds the share of a GPU that it had ("gpus"),
    the hours count in that proportion. A worker without a GPU counts as one device.

    Args:
        outcome: result.json of a training, or the same keys from its reports.
    """
    seconds: float = outcome["training_seconds"] + outcome["validation_seconds"]
    return seconds / 3600 * (outcome.get("gpus") or 1.0)
