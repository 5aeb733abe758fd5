"""What trainings cost, in device-hours."""

from collections.abc import Mapping
from typing import Any


def device_hours(outcome: Mapping[str, Any]) -> float:
    """Return the hours of a device that a training took, validation included.

    A worker's device is its GPU; where the record holds the share of a GPU that it had ("gpus"),
    the hours count in that proportion. A worker without a GPU counts as one device.

    Args:
        outcome: result.json of a training, or the same keys from its reports.
    """
    seconds: float = outcome["training_seconds"] + outcome["validation_seconds"]
    return seconds / 3600 * (outcome.get("gpus") or 1.0)


def format_hours(hours: float) -> str:
    """Write device-hours for people: more digits where they are few."""
    return f"{hours:.1f}" if hours >= 10 else f"{hours:.3f}"
