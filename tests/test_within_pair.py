"""Within-pair mining: golden vectors, plain loops, and the losses it must equal with one view."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_metric_learning import distances, losses, miners
from torch import Tensor

from wpm.within_pair import (
    MinedDistance,
    WithinPairLoss,
    compute_pair_matrices,
    describe_distance,
    mine_within_pairs,
)

GOLDEN = Path(__file__).parent / "golden"
LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])  # one class of a single image

# Settings of the golden vectors, as spec/within_pair_mining.md lists them.
GOLDEN_LOSSES: dict[tuple[str, str], Callable[[], Any]] = {
    ("a", "contrastive"): lambda: losses.ContrastiveLoss(pos_margin=-0.1, neg_margin=0.9),
    ("a", "triplet"): lambda: losses.TripletMarginLoss(margin=0.0961),
    ("a", "margin"): lambda: losses.MarginLoss(margin=0.0878, beta=0.7838, learn_beta=True),
    ("a", "multi_similarity"): lambda: losses.MultiSimilarityLoss(
        alpha=0.01, beta=50.6, base=0.5625
    ),
    ("b", "contrastive"): lambda: losses.ContrastiveLoss(pos_margin=0.2652, neg_margin=1.1409),
    ("b", "triplet"): lambda: losses.TripletMarginLoss(margin=0.1190),
    ("b", "margin"): lambda: losses.MarginLoss(margin=0.0782, beta=1.3164, learn_beta=True),
    ("b", "multi_similarity"): lambda: losses.MultiSimilarityLoss(
        alpha=14.35, beta=75.83, base=0.6616
    ),
}

# Losses that read the batch's pair matrix, of every kind: pairs, triplets, whole rows, histograms.
PAIR_LOSSES: dict[str, Callable[[], Any]] = {
    "contrastive": lambda: losses.ContrastiveLoss(pos_margin=0.1, neg_margin=1.2),
    "contrastive_cosine": lambda: losses.ContrastiveLoss(
        pos_margin=0.9, neg_margin=0.1, distance=distances.CosineSimilarity()
    ),
    "triplet": lambda: losses.TripletMarginLoss(margin=0.2),
    "triplet_swap": lambda: losses.TripletMarginLoss(margin=0.2, swap=True),
    "margin": lambda: losses.MarginLoss(margin=0.2, beta=1.0, learn_beta=True),
    "multi_similarity": lambda: losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
    "ntxent": lambda: losses.NTXentLoss(temperature=0.1),
    "snr_contrastive": lambda: losses.SignalToNoiseRatioContrastiveLoss(
        pos_margin=0.1, neg_margin=1.5
    ),
    "fast_ap": lambda: losses.FastAPLoss(num_bins=10),
    "circle": lambda: losses.CircleLoss(),
    "nca": lambda: losses.NCALoss(softmax_scale=3),
    "nca_cosine": lambda: losses.NCALoss(softmax_scale=3, distance=distances.CosineSimilarity()),
}
FOUR_LOSSES = ("contrastive", "triplet", "margin", "multi_similarity")

DISTANCES: dict[str, Callable[[], Any]] = {
    "euclidean": lambda: distances.LpDistance(),
    "squared": lambda: distances.LpDistance(power=2),
    "manhattan": lambda: distances.LpDistance(p=1),
    "not_normalised": lambda: distances.LpDistance(normalize_embeddings=False),
    "cosine": lambda: distances.CosineSimilarity(),
    "dot": lambda: distances.DotProductSimilarity(normalize_embeddings=False),
    "snr": lambda: distances.SNRDistance(),
}


def make_views(
    views: int = 5, batch: int = 8, dim: int = 6, seed: int = 0, spread: float = 0.3
) -> Tensor:
    """Return float64 views that scatter about the embedding of each image, as with dropout."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn((batch, dim), generator=generator, dtype=torch.float64)
    noise = torch.randn((views, batch, dim), generator=generator, dtype=torch.float64)
    return centres + spread * noise


def run(loss: WithinPairLoss, views: Tensor, labels: Tensor = LABELS) -> tuple[Tensor, Tensor]:
    """Return the loss and its gradient for the views."""
    views = views.clone().requires_grad_()
    value = loss(views, labels)
    value.backward()
    assert views.grad is not None
    return value.detach(), views.grad


def relative_error(found: Tensor, expected: Tensor) -> float:
    found, expected = found.double(), expected.double()
    return float((found - expected).norm() / expected.norm())


