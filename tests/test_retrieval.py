"""Retrieval scores against pytorch-metric-learning's AccuracyCalculator and plain loops."""

import doctest
import logging
import math
import subprocess
import sys
from dataclasses import astuple
from typing import Any

import pytest
import torch
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from wpm import retrieval
from wpm.retrieval import RetrievalScores, order_of_ties, retrieval_scores


def random_set(
    counts: list[int], dim: int = 8, seed: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return embeddings scattered about one centre for each class, in shuffled order."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    centres = torch.randn((len(counts), dim), generator=generator)
    noise = torch.randn((len(labels), dim), generator=generator)
    return centres[labels] + spread * noise, labels


def reference_scores(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Return the scores that pytorch-metric-learning gives the same unit-norm embeddings."""
    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        device=torch.device("cpu"),
    )
    found = calculator.get_accuracy(normalize(embeddings.float(), dim=1), labels)
    return RetrievalScores(
        found["precision_at_1"], found["r_precision"], found["mean_average_precision_at_r"]
    )


def scores_by_loops(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Compute the definition, query by query."""
    unit = normalize(embeddings.double(), dim=1)
    firsts, shares, precisions = [], [], []
    for query in range(len(labels)):
        others = [i for i in range(len(labels)) if i != query]
        relevant = sum(int(labels[i] == labels[query]) for i in others)
        if relevant == 0:
            continue
        others.sort(key=lambda i: float((unit[i] - unit[query]).norm()))
        hits = [bool(labels[i] == labels[query]) for i in others]
        firsts.append(float(hits[0]))
        shares.append(sum(hits[:relevant]) / relevant)
        at_hits = [sum(hits[: i + 1]) / (i + 1) for i in range(relevant) if hits[i]]
        precisions.append(sum(at_hits) / relevant)
    count = len(firsts)
    return RetrievalScores(sum(firsts) / count, sum(shares) / count, sum(precisions) / count)


def assert_close(found: RetrievalScores, expected: RetrievalScores) -> None:
    assert astuple(found) == pytest.approx(astuple(expected), abs=1e-6, nan_ok=True)


def test_scores_of_five_points_on_a_circle_by_hand() -> None:
    angles = torch.tensor([0.0, 10.0, 50.0, 29.0, 60.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    labels = torch.tensor([0, 0, 0, 1, 1])
    # Class 0 (R = 2): the query at 0 finds 10 and 29, at 10 finds 0 and 29, at 50 finds 60 and 29:
    # one hit at rank 1, the same, none. Class 1 (R = 1): at 29 finds 10, at 60 finds 50: none.
    scores = retrieval_scores(embeddings, labels)
    assert scores.precision_at_1 == pytest.approx(2 / 5)
    assert scores.r_precision == pytest.approx((0.5 + 0.5) / 5)
    assert scores.map_at_r == pytest.approx((0.5 + 0.5) / 5)


def test_map_counts_the_rank_of_a_late_hit() -> None:
    angles = torch.tensor([0.0, 12.0, 22.0, 5.0]).deg2rad()
    embeddings = torch.stack([angles.cos(), angles.sin()], dim=1)
    scores = retrieval_scores(embeddings, torch.tensor([0, 0, 0, 1]))
    # At 0 and at 12 the lone image at 5 comes first: one hit at rank 2, precision there 1/2, R 2.
    # At 22 the hit comes first.
    assert scores.precision_at_1 == pytest.approx(1 / 3)
    assert scores.r_precision == pytest.approx(1 / 2)
    assert scores.map_at_r == pytest.approx((0.25 + 0.25 + 0.5) / 3)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "counts",
    [[6] * 10, [2] * 30, [40, 1, 2, 3, 1, 9], [5], [1, 1, 1, 4], [2, 1]],
    ids=["balanced", "pairs", "unbalanced", "one_class", "mostly_lone", "three_images"],
)
def test_scores_equal_pytorch_metric_learning_and_loops(counts: list[int], seed: int) -> None:
    embeddings, labels = random_set(counts, seed=seed)
    scores = retrieval_scores(embeddings, labels)
    assert_close(scores, reference_scores(embeddings, labels))
    assert_close(scores, scores_by_loops(embeddings, labels))


def score_in_the_order_of_ties(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
    """Return the scores of pytorch-metric-learning, where references that tie rank as they come."""
    order = order_of_ties(len(labels))
    return reference_scores(embeddings[order], labels[order])


@pytest.fixture(params=["faiss", "products"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Find neighbours by faiss, or as on a device that faiss does not serve."""
    monkeypatch.setattr(retrieval, "FAISS_DEVICES", ("cpu",) if request.param == "faiss" else ())
    return str(request.param)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("way")
def test_tied_embeddings_score_as_in_pytorch_metric_learning(seed: int) -> None:
    _, labels = random_set([6] * 8, seed=seed)
    # Coordinates of +-1/2 are exact, and so are the distances: every embedding occurs three times.
    corners = torch.tensor([[1.0 - 2 * (n >> bit & 1) for bit in range(4)] for n in range(16)]) / 2
    embeddings = corners[torch.arange(48) // 3]
    scores = retrieval_scores(embeddings, labels)
    assert 0 < scores.map_at_r < 1
    assert_close(scores, score_in_the_order_of_ties(embeddings, labels))


@pytest.mark.parametrize("embedding", [[3.0, 4.0], [0.0, 0.0]], ids=["unit", "zero"])
@pytest.mark.parametrize("classes", [2, 24])
@pytest.mark.usefixtures("way")
def test_dead_network_scores_as_chance_on_classes_in_order(
    embedding: list[float], classes: int
) -> None:
    labels = torch.arange(classes).repeat_interleave(20)
    embeddings = torch.tensor(embedding).expand(len(labels), 2)
    scores = retrieval_scores(embeddings, labels)
    chance = [
        retrieval_scores(random_set([20] * classes, seed=s, spread=1e6)[0], labels).map_at_r
        for s in range(20)
    ]
    assert min(chance) / 2 < scores.map_at_r < max(chance) * 1.5
    assert scores.precision_at_1 == pytest.approx(1 / classes, abs=0.06)
    assert_close(scores, score_in_the_order_of_ties(embeddings, labels))


@pytest.mark.usefixtures("way")
def test_blocks_of_one_embedding_do_not_favour_the_order_of_classes() -> None:
    """Classes that lie in two heaps, one class after the other in each."""
    labels = torch.arange(20).repeat_interleave(10)
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[labels % 2]
    scores = [retrieval_scores(embeddings[o], labels[o]).map_at_r for o in _some_orders(200)]
    # Chance among the ten classes of a heap; by class order it would be 1/10 and more.
    assert max(scores) < 0.06


def _some_orders(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    shuffled = [torch.randperm(count, generator=generator) for _ in range(8)]
    return [torch.arange(count), torch.arange(count).flip(0), *shuffled]


@pytest.mark.parametrize("k", [1, 7, 60, 130, 299])
def test_both_ways_rank_ties_alike(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    tied = torch.randint(2, (300, 4), generator=generator) - 0.5  # exact, with few distances
    by_faiss = retrieval._NearestReferences(tied)
    by_products = retrieval._NearestReferences(tied)
    by_products._index = None
    found = by_products(slice(0, 300), k)
    assert torch.equal(found, by_faiss(slice(0, 300), k))
    # By sorting alone: the distance first, then the place in the order of ties.
    places = order_of_ties(300).argsort()
    for query in range(0, 300, 17):
        others = [i for i in range(300) if i != query]
        others.sort(key=lambda i: (float((tied[i] - tied[query]).norm()), int(places[i])))
        assert found[query].tolist() == others[:k]


def test_perfect_embeddings_score_one() -> None:
    _, labels = random_set([3, 4, 5])
    embeddings = torch.nn.functional.one_hot(labels).float()
    assert retrieval_scores(embeddings, labels) == RetrievalScores(1.0, 1.0, 1.0)


def test_one_class_scores_one() -> None:
    embeddings, labels = random_set([7])
    assert retrieval_scores(embeddings, labels) == RetrievalScores(1.0, 1.0, 1.0)


def test_lone_queries_are_references_but_not_queries() -> None:
    embeddings = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.95, 0.3]])
    labels = torch.tensor([0, 0, 1])
    # The lone image between the two hides each from the other.
    assert retrieval_scores(embeddings, labels) == RetrievalScores(0.0, 0.0, 0.0)
    assert retrieval_scores(embeddings[:2], labels[:2]) == RetrievalScores(1.0, 1.0, 1.0)


def test_all_lone_queries_give_nan(caplog: pytest.LogCaptureFixture) -> None:
    embeddings, labels = random_set([1] * 6)
    scores = retrieval_scores(embeddings, labels)
    assert all(math.isnan(score) for score in astuple(scores))
    with caplog.at_level(logging.CRITICAL):  # the other library warns
        assert_close(scores, reference_scores(embeddings, labels))
    assert all(math.isnan(s) for s in astuple(retrieval_scores(embeddings[:1], labels[:1])))


def test_labels_may_be_any_integers() -> None:
    embeddings, labels = random_set([4] * 5)
    names = torch.tensor([-7, 1000000, 3, 0, 2**40])
    assert retrieval_scores(embeddings, names[labels]) == retrieval_scores(embeddings, labels)
    assert retrieval_scores(embeddings, labels.int()) == retrieval_scores(embeddings, labels)


def test_norm_and_order_do_not_matter() -> None:
    embeddings, labels = random_set([6] * 10)
    expected = retrieval_scores(embeddings, labels)
    scale = torch.rand((60, 1), generator=torch.Generator().manual_seed(1)) + 0.1
    assert_close(retrieval_scores(embeddings * scale, labels), expected)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(2))
    assert_close(retrieval_scores(embeddings[order], labels[order]), expected)
    assert retrieval_scores(embeddings, labels) == expected


@pytest.mark.parametrize("chunk_bytes", [1, 1000, 5000])
def test_chunks_do_not_change_scores(monkeypatch: pytest.MonkeyPatch, chunk_bytes: int) -> None:
    embeddings, labels = random_set([40, 1, 2, 3, 1, 9])
    expected = retrieval_scores(embeddings, labels)
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", chunk_bytes)
    assert_close(retrieval_scores(embeddings, labels), expected)


@pytest.mark.parametrize("k", [1, 9, 59])
def test_accelerator_path_finds_the_neighbours_that_faiss_finds(k: int) -> None:
    embeddings, _ = random_set([6] * 10)
    unit = normalize(embeddings, dim=1)
    by_faiss = retrieval._NearestReferences(unit)
    by_products = retrieval._NearestReferences(unit)
    by_products._index = None  # as on a device that faiss does not serve
    query = slice(10, 40)
    found = by_products(query, k)
    assert torch.equal(found, by_faiss(query, k))
    assert not bool((found == torch.arange(10, 40)[:, None]).any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types_are_scored(dtype: torch.dtype) -> None:
    embeddings, labels = random_set([6] * 10)
    rounded = embeddings.to(dtype)
    assert retrieval_scores(rounded, labels) == retrieval_scores(rounded.float(), labels)


def test_embeddings_are_left_unchanged_and_without_graph() -> None:
    embeddings, labels = random_set([6] * 10)
    before = embeddings.clone()
    scores = retrieval_scores(embeddings.requires_grad_(), labels)
    assert torch.equal(embeddings, before)
    assert all(type(score) is float for score in astuple(scores))


def test_shapes_that_do_not_fit_print_both_sizes() -> None:
    with pytest.raises(ValueError, match=r"\(4, 2\) and \(3,\)"):
        retrieval_scores(torch.zeros(4, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"\(4,\) and \(4,\)"):
        retrieval_scores(torch.zeros(4), torch.zeros(4))


def test_empty_set_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        retrieval_scores(torch.zeros(0, 2), torch.zeros(0))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_embeddings_that_are_not_finite_are_refused(value: float) -> None:
    embeddings, labels = random_set([3, 3])
    embeddings[4, 1] = value
    with pytest.raises(ValueError, match="NaN or infinity"):
        retrieval_scores(embeddings, labels)


@pytest.mark.parametrize("devices", [("cpu",), ()], ids=["faiss", "products"])
def test_no_tensor_grows_with_the_square_of_the_set(
    devices: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "FAISS_DEVICES", devices)
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", 2**18)
    labels = torch.arange(4000).remainder(800)
    embeddings = torch.randn(4000, 8, generator=torch.Generator().manual_seed(0))
    with LargestTensor() as largest:
        chunked = retrieval_scores(embeddings, labels)
    assert largest.bytes <= 2**18
    monkeypatch.setattr(retrieval, "CHUNK_BYTES", 2**30)
    assert chunked.map_at_r == pytest.approx(retrieval_scores(embeddings, labels).map_at_r)


def test_scores_without_faiss_installed() -> None:
    """Benchmarks are carried to machines that lack it."""
    code = (
        "import sys; sys.modules['faiss'] = None\n"
        "import torch; from wpm.retrieval import retrieval_scores\n"
        "embeddings = torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.0], [1.0, 0.1]])\n"
        "print(retrieval_scores(embeddings, torch.tensor([0, 0, 1, 1])).map_at_r)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert answer.stdout == "1.0\n", answer.stderr


class LargestTensor(TorchDispatchMode):
    """Notes the largest tensor that any operation returns."""

    bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self.bytes = max(self.bytes, tensor.nbytes)
        return result


def test_example_of_the_docstring_is_right() -> None:
    ran = doctest.testmod(retrieval)
    assert ran.attempted > 0
    assert ran.failed == 0
