"""Describe work in plain JSON types, so that a worker on any machine can start it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from wpm.data.index import DataSource
from wpm.protocols import Protocol
from wpm.records import StudyPlace, provenance
from wpm.training.config import TrainingConfig


def identify(number: int, config: TrainingConfig, origin: str = "") -> dict[str, Any]:
    """Return the content of trial.json.

    Args:
        number: of the trial, or the fold of a final run.
        config: what is trained.
        origin: where the configuration was known from; "" if it was sampled.
    """
    described = config.loss
    # The text of a user's own loss goes to the workers, and once into study.json.
    loss = None if described is None else described.to_json(with_source=False)
    return {
        "number": number,
        "parameters": dict(config.parameters),
        **({"origin": origin} if origin else {}),
        "config": {**config.to_json(), "loss": loss},
        "provenance": provenance(),
    }


def training_payload(
    folder: Path, pixel_cache: Path, config: TrainingConfig, *, export: bool
) -> dict[str, Any]:
    """Describe a training.

    Args:
        folder: its records; trial.json must be there before the work starts.
        pixel_cache: folder of the decoded trainval images.
        config: what to train.
        export: whether to keep the best models' weights.
    """
    return {
        "kind": "train",
        "folder": str(folder),
        "pixels": str(pixel_cache),
        "config": config.to_json(),
        "export": export,
    }


def scoring_payload(
    place: StudyPlace,
    source: DataSource,
    protocol: Protocol,
    folder: Path,
    seed: int,
    *,
    pixel_cache: Path,
    weights: str,
) -> dict[str, Any]:
    """Describe the test of one final run.

    Args:
        place: the study.
        source: where the images are.
        protocol: of the study.
        folder: the run's records.
        seed: of the run.
        pixel_cache: folder of the decoded trainval images; the row without training fits its PCA
            on them.
        weights: file of the trunk's weights, or "random"; used by the row without training.
    """
    return {
        "kind": "test",
        "folder": str(folder),
        "seed": seed,
        "study": [place.dataset, place.protocol, place.label],
        "run_root": str(place.run_root),
        "dataset": source.dataset,
        "data_root": None if source.data_root is None else str(source.data_root),
        "work_root": str(source.work_root),
        "skip_unreadable": source.skip_unreadable,
        "classes_by": source.classes_by,
        "split": source.split,
        "same_classes": source.same_classes,
        "protocol": asdict(protocol),
        "pixels": str(pixel_cache),
        "weights": weights,
    }