def mine_by_loops(
    matrices: Tensor, labels: Tensor, sharpness: float, larger_is_closer: bool
) -> Tensor:
    """Compute the definition, pair by pair in Python floats."""
    batch = len(labels)
    mined = torch.zeros(batch, batch, dtype=torch.float64)
    for i in range(batch):
        for j in range(batch):
            values = matrices[:, i, j].tolist()
            wants_farthest = bool(labels[i] == labels[j])
            if larger_is_closer:
                sign = -1 if wants_farthest else 1
            else:
                sign = 1 if wants_farthest else -1
            exponents = [sign * sharpness * value for value in values]
            top = max(exponents)
            weights = [math.exp(e - top) for e in exponents]
            weighted = sum(w * v for w, v in zip(weights, values, strict=True))
            mined[i, j] = weighted / sum(weights)
    return mined


def mine_views_by_loops(views: Tensor, labels: Tensor, kind: str, sharpness: float) -> Tensor:
    """Return the mined matrix, every distance measured by itself in float64."""
    unit = views.double() / views.double().norm(dim=2, keepdim=True)
    difference = unit[:, :, None] - unit[:, None]
    matrices = {
        "euclidean": (difference**2).sum(dim=3).sqrt(),
        "cosine": (unit[:, :, None] * unit[:, None]).sum(dim=3),
    }[kind]
    return mine_by_loops(matrices, labels, sharpness, larger_is_closer=kind == "cosine")


# The rule


def test_mining_two_views_by_hand() -> None:
    # Weights of values 1 and 3 differ by exp(2 * sharpness) = 3: a quarter and three quarters.
    matrices = torch.tensor([1.0, 3.0])[:, None, None].expand(2, 2, 2)
    is_positive = torch.tensor([[True, False], [False, True]])
    mined = mine_within_pairs(
        matrices, is_positive, sharpness=math.log(3) / 2, larger_is_closer=False
    )
    assert torch.allclose(mined, torch.tensor([[2.5, 1.5], [1.5, 2.5]]))
    mined = mine_within_pairs(
        matrices, is_positive, sharpness=math.log(3) / 2, larger_is_closer=True
    )
    assert torch.allclose(mined, torch.tensor([[1.5, 2.5], [2.5, 1.5]]))


