"""Score the row `pretrained` by the right pipeline and by wrong ones, to stand beside a table.

Whether weights, decoding, crops, colours, classes and metrics are those of the published table
shows in one number: the score of the trunk without training. If it differs, the wrong pipeline
that gives the published score says why.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wpm.data.index import DataSource
from wpm.data.pixel_cache import Progress
from wpm.data.pixels import Pixels
from wpm.jobs.held_out import open_test_images
from wpm.jobs.pipeline_readings import Reading, Suspect, right_reading, wrong_readings
from wpm.jobs.pretrained import (
    SizedScores,
    build_feature_model,
    embedding_sizes,
    score_reduced,
)
from wpm.model.embedding import EVALUATION_BATCH
from wpm.precision import float32_products
from wpm.protocols import Protocol
from wpm.records import StudyPlace
from wpm.rows import Reduction
from wpm.training.evaluate import extract_features

_OF_THE_ORIGINALS = (Reduction.RAW, Reduction.UNIT)


@dataclass(frozen=True)
class PipelineScores:
    """The row `pretrained` by one pipeline.

    Attributes:
        name: of the pipeline, for people.
        suspect: what would be at fault in ours if this one gives the published figures; None for
            the right pipeline.
        scores: by reduction; a wrong pipeline has only those of the originals.
    """

    name: str
    suspect: Suspect | None
    scores: dict[Reduction, SizedScores]


@dataclass(frozen=True)
class HeldOutHalf:
    """What is known of the test images before any is scored.

    Attributes:
        images: how many there are.
        left_out: how many could not be read.
        square: whether all of them are square.
        chance: P@1 of labels that have nothing to do with the images.
    """

    images: int
    left_out: int
    square: bool
    chance: float


class PipelineCheck:
    """Scores the untrained trunk on the test images of a data set, time after time."""

    def __init__(
        self,
        place: StudyPlace,
        source: DataSource,
        protocol: Protocol,
        weights: str,
        trainval: Path,
        device: torch.device,
        show: Progress,
    ) -> None:
        """Open the test images.

        Args:
            place: the study `pretrained`; a line in its records says that they were opened.
            source: where the images are.
            protocol: names the trunk, the image sizes, and the embedding sizes.
            weights: file of the trunk's weights, or "random".
            trainval: cache of the other images.
            device: where the trunk runs.
            show: called with the numbers of images that were decoded or embedded, and of all.
        """
        self._place, self._source, self._device, self._show = place, source, device, show
        self._trainval = Pixels(trainval)
        self._dims = embedding_sizes(protocol)
        model = build_feature_model(protocol, self._trainval.channels, weights, device)
        self._right = right_reading(protocol, model.trunk.input_spec, weights)
        self._wrong = wrong_readings(self._right, model.trunk.native_size)
        # The row may have no study yet, and that test images were opened is written down before.
        place.folder.mkdir(parents=True, exist_ok=True)
        self._test = self._open_test(self._right)
        self.test_half = _describe(self._test)
        self._labels = torch.cat([self._trainval.labels, self._test.labels])
        self._wrong_halves = dict(wrong_test_classes(self._test.class_names, self._labels))

    @property
    def count(self) -> int:
        """How many pipelines are scored."""
        return 1 + len(self._wrong_halves) + len(self._wrong)

    def run(self) -> Iterator[PipelineScores]:
        """Yield the right pipeline, then wrong orders of classes, then the other wrong ones."""
        test, trainval = (self._extract(self._right, p) for p in (self._test, self._trainval))
        scores = {r: self._score(r, test, self._test.labels, trainval) for r in Reduction}
        yield PipelineScores(self._right.name, None, scores)
        features = torch.cat([trainval, test])
        for name, classes in self._wrong_halves.items():
            chosen = torch.isin(self._labels, torch.tensor(classes))
            yield self._score_wrong(name, Suspect.CLASSES, features[chosen], self._labels[chosen])
        for reading in self._wrong:
            same_size = reading.protocol.resize == self._right.protocol.resize
            pixels = self._test if same_size else self._open_test(reading)
            assert reading.suspect is not None
            yield self._score_wrong(
                reading.name, reading.suspect, self._extract(reading, pixels), pixels.labels
            )

    def _open_test(self, reading: Reading) -> Pixels:
        return open_test_images(
            self._source, reading.protocol, self._place, f"check of {reading.name}", self._show
        )

    def _extract(self, reading: Reading, pixels: Pixels) -> Tensor:
        """Return (N, F) features on the CPU."""
        model = build_feature_model(
            reading.protocol, pixels.channels, reading.weights, self._device
        )
        batches, parts = reading.make_batches(pixels, self._device), []
        with float32_products(reading.protocol.precision):
            for part in torch.arange(len(pixels)).split(EVALUATION_BATCH):
                parts.append(extract_features(model, batches, part).cpu())
                self._show(sum(map(len, parts)), len(pixels))
        return torch.cat(parts)

    def _score_wrong(
        self, name: str, suspect: Suspect, features: Tensor, labels: Tensor
    ) -> PipelineScores:
        scores = {r: self._score(r, features, labels) for r in _OF_THE_ORIGINALS}
        return PipelineScores(name, suspect, scores)

    def _score(
        self,
        reduction: Reduction,
        features: Tensor,
        labels: Tensor,
        trainval: Tensor | None = None,
    ) -> SizedScores:
        return score_reduced(reduction, features, labels, self._dims, self._device, trainval)


def wrong_test_classes(names: Sequence[str], labels: Tensor) -> Iterator[tuple[str, list[int]]]:
    """Yield test halves that other orders of the classes would have.

    Args:
        names: of all classes, by label; they begin with the class number.
        labels: of all images.

    Yields:
        The name of the mistake, and the labels of the test half.
    """
    classes = sorted(set(labels.tolist()))
    half = len(classes) // 2
    orders = {
        "the other half of the classes": classes[half:] + classes[:half],
        "classes in the order of their names": sorted(
            classes, key=lambda label: re.sub(r"^\d+\W*", "", names[label]).lower()
        ),
        "class numbers in the order of text": sorted(classes, key=lambda label: str(label + 1)),
    }
    for name, order in orders.items():
        if set(order[half:]) != set(classes[half:]):
            yield name, order[half:]


def _describe(test: Pixels) -> HeldOutHalf:
    counts = torch.unique(test.labels, return_counts=True)[1].double()
    images = len(test)
    return HeldOutHalf(
        images=images,
        left_out=len(test.left_out),
        square=bool((test.sizes[:, 0] == test.sizes[:, 1]).all()),
        chance=float((counts * (counts - 1)).sum() / (images * (images - 1))),
    )
