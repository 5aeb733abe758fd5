"""The final test: the only place where images of test classes are opened."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from wpm.atomic import write_json
from wpm.batches import BatchMaker
from wpm.config import Protocol, Row, protocol_from_json
from wpm.datasets import DataSource, load_index
from wpm.errors import UserError
from wpm.evaluate import score_models
from wpm.jobs import InterruptedJobError, StepResult, choose_device, model_file
from wpm.model import EmbeddingModel, build_model
from wpm.pixels import Pixels, build_pixels
from wpm.precision import float32_products
from wpm.pretrained import score_pretrained
from wpm.records import (
    COMPLETE,
    StudyPlace,
    TrainingFolder,
    note_test_access,
    provenance,
    timestamp,
)
from wpm.retrieval import RetrievalScores
from wpm.splits import class_disjoint_splits


def open_test_images(
    source: DataSource, protocol: Protocol, place: StudyPlace, reason: str
) -> Pixels:
    """Open the images of the test classes, and leave a line in the study's records first.

    Args:
        source: where the images are.
        protocol: sets folds and image size.
        place: the study on whose behalf.
        reason: what for, for the record.

    Returns:
        Decoded images of the test half of the classes.
    """
    note_test_access(place, reason)
    index = load_index(source)
    splits = class_disjoint_splits(index.labels, protocol.folds)
    folder = build_pixels(
        index.subset(splits.test_classes),
        protocol.resize,
        source.work_root,
        skip_unreadable=source.skip_unreadable,
    )
    return Pixels(folder)


class TestJob:
    """Tests one run: the folds' models of one seed, alone and concatenated."""

    __test__ = False  # not a test case, whatever pytest thinks of the name

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Take over what `test_payload` wrote."""
        self._payload = payload

    def step(self) -> StepResult:
        """Test, write the scores, end."""
        payload = self._payload
        folder = Path(payload["folder"])
        protocol = protocol_from_json(payload["protocol"])
        data_root = payload["data_root"]
        source = DataSource(
            payload["dataset"],
            None if data_root is None else Path(data_root),
            Path(payload["work_root"]),
            payload["skip_unreadable"],
        )
        place = StudyPlace(Path(payload["run_root"]), *payload["study"])
        pixels = open_test_images(source, protocol, place, reason=f"test of {folder}")
        with float32_products(protocol.precision):
            separated, concatenated = self._score(place, protocol, pixels)
        result = {
            "state": COMPLETE,
            "seed": payload["seed"],
            "separated": asdict(separated),
            "concatenated": asdict(concatenated),
            "channels": pixels.channels,
            "test_images": len(pixels),
            "test_classes": len(set(pixels.labels.tolist())),
            "left_out": pixels.left_out,
            "provenance": provenance(),
            "ended": timestamp(),
        }
        write_json(folder / "result.json", result)
        return StepResult([], result)

    def interrupt(self) -> None:
        """End the step at once: a test keeps nothing, and is done again."""
        raise InterruptedJobError

    def _score(
        self, place: StudyPlace, protocol: Protocol, pixels: Pixels
    ) -> tuple[RetrievalScores, RetrievalScores]:
        """Return separated and concatenated scores."""
        payload, device = self._payload, choose_device()
        if not Row.parse(place.row).trained:
            trainval = Pixels(Path(payload["pixels"]))
            return score_pretrained(protocol, payload["weights"], trainval, pixels, device)
        models = load_models(Path(payload["folder"]), protocol, pixels.channels, device)
        batches = BatchMaker(pixels, protocol, models[0].trunk.input_spec, device)
        return score_models(models, batches, torch.arange(len(pixels)), pixels.labels)

    def close(self) -> None:
        """Hold nothing."""


def load_models(
    folder: Path, protocol: Protocol, channels: int, device: torch.device
) -> list[EmbeddingModel]:
    """Load the folds' models of a run.

    Raises:
        UserError: one is missing, or does not fit the protocol.
    """
    return [
        load_model(folder / f"fold-{k}", model_file(k), protocol, channels, device)
        for k in range(protocol.folds)
    ]


def load_model(
    folder: Path, name: str, protocol: Protocol, channels: int, device: torch.device
) -> EmbeddingModel:
    """Build a model and load the weights that a training kept.

    Raises:
        UserError: no such file, it is damaged, or it does not fit the model.
    """
    model = build_model(protocol, channels, seed=0)
    data = TrainingFolder(folder).read_model(name)
    try:
        model.load_state_dict(load(data))
    except Exception as error:
        raise UserError(
            f"{folder / name}: model cannot be loaded ({error}); delete {folder} to train it again"
        ) from error
    model.to(memory_format=torch.channels_last)
    return model.to(device)


def test_payload(
    place: StudyPlace,
    source: DataSource,
    protocol: Protocol,
    folder: Path,
    seed: int,
    *,
    pixels: Path,
    weights: str,
) -> dict[str, Any]:
    """Describe the test of one run in plain JSON types.

    Args:
        place: the study.
        source: where the images are.
        protocol: of the study.
        folder: of the run.
        seed: of the run.
        pixels: cache of trainval images, which the row without training fits its PCA on.
        weights: file of the trunk's weights, or "random"; for that row as well.
    """
    return {
        "kind": "test",
        "folder": str(folder),
        "seed": seed,
        "study": [place.dataset, place.protocol, place.row],
        "run_root": str(place.run_root),
        "dataset": source.dataset,
        "data_root": None if source.data_root is None else str(source.data_root),
        "work_root": str(source.work_root),
        "skip_unreadable": source.skip_unreadable,
        "protocol": asdict(protocol),
        "pixels": str(pixels),
        "weights": weights,
    }


test_payload.__test__ = False  # type: ignore[attr-defined]