@pytest.mark.parametrize("larger_is_closer", [False, True])
@pytest.mark.parametrize("views", [1, 2, 7])
@pytest.mark.parametrize("sharpness", [0.5, 32.0])
def test_mining_equals_plain_loops(views: int, sharpness: float, larger_is_closer: bool) -> None:
    generator = torch.Generator().manual_seed(views)
    matrices = torch.randn((views, 8, 8), generator=generator, dtype=torch.float64)
    mined = mine_within_pairs(
        matrices,
        LABELS[:, None] == LABELS,
        sharpness=sharpness,
        larger_is_closer=larger_is_closer,
    )
    expected = mine_by_loops(matrices, LABELS, sharpness, larger_is_closer)
    assert torch.allclose(mined, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("larger_is_closer", [False, True])
def test_mining_one_view_returns_it(larger_is_closer: bool) -> None:
    matrix = torch.randn((1, 8, 8), generator=torch.Generator().manual_seed(0))
    mined = mine_within_pairs(
        matrix, LABELS[:, None] == LABELS, sharpness=32.0, larger_is_closer=larger_is_closer
    )
    assert torch.equal(mined, matrix[0])


def test_larger_is_closer_flips_the_direction() -> None:
    matrices = torch.randn((6, 8, 8), generator=torch.Generator().manual_seed(0))
    is_positive = LABELS[:, None] == LABELS

    def mine(values: Tensor, positive: Tensor, larger_is_closer: bool) -> Tensor:
        return mine_within_pairs(values, positive, sharpness=8.0, larger_is_closer=larger_is_closer)

    distances_mined = mine(matrices, is_positive, False)
    assert torch.equal(mine(-matrices, is_positive, True), -distances_mined)
    assert torch.equal(mine(matrices, ~is_positive, True), distances_mined)
    assert not torch.allclose(mine(matrices, is_positive, True), distances_mined, atol=0.1)


def test_mined_distances_lie_on_the_hard_side_of_the_mean() -> None:
    matrices = compute_pair_matrices(make_views(), distances.LpDistance())
    is_positive = LABELS[:, None] == LABELS
    others = ~torch.eye(8, dtype=torch.bool)
    mined = mine_within_pairs(matrices, is_positive, sharpness=4.0, larger_is_closer=False)
    assert bool((mined > matrices.mean(dim=0))[is_positive & others].all())
    assert bool((mined < matrices.mean(dim=0))[~is_positive].all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("larger_is_closer", [False, True])
def test_low_sharpness_gives_the_mean(dtype: torch.dtype, larger_is_closer: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = 2 * torch.rand((8, 8, 8), generator=generator, dtype=dtype)
    mined = mine_within_pairs(
        matrices, LABELS[:, None] == LABELS, sharpness=1e-3, larger_is_closer=larger_is_closer
    )
    # To first order the mined value is mean +- sharpness * variance, and the variance is below 1.
    assert float((mined - matrices.mean(dim=0)).abs().max()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("larger_is_closer", [False, True])
def test_high_sharpness_gives_the_extreme(dtype: torch.dtype, larger_is_closer: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = 2 * torch.rand((8, 8, 8), generator=generator, dtype=dtype)
    matrices.requires_grad_()
    is_positive = LABELS[:, None] == LABELS
    mined = mine_within_pairs(
        matrices, is_positive, sharpness=1e4, larger_is_closer=larger_is_closer
    )
    largest, smallest = matrices.amax(dim=0), matrices.amin(dim=0)
    takes_largest = ~is_positive if larger_is_closer else is_positive
    expected = torch.where(takes_largest, largest, smallest)
    # Every other view adds at most max_x x exp(-sharpness * x) = 1 / (e * sharpness).
    assert float((mined - expected).detach().abs().max()) <= 8 / (math.e * 1e4)
    mined.sum().backward()
    assert matrices.grad is not None
    assert bool(torch.isfinite(matrices.grad).all())


@pytest.mark.parametrize("larger_is_closer", [False, True])
def test_mining_gradient_counts_the_weights(larger_is_closer: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    matrices = torch.rand((3, 4, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    is_positive = LABELS[:4, None] == LABELS[:4]

    def mine(values: Tensor) -> Tensor:
        return mine_within_pairs(
            values, is_positive, sharpness=5.0, larger_is_closer=larger_is_closer
        )

    assert torch.autograd.gradcheck(mine, (matrices,))
    # Detached weights would give gradients within [0, 1]: the selected value alone.
    mine(matrices).sum().backward()
    assert matrices.grad is not None
    assert float(matrices.grad.min()) < 0


def test_mining_refuses_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"\(5, 8, 8\) and \(7, 7\)"):
        mine_within_pairs(
            torch.zeros(5, 8, 8),
            torch.zeros(7, 7, dtype=torch.bool),
            sharpness=1.0,
            larger_is_closer=False,
        )
    with pytest.raises(ValueError, match=r"\(8, 8\) and \(8, 8\)"):
        mine_within_pairs(
            torch.zeros(8, 8),
            torch.zeros(8, 8, dtype=torch.bool),
            sharpness=1.0,
            larger_is_closer=False,
        )


@pytest.mark.parametrize("sharpness", [0.0, -1.0, math.nan])
def test_sharpness_that_is_not_positive_is_refused(sharpness: float) -> None:
    with pytest.raises(ValueError, match="must be > 0"):
        mine_within_pairs(
            torch.zeros(2, 8, 8),
            torch.zeros(8, 8, dtype=torch.bool),
            sharpness=sharpness,
            larger_is_closer=False,
        )
    with pytest.raises(ValueError, match=f"sharpness is {sharpness}"):
        WithinPairLoss(losses.ContrastiveLoss(), sharpness=sharpness)


@pytest.mark.parametrize("name", DISTANCES)
def test_pair_matrices_equal_a_loop_over_views(name: str) -> None:
    views, distance = make_views(), DISTANCES[name]()
    found = compute_pair_matrices(views, distance)
    assert found.shape == (5, 8, 8)
    for view, matrix in zip(views, found, strict=True):
        assert torch.allclose(matrix, distance(view), rtol=1e-12, atol=1e-12)


# The golden vectors


@pytest.mark.parametrize("file", ["a", "b"])
@pytest.mark.parametrize("kind", ["euclidean", "cosine"])
def test_mined_matrix_equals_golden(file: str, kind: str) -> None:
    golden = np.load(GOLDEN / f"within_pair_mining_{file}.npz")
    labels = torch.from_numpy(golden["labels"])
    distance = DISTANCES[kind]()
    mined = mine_within_pairs(
        compute_pair_matrices(torch.from_numpy(golden["views"]), distance),
        labels[:, None] == labels,
        sharpness=32.0,
        larger_is_closer=distance.is_inverted,
    )
    defined = ~torch.eye(len(labels), dtype=torch.bool)
    difference = mined - torch.from_numpy(golden[f"mined_{kind}"])
    assert float(difference[defined].abs().max()) < 2e-6


@pytest.mark.parametrize(("file", "name"), GOLDEN_LOSSES)
def test_loss_and_gradient_equal_golden(file: str, name: str) -> None:
    golden = np.load(GOLDEN / f"within_pair_mining_{file}.npz")
    base_loss = GOLDEN_LOSSES[file, name]()
    loss = WithinPairLoss(base_loss, sharpness=32.0)
    views, labels = torch.from_numpy(golden["views"]), torch.from_numpy(golden["labels"])
    value, gradient = run(loss, views, labels)
    assert float(value) == pytest.approx(float(golden[f"loss_{name}"]), rel=1e-5)
    expected = torch.from_numpy(golden[f"grad_{name}"])
    assert relative_error(gradient, expected) < 1e-4
    assert float((gradient - expected).abs().max() / expected.abs().max()) < 1e-4
    if name == "margin":
        beta = torch.from_numpy(golden["grad_margin_beta"])
        assert relative_error(base_loss.beta.grad, beta) < 1e-4


# The loss


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_one_view_equals_the_unmined_loss(name: str) -> None:
    embeddings = make_views(views=1)[0]
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), embeddings[None])
    plain = embeddings.clone().requires_grad_()
    expected = PAIR_LOSSES[name]()(plain, LABELS)
    expected.backward()
    assert plain.grad is not None
    assert float(expected.detach()) > 0
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert relative_error(gradient[0], plain.grad) < 1e-10


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_equal_views_equal_one_view(name: str) -> None:
    embeddings = make_views(views=1)
    one, one_gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), embeddings)
    many, many_gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), embeddings.expand(6, -1, -1))
    assert float(many) == pytest.approx(float(one), rel=1e-10)
    assert relative_error(many_gradient.sum(dim=0), one_gradient[0]) < 1e-8


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_many_views_are_harder_than_their_mean(name: str) -> None:
    views = make_views(spread=0.5)
    matrices = compute_pair_matrices(views, PAIR_LOSSES[name]().distance)
    base_loss = PAIR_LOSSES[name]()
    base_loss.distance = MinedDistance(base_loss.distance, matrices.mean(dim=0))
    mean_value = base_loss(views.mean(dim=0), LABELS)
    mined_value, _ = run(WithinPairLoss(PAIR_LOSSES[name]()), views)
    assert float(mined_value) > float(mean_value.detach())


@pytest.mark.parametrize("name", FOUR_LOSSES)
def test_loss_gradient_passes_gradcheck(name: str) -> None:
    loss = WithinPairLoss(PAIR_LOSSES[name](), sharpness=4.0).double()
    views = make_views(views=3, dim=4).requires_grad_()
    assert torch.autograd.gradcheck(lambda v: loss(v, LABELS), (views,))


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_float64_stays_float64(name: str) -> None:
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), make_views())
    assert value.dtype == gradient.dtype == torch.float64
    single, _ = run(WithinPairLoss(PAIR_LOSSES[name]()), make_views().float())
    assert single.dtype == torch.float32


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_order_of_views_and_images_does_not_matter(name: str) -> None:
    views = make_views()
    expected, expected_gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), views)
    generator = torch.Generator().manual_seed(1)
    view_order = torch.randperm(5, generator=generator)
    image_order = torch.randperm(8, generator=generator)
    shuffled = views[view_order][:, image_order]
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), shuffled, LABELS[image_order])
    assert float(value) == pytest.approx(float(expected), rel=1e-10)
    assert relative_error(gradient, expected_gradient[view_order][:, image_order]) < 1e-8


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_same_input_gives_same_loss(name: str) -> None:
    loss = WithinPairLoss(PAIR_LOSSES[name]())
    first, first_gradient = run(loss, make_views().float())
    again, again_gradient = run(loss, make_views().float())
    assert torch.equal(first, again)
    assert torch.equal(first_gradient, again_gradient)


