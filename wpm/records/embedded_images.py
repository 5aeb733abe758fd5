"""Embedded test images, as a job computes them and as they are stored for the report."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class EmbeddedImages:
    """The test images as the models of a run see them.

    Attributes:
        embeddings: (N, D) unit-norm float32; those of the fold models are concatenated.
        labels: (N,) positions in `class_names`.
        class_names: the classes of the data set.
        thumbnails: (N, side, side, C) uint8, the central crop that the trunk sees.
    """

    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    thumbnails: NDArray[np.uint8]
