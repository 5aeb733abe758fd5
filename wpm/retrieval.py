"""P@1, R-precision and MAP@R of embeddings, every image a query against all others."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from wpm.precision import float32_products

# Queries are scored in chunks so that memory beyond the embeddings stays bounded on large sets.
CHUNK_BYTES = 256 * 2**20
# faiss is faster there (benchmarks/retrieval.py), matrix products do everywhere.
FAISS_DEVICES: tuple[str, ...] = ("cpu",)


@dataclass(frozen=True)
class RetrievalScores:
    """Mean over the queries that have a reference of their class; fractions in [0, 1].

    All three are NaN when no query has one (every class a single image).
    """

    precision_at_1: float
    r_precision: float
    map_at_r: float


def retrieval_scores(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Score a set in which every embedding is query and reference, itself excluded.

    For a query with R references of its class: precision_at_1 is 1 if the nearest reference is of
    its class; r_precision is the share of its class among the R nearest; map_at_r is
    `1/R * sum_{i=1..R} precision_at_i * [the i-th nearest is of its class]`. Lone queries (R = 0)
    are left out of the means. Distances are Euclidean on unit-norm embeddings.

    Args:
        embeddings: (N, D) embeddings of any norm; normalised here.
        labels: (N,) integer labels.

    Returns:
        The three means as plain floats.

    Raises:
        ValueError: shapes do not fit, the set is empty, or an embedding is not finite.

    References:
        Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV 2020.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1]:
        raise ValueError(
            f"embeddings must be (N, D) and labels (N,), got {tuple(embeddings.shape)} "
            f"and {tuple(labels.shape)}"
        )
    if len(embeddings) == 0:
        raise ValueError("embeddings is empty: there is nothing to score")
    if not bool(torch.isfinite(embeddings).all()):
        raise ValueError("embeddings hold NaN or infinity: neighbours would be arbitrary")
    _, classes, counts = torch.unique(labels, return_inverse=True, return_counts=True)
    num_relevant = counts[classes] - 1  # R of every query
    max_relevant = int(num_relevant.max())
    if max_relevant == 0:
        return RetrievalScores(math.nan, math.nan, math.nan)

    unit = normalize(embeddings.detach().float(), dim=1)
    # Without faiss a chunk's similarities to all references are held, 4 bytes each.
    bytes_a_query = 40 * (max_relevant + 1) + 4 * len(unit) * (
        unit.device.type not in FAISS_DEVICES
    )
    chunk = max(1, CHUNK_BYTES // bytes_a_query)
    totals = torch.zeros(3, dtype=torch.float64)
    nearest = _NearestReferences(unit)
    for start in range(0, len(unit), chunk):
        query = slice(start, start + chunk)
        neighbours = nearest(query, max_relevant)
        is_hit = (classes[neighbours] == classes[query, None])[num_relevant[query] > 0]
        totals += _sum_scores(is_hit, num_relevant[query][num_relevant[query] > 0])
    scores = (totals / int((num_relevant > 0).sum())).tolist()
    return RetrievalScores(*scores)


def _sum_scores(is_hit: Tensor, num_relevant: Tensor) -> Tensor:
    """Sum the three scores over queries.

    Args:
        is_hit: (Q, K) bool, whether the k-th nearest reference is of the query's class.
        num_relevant: (Q,) R of every query, 1 <= R <= K.

    Returns:
        (3,) float64 on the CPU: sums of precision at 1, R-precision and average precision at R.
    """
    rank = torch.arange(1, is_hit.shape[1] + 1, device=is_hit.device)
    within_r = is_hit & (rank <= num_relevant[:, None])
    hits = within_r.cumsum(dim=1)
    # float64 sums: float32 drifts past 1e-6 on tens of thousands of queries
    precision = (hits * within_r).double() / rank
    average_precision = precision.sum(dim=1) / num_relevant
    r_precision = within_r.sum(dim=1).double() / num_relevant
    sums = torch.stack([is_hit[:, 0].double().sum(), r_precision.sum(), average_precision.sum()])
    return sums.cpu()


class _NearestReferences:
    """Exact nearest references by faiss on the CPU, by matrix products on other devices."""

    def __init__(self, unit: Tensor) -> None:
        self._unit = unit
        self._index = None
        if unit.device.type in FAISS_DEVICES:
            import faiss  # here: where neighbours are found on a GPU, nobody needs it

            self._index = faiss.IndexFlatL2(unit.shape[1])
            self._index.add(np.ascontiguousarray(unit.numpy()))

    def __call__(self, query: slice, k: int) -> Tensor:
        """Return (Q, k) indices of the k nearest others, nearest first."""
        queries = self._unit[query]
        own = torch.arange(len(self._unit), device=queries.device)[query]
        if self._index is not None:
            _, found = self._index.search(np.ascontiguousarray(queries.numpy()), k + 1)
            return _drop_own(torch.from_numpy(found), own)
        with float32_products("float32"):  # tf32 would order near neighbours anew
            similarity = queries @ self._unit.T
        similarity[torch.arange(len(own), device=own.device), own] = -torch.inf
        return similarity.topk(k, dim=1).indices


def _drop_own(found: Tensor, own: Tensor) -> Tensor:
    """Remove the query itself from (Q, k + 1) neighbours; the last one where ties hid it."""
    is_own = found == own[:, None]
    is_own[~is_own.any(dim=1), -1] = True
    return found[~is_own].view(len(found), -1)