def test_norm_of_views_does_not_matter() -> None:
    views = make_views()
    scale = torch.rand((5, 8, 1), generator=torch.Generator().manual_seed(1)).double() + 0.1
    expected, _ = run(WithinPairLoss(losses.ContrastiveLoss()), views)
    value, _ = run(WithinPairLoss(losses.ContrastiveLoss()), views * scale)
    assert float(value) == pytest.approx(float(expected), rel=1e-10)


def test_margin_beta_gets_a_gradient() -> None:
    base_loss = losses.MarginLoss(margin=0.0, beta=0.05, learn_beta=True)
    loss = WithinPairLoss(base_loss)
    assert [name for name, _ in loss.named_parameters()] == ["base_loss.beta"]
    run(loss, make_views().float())
    # An active positive pair has slope -1 in beta, an active negative one +1; the loss divides by
    # their number. Distances all exceed so small a beta: only positive pairs are active.
    assert float(base_loss.beta.grad) == pytest.approx(-1.0, abs=1e-6)


def test_margin_beta_per_class_gets_gradients() -> None:
    base_loss = losses.MarginLoss(margin=0.0, beta=0.05, learn_beta=True, num_classes=4)
    run(WithinPairLoss(base_loss), make_views().float())
    assert base_loss.beta.grad.shape == (4,)
    assert bool((base_loss.beta.grad[:3] < 0).all())
    assert float(base_loss.beta.grad[3]) == 0  # its one image is in no triplet


