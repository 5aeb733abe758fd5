"""Rows of the table: every one builds the loss that its name says, mined or not."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor, nn
from torch.nn.functional import normalize

from wpm.errors import UserError
from wpm.losses import (
    CenterSpreadRegularizer,
    PlainLoss,
    PublishedArcFaceLoss,
    PublishedNTXentLoss,
    UnitZeroMeanRegularizer,
    build_loss,
)
from wpm.rows import PRETRAINED, Row
from wpm.spaces import known_losses, load_space
from wpm.within_pair import WithinPairLoss

LABELS = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3])
CLASSES, DIM = 5, 6
SIZE: dict[str, int] = {"num_classes": CLASSES, "embedding_size": DIM}

# Settings under which every loss is active on random embeddings.
PARAMETERS: dict[str, dict[str, float]] = {
    "contrastive": {"pos_margin": 0.1, "neg_margin": 1.4},
    "triplet": {"margin": 0.3},
    "ntxent": {"temperature": 0.2},
    "nca": {"softmax_scale": 3.0},
    "margin": {"margin": 0.2, "beta": 1.1},
    "margin_per_class": {"margin": 0.2, "beta": 1.1},
    "fast_ap": {"num_bins": 7},
    "snr_contrastive": {"pos_margin": 0.1, "neg_margin": 1.6, "regularizer_weight": 0.5},
    "circle": {"m": 0.3, "gamma": 16.0},
    "supcon": {"temperature": 0.2},
    "lifted_structure": {"neg_margin": 1.4, "pos_margin": 0.1},
    "multi_similarity": {"alpha": 3.0, "beta": 40.0, "base": 0.6},
    "multi_similarity_miner": {"alpha": 3.0, "beta": 40.0, "base": 0.6, "epsilon": 0.1},
    "proxy_nca": {"softmax_scale": 4.0},
    "proxy_anchor": {"margin": 0.1, "alpha": 16.0},
    "normalized_softmax": {"temperature": 0.2},
    "cosface": {"margin": 0.3, "scale": 20.0},
    "arcface": {"margin": 20.0, "scale": 20.0},
    "soft_triple": {
        "la": 10.0,
        "gamma": 0.2,
        "margin": 0.1,
        "reg_weight": 0.3,
        "centers_per_class": 3,
    },
}
# The same losses from the library, the published parameters in their places.
LIBRARY: dict[str, Callable[[], Any]] = {
    "contrastive": lambda: losses.ContrastiveLoss(pos_margin=0.1, neg_margin=1.4),
    "triplet": lambda: losses.TripletMarginLoss(margin=0.3),
    "ntxent": lambda: losses.NTXentLoss(temperature=0.2),
    "nca": lambda: losses.NCALoss(softmax_scale=3.0),
    "margin": lambda: losses.MarginLoss(margin=0.2, beta=1.1),
    "margin_per_class": lambda: losses.MarginLoss(margin=0.2, beta=1.1, num_classes=CLASSES),
    "fast_ap": lambda: losses.FastAPLoss(num_bins=7),
    "snr_contrastive": lambda: losses.SignalToNoiseRatioContrastiveLoss(
        pos_margin=0.1, neg_margin=1.6
    ),
    "circle": lambda: losses.CircleLoss(m=0.3, gamma=16.0),
    "supcon": lambda: losses.SupConLoss(temperature=0.2),
    "lifted_structure": lambda: losses.LiftedStructureLoss(neg_margin=1.4, pos_margin=0.1),
    "multi_similarity": lambda: losses.MultiSimilarityLoss(alpha=3, beta=40, base=0.6),
    "multi_similarity_miner": lambda: losses.MultiSimilarityLoss(alpha=3, beta=40, base=0.6),
    "proxy_nca": lambda: losses.ProxyNCALoss(**SIZE, softmax_scale=4.0),
    "proxy_anchor": lambda: losses.ProxyAnchorLoss(**SIZE, margin=0.1, alpha=16.0),
    "normalized_softmax": lambda: losses.NormalizedSoftmaxLoss(**SIZE, temperature=0.2),
    "cosface": lambda: losses.CosFaceLoss(**SIZE, margin=0.3, scale=20.0),
    "arcface": lambda: losses.ArcFaceLoss(**SIZE, margin=20.0, scale=20.0),
    "soft_triple": lambda: losses.SoftTripleLoss(
        **SIZE, centers_per_class=3, la=10.0, gamma=0.2, margin=0.1
    ),
}
WITH_WEIGHTS = (
    "proxy_nca",
    "proxy_anchor",
    "normalized_softmax",
    "cosface",
    "arcface",
    "soft_triple",
)
MINABLE = [name for name in PARAMETERS if name not in WITH_WEIGHTS]


def build(name: str, mined: bool = False, **changes: float) -> nn.Module:
    """Build a row with the same weights every time."""
    parameters = {**PARAMETERS[name], "sharpness": 8.0, **changes}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_loss(
            Row(name, "wpm" if mined else None), parameters, num_classes=CLASSES, embedding_dim=DIM
        ).double()


def make_embeddings(*leading: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((*leading, len(LABELS), DIM), generator=generator, dtype=torch.float64)


def evaluate(loss: Any, embeddings: Tensor, *pairs: Any) -> float:
    return float(loss(embeddings, LABELS, *pairs).detach())


def centre_distances_by_loops(centres: Tensor, per_class: int) -> list[float]:
    """Return sqrt(2 + 1e-5 - 2 cos) for every two centres of a class."""
    unit = normalize(centres, dim=1)
    return [
        math.sqrt(2 + 1e-5 - 2 * float(unit[i] @ unit[j]))
        for i in range(len(unit))
        for j in range(i + 1, len(unit))
        if i // per_class == j // per_class
    ]


def expected_value(name: str, embeddings: Tensor) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        library = LIBRARY[name]().double()
    if name == "multi_similarity_miner":
        pairs = miners.MultiSimilarityMiner(epsilon=0.1)(embeddings, LABELS)
        return evaluate(library, embeddings, pairs)
    value = evaluate(library, embeddings)
    if name == "snr_contrastive":
        sums = [abs(float(unit.sum())) for unit in normalize(embeddings, dim=1)]
        value += 0.5 * sum(sums) / len(sums)
    if name == "soft_triple":
        spread = centre_distances_by_loops(library.fc.detach().t(), 3)
        value += 0.3 * sum(spread) / len(spread)
    return value


@pytest.mark.parametrize("name", PARAMETERS)
def test_plain_row_equals_the_library(name: str) -> None:
    loss = build(name)
    assert isinstance(loss, PlainLoss)
    embeddings = make_embeddings()
    expected = expected_value(name, embeddings)
    assert expected > 0
    assert evaluate(loss, embeddings) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", MINABLE)
def test_mined_row_with_one_view_equals_the_library(name: str) -> None:
    loss = build(name, mined=True)
    assert isinstance(loss, WithinPairLoss)
    assert loss.sharpness == 8.0
    embeddings = make_embeddings()
    expected = expected_value(name, embeddings)
    assert evaluate(loss, embeddings[None]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", MINABLE)
def test_mined_row_depends_on_sharpness(name: str) -> None:
    views = make_embeddings() + 0.4 * make_embeddings(4)
    soft, hard = (evaluate(build(name, mined=True, sharpness=s), views) for s in (1.0, 64.0))
    assert soft < hard  # the harder the selection, the harder the pairs


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_rows_with_weights_of_their_own_cannot_be_mined(name: str) -> None:
    with pytest.raises(UserError, match=rf"row {name}\+wpm: there is no pair to mine within"):
        load_space(Row(name, "wpm"))
    with pytest.raises(ValueError, match="within-pair mining needs a loss"):
        build(name, mined=True)(make_embeddings(4), LABELS)


@pytest.mark.parametrize("mined", [False, True])
def test_epsilon_chooses_pairs(mined: bool) -> None:
    views = make_embeddings() + 0.1 * make_embeddings(4)
    few, many = (
        evaluate(
            build("multi_similarity_miner", mined, epsilon=epsilon),
            views if mined else views[0],
        )
        for epsilon in (-0.5, 1.0)
    )
    assert few < many


@pytest.mark.parametrize("name", PARAMETERS)
def test_own_parameters_have_the_size_of_the_set_and_get_gradients(name: str) -> None:
    shapes = {
        "margin": (1,),
        "margin_per_class": (CLASSES,),
        "proxy_nca": (CLASSES, DIM),
        "proxy_anchor": (CLASSES, DIM),
        "normalized_softmax": (DIM, CLASSES),
        "cosface": (DIM, CLASSES),
        "arcface": (DIM, CLASSES),
        "soft_triple": (DIM, 3 * CLASSES),
    }
    loss = build(name)
    own = list(loss.parameters())
    assert [tuple(p.shape) for p in own] == ([shapes[name]] if name in shapes else [])
    loss(make_embeddings().requires_grad_(), LABELS).backward()
    for parameter in own:
        assert parameter.grad is not None
        assert bool(torch.isfinite(parameter.grad).all())
        assert float(parameter.grad.abs().max()) > 0


@pytest.mark.parametrize("name", ["margin", "margin_per_class"])
def test_beta_starts_at_its_parameter(name: str) -> None:
    (beta,) = build(name).parameters()
    assert bool((beta == torch.tensor(1.1)).all())


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_weights_come_from_the_global_generator(name: str) -> None:
    def weights(seed: int) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loss = build_loss(Row(name), PARAMETERS[name], num_classes=CLASSES, embedding_dim=DIM)
        return next(loss.parameters()).detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))


def test_zero_mean_regularizer_by_hand() -> None:
    # Normalised: (0.6, 0.8) and (0.6, -0.8), sums 1.4 and -0.2.
    embeddings = torch.tensor([[3.0, 4.0], [0.6, -0.8]])
    assert float(UnitZeroMeanRegularizer()(embeddings)) == pytest.approx((1.4 + 0.2) / 2)


def test_center_spread_by_hand() -> None:
    # Class 0: at right angles; class 1: opposite, at norms that do not count.
    centres = torch.tensor([[2.0, 0.0], [0.0, 5.0], [1.0, 0.0], [-3.0, 0.0]])
    expected = (math.sqrt(2 + 1e-5) + math.sqrt(4 + 1e-5)) / 2
    assert float(CenterSpreadRegularizer(2)(centres)) == pytest.approx(expected)


@pytest.mark.parametrize("per_class", [2, 3, 10])
def test_center_spread_equals_plain_loops(per_class: int) -> None:
    generator = torch.Generator().manual_seed(per_class)
    centres = torch.randn((4 * per_class, DIM), generator=generator, dtype=torch.float64)
    distances = centre_distances_by_loops(centres, per_class)
    found = float(CenterSpreadRegularizer(per_class)(centres))
    assert found == pytest.approx(sum(distances) / len(distances), rel=1e-10)


def test_center_spread_of_equal_centres_has_a_finite_gradient() -> None:
    centres = torch.ones((6, DIM), requires_grad=True)
    CenterSpreadRegularizer(3)(centres).backward()
    assert centres.grad is not None
    assert bool(torch.isfinite(centres.grad).all())


@pytest.mark.parametrize(("name", "value"), [("reg_weight", 0.0), ("centers_per_class", 1.0)])
def test_soft_triple_without_pairs_or_weight_has_no_regularizer(name: str, value: float) -> None:
    loss = build("soft_triple", False, **{name: value})
    assert isinstance(loss, PlainLoss)
    assert not loss.base_loss.weight_regularizer
    assert math.isfinite(evaluate(loss, make_embeddings()))


def test_unknown_row_lists_the_choices() -> None:
    with pytest.raises(UserError) as caught:
        build_loss(Row("softtriplet", "wpm"), {}, num_classes=CLASSES, embedding_dim=DIM)
    message = str(caught.value)
    assert "softtriplet+wpm" in message
    assert all(name in message for name in PARAMETERS)
    assert "\n" not in message


@pytest.mark.parametrize("name", PARAMETERS)
def test_missing_parameter_is_named(name: str) -> None:
    mined = name in MINABLE
    given = {**PARAMETERS[name], **({"sharpness": 8.0} if mined else {})}
    for missing in given:
        parameters = {key: value for key, value in given.items() if key != missing}
        with pytest.raises(UserError, match=rf"^row {name}\S* needs a value for {missing}$"):
            build_loss(
                Row(name, "wpm" if mined else None),
                parameters,
                num_classes=CLASSES,
                embedding_dim=DIM,
            )


def test_every_search_space_has_a_loss_tested_here() -> None:
    assert set(known_losses()) - {PRETRAINED} == set(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_search_space_sets_what_the_loss_needs(name: str) -> None:
    for mined in (False, True) if name in MINABLE else (False,):
        space = load_space(Row(name, "wpm" if mined else None))
        low = {key: limits.low for key, limits in space.searched.items()}
        parameters = space.complete(low)
        loss = build_loss(space.row, parameters, num_classes=CLASSES, embedding_dim=DIM)
        views = make_embeddings(3).float()
        value = loss(views if mined else views[0], LABELS)
        assert bool(torch.isfinite(value))
        # Nothing is searched that the loss does not read, beyond what training reads itself.
        of_training = {"classes_per_batch", "images_per_class", "embedding_dropout"}
        of_training |= {"channel_dropout", "metric_loss_lr", "metric_loss_weight_decay"}
        read = set(PARAMETERS[name]) | ({"sharpness"} if mined else set())
        assert parameters.keys() - of_training == read


@pytest.mark.parametrize("temperature", [1e-4, 2.4e-4, 1e-3, 0.0219, 0.2, 10.0, 100.0])
def test_ntxent_adds_the_published_floor_over_the_whole_range(temperature: float) -> None:
    """As version 0.9.88 of the library computed it, pair by pair, in float64."""
    generator = torch.Generator().manual_seed(0)
    embeddings = normalize(torch.randn(len(LABELS), DIM, generator=generator), dim=1)
    embeddings.requires_grad_()
    exact = embeddings.detach().double().requires_grad_()
    unit = normalize(exact, dim=1)
    cosines, terms = unit @ unit.T, []
    for anchor, label in enumerate(LABELS.tolist()):
        negatives = cosines[anchor][label != LABELS]
        for positive in range(len(LABELS)):
            if positive != anchor and LABELS[positive] == label:
                logits = torch.cat([cosines[anchor, positive][None], negatives]) / temperature
                terms.append(-torch.log(torch.softmax(logits, 0)[0] + 1e-20))
    expected = torch.stack(terms).mean()
    loss = PublishedNTXentLoss(temperature=temperature)(embeddings, LABELS)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert loss.item() <= -math.log(1e-20) * 1.0001, "the floor bounds it"
    loss.backward()
    expected.backward()
    assert embeddings.grad is not None and exact.grad is not None
    size = exact.grad.abs().max().item()
    assert torch.allclose(embeddings.grad.double(), exact.grad, rtol=1e-2, atol=1e-3 * size + 1e-9)


def test_ntxent_without_a_pair_is_zero() -> None:
    loss = PublishedNTXentLoss(temperature=0.1)
    assert loss(torch.eye(3, requires_grad=True), torch.arange(3)).item() == 0


@pytest.mark.parametrize("margin", [0.0, 20.0, 57.0, 80.0, 120.0, 179.0])
def test_arcface_adds_its_margin_beyond_180_degrees_too(margin: float) -> None:
    torch.manual_seed(0)
    loss = PublishedArcFaceLoss(**SIZE, margin=margin, scale=10.0)
    embeddings = normalize(torch.randn(len(LABELS), DIM), dim=1)
    weights = normalize(loss.W.detach().double(), dim=0)
    cosines = embeddings.double() @ weights
    for row, label in enumerate(LABELS.tolist()):
        angle = math.acos(cosines[row, label].clamp(-1, 1).item())
        cosines[row, label] = math.cos(angle + math.radians(margin))
    expected = nn.functional.cross_entropy(10.0 * cosines, LABELS)
    assert loss(embeddings, LABELS).item() == pytest.approx(expected.item(), rel=1e-5)


def test_arcface_has_a_finite_gradient_where_an_embedding_meets_its_weight() -> None:
    loss = PublishedArcFaceLoss(**SIZE, margin=20.0, scale=10.0)
    embeddings = loss.W.detach().T[:2].clone().requires_grad_()
    loss(embeddings, torch.tensor([0, 1])).backward()
    assert embeddings.grad is not None and torch.isfinite(embeddings.grad).all()
