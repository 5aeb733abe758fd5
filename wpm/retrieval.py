"""P@1, R-precision and MAP@R of embeddings, with every image a query against all others."""

import math
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from wpm.precision import float32_products

# Queries are scored in chunks, so that memory beyond the embeddings stays bounded on large sets.
CHUNK_BYTES = 256 * 2**20
_TIED_ROWS = 256  # queries whose ties are put in order at once
# Here faiss finds neighbours faster than matrix products do (benchmarks/retrieval.py).
FAISS_DEVICES: tuple[str, ...] = ("cpu",) if find_spec("faiss") else ()


@dataclass(frozen=True)
class RetrievalScores:
    """Means over the queries that have a reference of their class, as fractions in [0, 1].

    All three are NaN if no query has one, that is if every class has a single image.
    """

    precision_at_1: float
    r_precision: float
    map_at_r: float


def retrieval_scores(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Score a set in which every embedding is a query, and a reference for all other queries.

    For a query with R references of its class: precision_at_1 is 1 if the nearest reference is of
    its class; r_precision is the share of its class among the R nearest; map_at_r is
    `1/R * sum_{i=1..R} precision_at_i * [the i-th nearest is of its class]`. Lone queries (R = 0)
    are left out of the means. Distances are Euclidean on unit-norm embeddings. References at the
    same distance rank in the order of `order_of_ties`, whatever order the images are in: sets are
    listed class by class, and a network that gives every image the same embedding would otherwise
    be right for every image of the first class.

    Example:
        >>> embeddings = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]])
        >>> retrieval_scores(embeddings, torch.tensor([0, 0, 1, 1])).map_at_r
        1.0

    Args:
        embeddings: (N, D) embeddings of any norm; normalised here.
        labels: (N,) integer labels.

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
    bytes_a_query = 40 * (max_relevant + 1)
    if unit.device.type not in FAISS_DEVICES:  # similarities to all references are in memory then
        bytes_a_query += 4 * len(unit)
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


def order_of_ties(count: int) -> Tensor:
    """Return (count,) positions of references in the order in which those that tie are ranked.

    The order is a shuffle that depends on nothing but the number of references.
    """
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


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
    # Sum in float64: sums in float32 are off by more than 1e-6 for tens of thousands of queries.
    precision = (hits * within_r).double() / rank
    average_precision = precision.sum(dim=1) / num_relevant
    r_precision = within_r.sum(dim=1).double() / num_relevant
    sums = torch.stack([is_hit[:, 0].double().sum(), r_precision.sum(), average_precision.sum()])
    return sums.cpu()


class _NearestReferences:
    """Finds exact nearest references, by faiss on the CPU and by matrix products elsewhere.

    Both hold the references in the order of `order_of_ties`, and rank the first of those that tie
    first.
    """

    def __init__(self, unit: Tensor) -> None:
        self._unit = unit
        self._order = order_of_ties(len(unit)).to(unit.device)
        self._places = self._order.argsort()  # of every image among the references
        self._references = unit[self._order]
        self._index = None
        if unit.device.type in FAISS_DEVICES:
            import faiss  # here because a GPU does not need it

            self._index = faiss.IndexFlatL2(unit.shape[1])
            self._index.add(np.ascontiguousarray(self._references.numpy()))

    def __call__(self, query: slice, k: int) -> Tensor:
        """Return (Q, k) indices of the k nearest others, nearest first."""
        queries, own = self._unit[query], self._places[query]
        if self._index is not None:
            _, found = self._index.search(np.ascontiguousarray(queries.numpy()), k + 1)
            return self._order[_drop_own(torch.from_numpy(found), own)]
        with float32_products("float32"):  # tf32 would change the order of neighbours
            similarity = queries @ self._references.T
        similarity[torch.arange(len(own), device=own.device), own] = -torch.inf
        return self._order[_find_largest(similarity, k)]


def _find_largest(similarity: Tensor, k: int) -> Tensor:
    """Return (Q, k) columns of the k largest values of each row; of those that tie, the first.

    Args:
        similarity: (Q, N), with k < N.
        k: how many.
    """
    values, found = similarity.topk(k, dim=1)
    # `topk` takes any of the values that tie, in any order.
    is_tied = (values[:, 1:] == values[:, :-1]).any(dim=1)
    is_tied |= (similarity >= values[:, -1:]).sum(dim=1) > k
    for rows in torch.nonzero(is_tied).flatten().split(_TIED_ROWS):
        tied, smallest = similarity[rows], values[rows, -1:]
        is_last = tied == smallest
        room = k - (tied > smallest).sum(dim=1, keepdim=True)
        is_taken = is_last & (is_last.cumsum(dim=1, dtype=torch.int32) <= room)
        columns = torch.nonzero(is_taken | (tied > smallest))[:, 1].view(len(rows), k)
        order = tied.gather(1, columns).sort(dim=1, descending=True, stable=True).indices
        found[rows] = columns.gather(1, order)
    return found


def _drop_own(found: Tensor, own: Tensor) -> Tensor:
    """Remove the query itself from (Q, k + 1) neighbours; the last one where ties pushed it out."""
    is_own = found == own[:, None]
    is_own[~is_own.any(dim=1), -1] = True
    return found[~is_own].view(len(found), -1)