# Accuracy on a full batch, where torch.cdist multiplies matrices instead of subtracting


def full_batch() -> tuple[Tensor, Tensor]:
    """8 classes of 4 images, 64 views: 5% of 32 dimensions dropped and a little noise, float32."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(8).repeat_interleave(4)
    centres = torch.randn((8, 32), generator=generator)[labels]
    images = centres + 0.3 * torch.randn((32, 32), generator=generator)
    kept = (torch.rand((64, 32, 32), generator=generator) >= 0.05) / 0.95
    noise = 0.02 * torch.randn((64, 32, 32), generator=generator)
    return (images + noise) * kept, labels


def exact_loss(name: str, views: Tensor, labels: Tensor) -> Tensor:
    """Compute contrastive or multi-similarity on soft extremes from float64 differences."""
    unit = views / views.norm(dim=2, keepdim=True)
    positive = (labels[:, None] == labels) & ~torch.eye(len(labels), dtype=torch.bool)
    negative = labels[:, None] != labels
    if name == "contrastive":
        difference = unit[:, :, None] - unit[:, None]
        values = torch.linalg.vector_norm(difference, dim=3)
        sign = torch.where(negative, -1.0, 1.0).double()
    else:
        values = unit @ unit.transpose(1, 2)
        sign = torch.where(negative, 1.0, -1.0).double()
    mined = (torch.softmax(32 * sign * values, dim=0) * values).sum(dim=0)
    if name == "contrastive":
        pull = torch.relu(mined[positive] - 0.1)
        push = torch.relu(1.2 - mined[negative])
        return pull[pull > 0].mean() + push[push > 0].mean()
    pull = torch.log(1 + (torch.exp(-2 * (mined - 0.5)) * positive).sum(dim=1)) / 2
    push = torch.log(1 + (torch.exp(50 * (mined - 0.5)) * negative).sum(dim=1)) / 50
    return (pull + push).mean()


@pytest.mark.parametrize("name", ["contrastive", "multi_similarity"])
def test_full_batch_gradient_is_close_to_float64(name: str) -> None:
    views, labels = full_batch()
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name](), sharpness=32.0), views, labels)
    exact_views = views.double().requires_grad_()
    expected = exact_loss(name, exact_views, labels)
    expected.backward()
    assert exact_views.grad is not None
    assert float(value) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert relative_error(gradient, exact_views.grad) < 1e-3


def test_full_batch_mined_distances_are_close_to_plain_loops() -> None:
    views, labels = full_batch()
    views, labels = views[:, :28], labels[:28]  # 26 and more rows make cdist multiply
    mined = mine_within_pairs(
        compute_pair_matrices(views, distances.LpDistance()),
        labels[:, None] == labels,
        sharpness=32.0,
        larger_is_closer=False,
    )
    expected = mine_views_by_loops(views, labels, "euclidean", sharpness=32.0)
    others = ~torch.eye(28, dtype=torch.bool)
    assert float((mined.double() - expected)[others].abs().max()) < 1e-5


# Half precision


def test_bfloat16_views_are_scored_in_float32() -> None:
    views = make_views().bfloat16()
    for name in FOUR_LOSSES:
        value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), views)
        expected, expected_gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), views.float())
        assert value.dtype == torch.float32
        assert torch.equal(value, expected)
        assert gradient.dtype == torch.bfloat16
        assert relative_error(gradient, expected_gradient) < 1e-2  # rounded to 8 bits at the end


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_autocast_leaves_float32_views_alone(name: str) -> None:
    expected, expected_gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), make_views().float())
    views = make_views().float().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = WithinPairLoss(PAIR_LOSSES[name]())(views, LABELS)
    value.backward()  # outside, as PyTorch asks
    assert torch.equal(value.detach(), expected)
    assert views.grad is not None
    assert torch.equal(views.grad, expected_gradient)


@pytest.mark.parametrize("name", FOUR_LOSSES)
def test_views_made_under_autocast_are_close_to_float32(name: str) -> None:
    torch.manual_seed(0)
    embedder = torch.nn.Linear(16, 32)
    features = torch.randn(5, 8, 16)

    def step(enabled: bool) -> tuple[float, Tensor]:
        embedder.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            views = embedder(features)
            assert views.dtype == (torch.bfloat16 if enabled else torch.float32)
            value = WithinPairLoss(PAIR_LOSSES[name]())(views, LABELS)
        value.backward()
        assert embedder.weight.grad is not None
        return float(value.detach()), embedder.weight.grad.clone()

    expected, expected_gradient = step(enabled=False)
    value, gradient = step(enabled=True)
    assert value == pytest.approx(expected, rel=5e-3)
    assert relative_error(gradient, expected_gradient) < 5e-2


# Degenerate batches


@pytest.mark.parametrize("name", FOUR_LOSSES)
@pytest.mark.parametrize(
    "labels",
    [[4, 4, 4, 4], [0, 1, 2, 3], [5, 5], [5, 6], [7], [0, 0, 0, 1]],
    ids=["one_class", "singletons", "positive_pair", "negative_pair", "one_image", "lone_image"],
)
def test_degenerate_batches_give_finite_gradients(name: str, labels: list[int]) -> None:
    views = make_views(batch=len(labels)).float()
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), views, torch.tensor(labels))
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


def test_one_pair_is_judged_by_its_hardest_view() -> None:
    views = make_views(views=4, batch=2)
    unit = views / views.norm(dim=2, keepdim=True)
    distance = (unit[:, 0] - unit[:, 1]).norm(dim=1)
    sharp = {"sharpness": 1e6}
    same, _ = run(
        WithinPairLoss(losses.ContrastiveLoss(pos_margin=0), **sharp), views, torch.tensor([0, 0])
    )
    assert float(same) == pytest.approx(float(distance.max()), rel=1e-9)
    apart, _ = run(
        WithinPairLoss(losses.ContrastiveLoss(neg_margin=2), **sharp), views, torch.tensor([0, 1])
    )
    assert float(apart) == pytest.approx(2 - float(distance.min()), rel=1e-9)


@pytest.mark.parametrize("batch", [8, 32])  # either way in which cdist computes
@pytest.mark.parametrize("name", FOUR_LOSSES)
def test_an_image_twice_in_a_batch_gives_finite_gradients(name: str, batch: int) -> None:
    views = make_views(batch=batch).float()
    views[:, 1] = views[:, 0]
    labels = torch.arange(batch) // 2
    value, gradient = run(WithinPairLoss(PAIR_LOSSES[name]()), views, labels)
    assert bool(torch.isfinite(value))
    assert bool(torch.isfinite(gradient).all())


def test_shapes_that_do_not_fit_print_both_sizes() -> None:
    loss = WithinPairLoss(losses.ContrastiveLoss())
    with pytest.raises(ValueError, match=r"\(5, 8, 6\) and \(7,\)"):
        loss(make_views(), LABELS[:7])
    with pytest.raises(ValueError, match=r"\(8, 6\) and \(8,\)"):
        loss(make_views()[0], LABELS)
    with pytest.raises(ValueError, match=r"\(5, 8, 6\) and \(8, 1\)"):
        loss(make_views(), LABELS[:, None])


# Threshold miners


def triplets_by_loops(labels: Tensor) -> list[tuple[int, int, int]]:
    every = range(len(labels))
    return [
        (a, p, n)
        for a in every
        for p in every
        for n in every
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
    ]


def mean_hinge(values: list[float]) -> float:
    """Average of the non-zero hinge losses, as pytorch-metric-learning's default reducer."""
    active = [value for value in values if value > 0]
    return sum(active) / len(active)


