"""The images whose embeddings are nearest to those of some queries."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

HAS_FAISS = find_spec("faiss") is not None


@dataclass(frozen=True)
class Neighbour:
    """An image near a query: its position among all images, and their cosine similarity."""

    position: int
    similarity: float


def find_nearest(
    embeddings: NDArray[np.float32],
    queries: NDArray[np.float32],
    own: Sequence[Collection[int]],
    count: int,
) -> list[list[Neighbour]]:
    """Find the images that are most similar to each query.

    Args:
        embeddings: (N, D) unit-norm, of all images.
        queries: (Q, D) unit-norm.
        own: for each query, the positions of images that are the query itself; they are left out.
        count: how many images to return for a query; fewer where there are fewer.

    Returns:
        For each query its neighbours, the most similar first.
    """
    most = min(count + max(map(len, own), default=0), len(embeddings))
    similarities, positions = _search(embeddings, queries, most)
    found = []
    for row, left_out in enumerate(own):
        near = zip(positions[row].tolist(), similarities[row].tolist(), strict=True)
        others = [
            Neighbour(position, value) for position, value in near if position not in left_out
        ]
        found.append(others[:count])
    return found


def _search(
    embeddings: NDArray[np.float32], queries: NDArray[np.float32], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return (Q, count) similarities, the largest first, and the positions that have them."""
    if HAS_FAISS:
        import faiss

        index = faiss.IndexFlatIP(embeddings.shape[1])
        index.add(np.ascontiguousarray(embeddings))
        found: tuple[NDArray[np.float32], NDArray[np.int64]] = index.search(
            np.ascontiguousarray(queries), count
        )
        return found
    similarity = queries @ embeddings.T
    positions = np.argsort(-similarity, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(similarity, positions, axis=1), positions
