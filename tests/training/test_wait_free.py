"""Rewritten losses: equal to the library's, with nothing that a GPU would be asked."""

import copy

import pytest
import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from pytorch_metric_learning.reducers import MeanReducer
from torch import Tensor

from benchmarks.gpu.steps import list_rows, middle_of
from wpm.losses import PlainLoss, build_loss
from wpm.rows import Row
from wpm.training.steps import has_fixed_shapes
from wpm.training.wait_free import is_replayable, remove_waits
from wpm.within_pair import WithinPairLoss

CPU = torch.device("cpu")
VIEWS, DIM = 6, 16
# What docs/performance.md says of each row: rewritten, captured as it is, or eager.
REWRITTEN = {
    "contrastive", "triplet", "margin", "margin_per_class", "snr_contrastive", "ntxent",
    "multi_similarity", "lifted_structure",
}  # fmt: skip
AS_IT_IS = {"normalized_softmax", "soft_triple"}

USUAL = [c for c in range(8) for _ in range(4)]
CLASS_TWICE = [c for c in (3, 1, 0, 5, 3, 2, 1, 7) for _ in range(4)]
NO_POSITIVES = list(range(10))


def build(row: str) -> torch.nn.Module:
    torch.manual_seed(1)
    parsed = Row.parse(row)
    return build_loss(parsed, middle_of(parsed), num_classes=10, embedding_dim=DIM).double()


def outputs(row: str, batch: int) -> Tensor:
    shape = (VIEWS, batch, DIM) if Row.parse(row).miner else (batch, DIM)
    return torch.randn(shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def gradients(loss: torch.nn.Module, given: Tensor, labels: Tensor) -> list[Tensor]:
    leaf = given.clone().requires_grad_()
    value = loss(leaf, labels)
    value.backward()
    assert leaf.grad is not None
    # The library leaves the gradient out where no triplet counts; zero is the same to a reader.
    own = [torch.zeros_like(p) if p.grad is None else p.grad for p in loss.parameters()]
    return [value.detach(), leaf.grad, *own]


@pytest.mark.parametrize("row", [r for row in sorted(REWRITTEN) for r in (row, f"{row}+wpm")])
@pytest.mark.parametrize("labels", [USUAL, CLASS_TWICE, NO_POSITIVES])
def test_rewritten_losses_equal_the_library(row: str, labels: list[int]) -> None:
    loss, given = build(row), outputs(row, len(labels))
    rewritten = copy.deepcopy(loss)
    pairs = remove_waits(rewritten)
    assert pairs is not None
    pairs.set_labels(torch.tensor(labels), CPU)
    expected = gradients(loss, given, torch.tensor(labels))
    found = gradients(rewritten, given, torch.tensor(labels))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("row", ["contrastive", "triplet", "margin", "margin_per_class"])
def test_batch_without_a_violation_costs_nothing(row: str) -> None:
    """Every class has one direction of its own, so no margin is violated and sums are empty."""
    labels = torch.tensor(USUAL)
    given = torch.eye(DIM, dtype=torch.float64)[labels]
    parameters = {
        "contrastive": {"pos_margin": 0.5, "neg_margin": 0.5},
        "triplet": {"margin": 0.1},
        "margin": {"margin": 0.1, "beta": 0.7},
        "margin_per_class": {"margin": 0.1, "beta": 0.7},
    }[row]
    loss = build_loss(Row(row), parameters, num_classes=10, embedding_dim=DIM).double()
    pairs = remove_waits(loss)
    assert pairs is not None
    pairs.set_labels(labels, CPU)
    assert all(not bool(gradient.any()) for gradient in gradients(loss, given, labels))


def test_rows_have_the_shapes_that_the_documents_say() -> None:
    found: dict[str, set[str]] = {"rewritten": set(), "as it is": set()}
    labels = torch.tensor(USUAL)
    for row in list_rows():
        loss = build(str(row)).float()
        shape = outputs(str(row), len(labels)).shape
        if has_fixed_shapes(loss, shape, labels):
            found["as it is"].add(str(row))
        elif remove_waits(loss) is not None and has_fixed_shapes(loss, shape, labels):
            found["rewritten"].add(str(row))
    assert found["as it is"] == AS_IT_IS
    assert found["rewritten"] == REWRITTEN | {f"{row}+wpm" for row in REWRITTEN}


def test_losses_that_are_captured_are_known_ones() -> None:
    rows = {str(row) for row in list_rows() if is_replayable(build(str(row)))}
    captured = AS_IT_IS | REWRITTEN | {f"{row}+wpm" for row in REWRITTEN}
    # Its threshold miner keeps the row from a graph, whatever its loss does.
    assert rows == captured | {"multi_similarity_miner", "multi_similarity_miner+wpm"}


def test_loss_of_the_users_own_is_not_captured_whatever_it_is_derived_from() -> None:
    class Own(ContrastiveLoss):
        pass

    class OwnReducer(MeanReducer):
        pass

    assert not is_replayable(PlainLoss(Own()))
    assert not is_replayable(WithinPairLoss(Own()))
    assert not is_replayable(PlainLoss(ContrastiveLoss(reducer=OwnReducer())))
    assert not is_replayable(PlainLoss(torch.nn.Identity()))
    assert is_replayable(PlainLoss(ContrastiveLoss(reducer=MeanReducer())))


def test_lists_follow_the_batch() -> None:
    """The lists of a known pattern come again; another pattern gets its own."""
    pairs = remove_waits(build("contrastive"))
    assert pairs is not None

    def lists(labels: list[int]) -> tuple[Tensor, ...]:
        pairs.set_labels(torch.tensor(labels), CPU)
        found: tuple[Tensor, ...] = pairs(torch.empty(0), torch.empty(0))
        return found

    first = lists([4, 4, 9])
    assert [index.tolist() for index in first] == [[0, 1], [1, 0], [0, 1, 2, 2], [2, 2, 0, 1]]
    assert lists([7, 7, 2]) is first
    assert [index.tolist() for index in lists([4, 9, 4])[:2]] == [[0, 2], [2, 0]]
    assert lists([4, 4, 9]) is first