@pytest.mark.parametrize("kind", ["all", "hard", "semihard"])
@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_triplet_margin_miner_picks_by_mined_values(kind: str, measure: str) -> None:
    distance, views = DISTANCES[measure](), make_views(spread=0.6)
    loss = WithinPairLoss(
        losses.TripletMarginLoss(margin=0.5, distance=distance),
        sharpness=8.0,
        threshold_miner=miners.TripletMarginMiner(
            margin=0.1, type_of_triplets=kind, distance=distance
        ),
    )
    mined = mine_views_by_loops(views, LABELS, measure, 8.0)
    towards = -1 if measure == "cosine" else 1
    picked = []
    for a, p, n in triplets_by_loops(LABELS):
        gap = towards * float(mined[a, n] - mined[a, p])
        allowed = {"all": gap <= 0.1, "hard": gap <= 0, "semihard": 0 < gap <= 0.1}[kind]
        if allowed:
            picked.append(0.5 - gap)
    assert 0 < len(picked) < len(triplets_by_loops(LABELS))
    assert float(run(loss, views)[0]) == pytest.approx(mean_hinge(picked), rel=1e-9)


def multi_similarity_by_loops(
    mined: Tensor, labels: Tensor, epsilon: float
) -> tuple[float, list[tuple[int, int]]]:
    """Multi-similarity loss (alpha 2, beta 50, base 0.5) on the pairs of its miner."""
    every, total, picked = range(len(labels)), 0.0, []
    for i in every:
        positives = [j for j in every if j != i and labels[j] == labels[i]]
        negatives = [j for j in every if labels[j] != labels[i]]
        # Without a positive the threshold for negatives is infinite, and the other way round.
        hardest_positive = min((float(mined[i, j]) for j in positives), default=math.inf)
        hardest_negative = max((float(mined[i, j]) for j in negatives), default=-math.inf)
        pull = [j for j in positives if float(mined[i, j]) - epsilon < hardest_negative]
        push = [j for j in negatives if float(mined[i, j]) + epsilon > hardest_positive]
        picked += [(i, j) for j in pull + push]
        if pull:
            total += math.log(1 + sum(math.exp(-2 * (float(mined[i, j]) - 0.5)) for j in pull)) / 2
        if push:
            total += math.log(1 + sum(math.exp(50 * (float(mined[i, j]) - 0.5)) for j in push)) / 50
    return total / len(labels), picked


