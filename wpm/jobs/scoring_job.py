"""The job that tests a final run on held-out images."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from wpm.data.batches import BatchMaker
from wpm.data.index import DataSource
from wpm.data.pixels import Pixels
from wpm.jobs.held_out import compare_halves, load_models, open_test_images
from wpm.jobs.job import InterruptedJobError, StepResult, choose_device
from wpm.jobs.pretrained import SizedScores, score_pretrained
from wpm.precision import float32_products
from wpm.protocols import Protocol, protocol_from_json
from wpm.records import ScoredRun, StudyPlace, provenance, timestamp, write_run_result
from wpm.rows import Reduction
from wpm.training.evaluate import score_models


class ScoringJob:
    """Tests one run: the folds' models of one seed, alone and concatenated."""

    def __init__(self, payload: Mapping[str, Any]) -> None:
        """Prepare a test; nothing is opened before `step`.

        Args:
            payload: what `wpm.jobs.payloads.scoring_payload` returned.
        """
        self._payload = payload

    def step(self) -> StepResult:
        """Test the run and write its scores: the only step."""
        payload = self._payload
        folder = Path(payload["folder"])
        protocol = protocol_from_json(payload["protocol"])
        data_root = payload["data_root"]
        source = DataSource(
            payload["dataset"],
            None if data_root is None else Path(data_root),
            Path(payload["work_root"]),
            payload["skip_unreadable"],
            payload["classes_by"],
            payload["split"],
            payload["same_classes"],
        )
        place = StudyPlace.from_label(Path(payload["run_root"]), *payload["study"])
        pixels = open_test_images(source, protocol, place, reason=f"test of {folder}")
        trainval = Pixels(Path(payload["pixels"]))
        with float32_products(protocol.precision):
            (separated, concatenated), others = self._score(place, protocol, trainval, pixels)
        result = ScoredRun(
            seed=payload["seed"],
            separated=asdict(separated),
            concatenated=asdict(concatenated),
            channels=pixels.channels,
            test_images=len(pixels),
            test_classes=len(set(pixels.labels.tolist())),
            left_out=pixels.left_out,
            reductions={
                reduction.value: {"separated": asdict(scores[0]), "concatenated": asdict(scores[1])}
                for reduction, scores in others.items()
            },
            duplicates=compare_halves(source, protocol, trainval, pixels).to_json(),
            provenance=provenance(),
            ended=timestamp(),
        )
        write_run_result(folder, result)
        return StepResult(result=result)

    def interrupt(self) -> None:
        """End the step at once: a test saves nothing on the way, and is repeated later."""
        raise InterruptedJobError

    def _score(
        self, place: StudyPlace, protocol: Protocol, trainval: Pixels, pixels: Pixels
    ) -> tuple[SizedScores, Mapping[Reduction, SizedScores]]:
        """Return the scores, and those of the row without training under other reductions."""
        payload, device = self._payload, choose_device(self._payload.get("gpus", 0.0))
        if not place.row.is_trained:
            scores = score_pretrained(protocol, payload["weights"], trainval, pixels, device)
            others = dict(scores)
            return others.pop(Reduction.TRAINVAL), others
        models = load_models(Path(payload["folder"]), protocol, pixels.channels, device)
        batches = BatchMaker(pixels, protocol, models[0].trunk.input_spec, device)
        return score_models(models, batches, torch.arange(len(pixels)), pixels.labels), {}

    def close(self) -> None:
        """Do nothing: a test holds no lock and no open file."""
