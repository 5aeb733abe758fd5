"""The final test: the only place where images of test classes are opened."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wpm.data.batches import BatchMaker
from wpm.data.index import DataSource
from wpm.data.pixels import Pixels
from wpm.files import write_json
from wpm.jobs.held_out import load_models, open_test_images
from wpm.jobs.job import InterruptedJobError, StepResult, choose_device
from wpm.jobs.pretrained import score_pretrained
from wpm.precision import float32_products
from wpm.protocols import Protocol, protocol_from_json
from wpm.records import StudyPlace, TrialState, provenance, timestamp
from wpm.retrieval import RetrievalScores
from wpm.rows import Row
from wpm.training.evaluate import score_models


class ScoringJob:
    """Tests one run: the folds' models of one seed, alone and concatenated."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Take over what `scoring_payload` wrote."""
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
            "state": TrialState.COMPLETE,
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


def scoring_payload(
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