@pytest.mark.parametrize("epsilon", [-0.2, 0.1, 0.5])
def test_multi_similarity_miner_picks_by_mined_values(epsilon: float) -> None:
    views = make_views()
    loss = WithinPairLoss(
        losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        sharpness=8.0,
        threshold_miner=miners.MultiSimilarityMiner(epsilon=epsilon),
    )
    mined = mine_views_by_loops(views, LABELS, "cosine", 8.0)
    expected, picked = multi_similarity_by_loops(mined, LABELS, epsilon)
    assert 0 < len(picked) < 8 * 7
    assert float(run(loss, views)[0]) == pytest.approx(expected, rel=1e-9)


def test_pair_margin_miner_picks_by_mined_values() -> None:
    views = make_views()
    loss = WithinPairLoss(
        losses.ContrastiveLoss(pos_margin=0, neg_margin=2),
        sharpness=8.0,
        threshold_miner=miners.PairMarginMiner(pos_margin=1.0, neg_margin=1.2),
    )
    mined = mine_views_by_loops(views, LABELS, "euclidean", 8.0)
    pairs = [(i, j) for i in range(8) for j in range(8) if i != j]
    pull = [float(mined[i, j]) for i, j in pairs if LABELS[i] == LABELS[j] and mined[i, j] > 1.0]
    push = [
        2 - float(mined[i, j]) for i, j in pairs if LABELS[i] != LABELS[j] and mined[i, j] < 1.2
    ]
    assert 0 < len(pull) + len(push) < len(pairs)
    expected = mean_hinge(pull) + mean_hinge(push)
    assert float(run(loss, views)[0]) == pytest.approx(expected, rel=1e-9)


def test_batch_hard_miner_picks_by_mined_values() -> None:
    views = make_views()
    loss = WithinPairLoss(
        losses.TripletMarginLoss(margin=0.5),
        sharpness=8.0,
        threshold_miner=miners.BatchHardMiner(),
    )
    mined = mine_views_by_loops(views, LABELS, "euclidean", 8.0)
    picked = []
    for i in range(7):  # the last image has no positive
        farthest = max(float(mined[i, j]) for j in range(8) if j != i and LABELS[j] == LABELS[i])
        closest = min(float(mined[i, j]) for j in range(8) if LABELS[j] != LABELS[i])
        picked.append(farthest - closest + 0.5)
    assert float(run(loss, views)[0]) == pytest.approx(mean_hinge(picked), rel=1e-9)


THRESHOLD_MINERS: dict[str, Callable[[], Any]] = {
    "multi_similarity": lambda: miners.MultiSimilarityMiner(distance=distances.LpDistance()),
    "pair_margin": lambda: miners.PairMarginMiner(),
    "triplet_margin": lambda: miners.TripletMarginMiner(),
    "batch_hard": lambda: miners.BatchHardMiner(),
    "batch_easy_hard": lambda: miners.BatchEasyHardMiner(),
    "distance_weighted": lambda: miners.DistanceWeightedMiner(),
    "hdc": lambda: miners.HDCMiner(),
    "uniform_histogram": lambda: miners.UniformHistogramMiner(),
}


@pytest.mark.parametrize("miner", THRESHOLD_MINERS)
@pytest.mark.parametrize("name", ["contrastive", "triplet", "margin"])
def test_every_threshold_miner_works_on_the_mined_matrix(miner: str, name: str) -> None:
    # Positive pairs get far, negative pairs close, so that every miner finds some to pick.
    views = make_views(views=3, batch=16, spread=0.8)
    labels = torch.arange(16) // 4
    loss = WithinPairLoss(PAIR_LOSSES[name](), threshold_miner=THRESHOLD_MINERS[miner]())
    torch.manual_seed(0)  # two of the miners draw at random
    value, gradient = run(loss, views, labels)
    assert float(value) > 0
    assert bool(torch.isfinite(gradient).all())
    assert float(gradient.abs().max()) > 0


def test_miner_that_measures_embeddings_itself_is_refused() -> None:
    """Angles need points, and a mined matrix has none: an error, not a wrong number."""
    loss = WithinPairLoss(losses.TripletMarginLoss(), threshold_miner=miners.AngularMiner())
    with pytest.raises(ValueError, match=r"pair"):
        loss(make_views(), LABELS)


@pytest.mark.parametrize("measure", ["euclidean", "cosine"])
def test_miner_that_writes_into_its_matrix_leaves_the_loss_alone(measure: str) -> None:
    distance, views = DISTANCES[measure](), make_views()
    # So wide an epsilon picks every pair, having written infinities into the matrix it was given.
    miner = miners.MultiSimilarityMiner(epsilon=100, distance=distance)
    base_loss = losses.ContrastiveLoss(pos_margin=0.3, neg_margin=0.9, distance=distance)
    # The lone image has no positive, which leaves its pairs out of the miner's choice: drop it.
    expected, expected_gradient = run(WithinPairLoss(base_loss), views[:, :7], LABELS[:7])
    value, gradient = run(
        WithinPairLoss(base_loss, threshold_miner=miner), views[:, :7], LABELS[:7]
    )
    assert float(value) == pytest.approx(float(expected), rel=1e-12)
    assert relative_error(gradient, expected_gradient) < 1e-12


def test_mined_distance_hands_out_copies() -> None:
    mined, embeddings = torch.ones(3, 3), torch.zeros(3, 2)
    distance = MinedDistance(distances.LpDistance(), mined)
    distance(embeddings).fill_(torch.inf)
    assert torch.equal(distance(embeddings, embeddings), torch.ones(3, 3))


@pytest.mark.parametrize("name", DISTANCES)
def test_mined_distance_keeps_direction_and_power(name: str) -> None:
    own = DISTANCES[name]()
    mined = MinedDistance(own, torch.ones(3, 3))
    assert (mined.is_inverted, mined.power, mined.p) == (own.is_inverted, own.power, own.p)


# What is refused


@pytest.mark.parametrize("classes", [4, 8])  # 8: as many proxies as images
@pytest.mark.parametrize("loss_class", [losses.ProxyNCALoss, losses.NormalizedSoftmaxLoss])
def test_proxy_losses_are_refused(loss_class: Any, classes: int) -> None:
    loss = WithinPairLoss(loss_class(num_classes=classes, embedding_size=6))
    with pytest.raises(ValueError, match=r"proxies.*pairs of the batch"):
        loss(make_views(), LABELS)


@pytest.mark.parametrize(
    "other",
    [distances.CosineSimilarity(), distances.LpDistance(power=2), distances.LpDistance(p=1)],
)
def test_miner_with_another_distance_is_refused(other: Any) -> None:
    with pytest.raises(ValueError, match="same distance") as caught:
        WithinPairLoss(
            losses.TripletMarginLoss(), threshold_miner=miners.TripletMarginMiner(distance=other)
        )
    for owner in (losses.TripletMarginLoss(), miners.TripletMarginMiner(distance=other)):
        assert describe_distance(owner) in str(caught.value)


def test_own_distances_are_restored_after_a_call() -> None:
    base_loss, miner = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
    loss_distance, miner_distance = base_loss.distance, miner.distance
    run(WithinPairLoss(base_loss, threshold_miner=miner), make_views())
    assert base_loss.distance is loss_distance
    assert miner.distance is miner_distance


def test_own_distances_are_restored_after_an_error() -> None:
    proxy_loss = losses.ProxyNCALoss(num_classes=4, embedding_size=6)
    own = proxy_loss.distance
    with pytest.raises(ValueError, match="proxies"):
        WithinPairLoss(proxy_loss)(make_views(), LABELS)
    assert proxy_loss.distance is own
    miner = miners.EmbeddingsAlreadyPackagedAsTriplets()  # refuses batches not divisible by 3
    own = miner.distance
    with pytest.raises(AssertionError):
        WithinPairLoss(losses.TripletMarginLoss(), threshold_miner=miner)(make_views(), LABELS)
    assert miner.distance is own
