"""Rows of the table: their names; and of each its loss, its space, its training."""

import csv
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from pytorch_metric_learning.regularizers import SparseCentersRegularizer
from torch import Tensor

from tests.support.tiny import (
    MINED,
    make_image_folder,
    make_pixels,
    smoke_protocol,
    trainval_pixels,
)
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.losses import CenterSpreadRegularizer, PlainLoss, build_loss
from wpm.rows import PRETRAINED, Row
from wpm.spaces import SearchSpace, known_losses, load_space, nothing_to_mine
from wpm.splits import Fold
from wpm.training.config import TrainingConfig
from wpm.training.fold import FoldTraining
from wpm.training.fold_parts import number_classes
from wpm.training.training import Training
from wpm.within_pair import WithinPairLoss

CPU = torch.device("cpu")
LOSSES = [name for name in known_losses() if name != PRETRAINED]
PROXY_LOSSES = [
    "arcface",
    "cosface",
    "normalized_softmax",
    "proxy_anchor",
    "proxy_nca",
    "soft_triple",
]
PAIR_LOSSES = [
    "circle",
    "contrastive",
    "fast_ap",
    "lifted_structure",
    "margin",
    "margin_per_class",
    "multi_similarity",
    "multi_similarity_miner",
    "nca",
    "ntxent",
    "snr_contrastive",
    "supcon",
    "triplet",
]
ALL_ROWS = [*LOSSES, *(f"{loss}+wpm" for loss in PAIR_LOSSES)]
DIM, CLASSES, IMAGES = 128, 5, 4
LABELS = torch.arange(CLASSES).repeat_interleave(IMAGES)

Array = NDArray[np.float64]
Parameters = Mapping[str, float]


def space_of(name: str) -> SearchSpace:
    return load_space(Row.parse(name))


def middle(space: SearchSpace) -> dict[str, float]:
    """Return the middle of every range, on its own scale, with the fixed values."""
    values: dict[str, float] = {}
    for name, r in space.searched.items():
        centre = math.sqrt(r.low * r.high) if r.scale == "log" else (r.low + r.high) / 2
        values[name] = round(centre) if r.type == "int" else centre
    return space.complete(values)


def points(space: SearchSpace) -> Iterator[dict[str, float]]:
    """Yield the published points, the middle, and every range's ends from the middle."""
    centre = middle(space)
    yield centre
    for point in space.published:
        if point.miner is None:
            yield space.complete(point.parameters)
    for name, r in space.searched.items():
        yield {**centre, name: r.low}
        yield {**centre, name: r.high}


def make_loss(name: str, parameters: Parameters | None = None, seed: int = 0) -> Any:
    row = Row.parse(name)
    values = dict(middle(space_of(row.loss)) if parameters is None else parameters)
    torch.manual_seed(seed)
    return build_loss(
        row, {**MINED, **values} if row.miner else values, num_classes=CLASSES, embedding_dim=DIM
    )


def make_embeddings(*leading: int) -> Tensor:
    """Return (*leading, B, D) embeddings, not normalised, as near one another as trained ones."""
    generator = torch.Generator().manual_seed(7)
    shared = torch.randn(DIM, generator=generator, dtype=torch.float64)
    centres = torch.randn(CLASSES, DIM, generator=generator, dtype=torch.float64)
    noise = torch.randn(*leading, len(LABELS), DIM, generator=generator, dtype=torch.float64)
    return (3 * (shared + 0.7 * centres[LABELS] + 0.5 * noise)).requires_grad_()


def unit(rows: Tensor) -> Array:
    values: Array = rows.detach().double().numpy()
    lengths: Array = np.linalg.norm(values, axis=-1, keepdims=True)
    return np.asarray(values / lengths)


def cross_entropy(logits: Array) -> float:
    """Average -log softmax at the label, a row at a time."""
    terms = []
    for row, label in zip(logits, LABELS.tolist(), strict=True):
        shifted = row - row.max()
        terms.append(math.log(sum(math.exp(v) for v in shifted)) - float(shifted[label]))
    return sum(terms) / len(terms)


def pairs(same: bool) -> list[tuple[int, int]]:
    count = len(LABELS)
    return [
        (i, j)
        for i in range(count)
        for j in range(count)
        if i != j and bool(LABELS[i] == LABELS[j]) == same
    ]


def mean_of_positive(terms: list[float]) -> float:
    kept = [t for t in terms if t > 0]
    return sum(kept) / len(kept) if kept else 0.0


# --- the formulas, written out -------------------------------------------------------------------


def check(
    name: str, parameters: Parameters, expected: float, loss: torch.nn.Module | None = None
) -> None:
    loss = loss or make_loss(name, parameters)
    assert loss(make_embeddings(), LABELS).item() == pytest.approx(expected, rel=1e-5)


def test_ntxent_is_cross_entropy_of_each_positive_against_the_anchors_negatives() -> None:
    x, t = unit(make_embeddings()), 0.3
    terms = []
    for a, p in pairs(same=True):
        positive = math.exp(x[a] @ x[p] / t)
        negatives = sum(math.exp(x[a] @ x[n] / t) for b, n in pairs(same=False) if b == a)
        terms.append(-math.log(positive / (positive + negatives)))
    check("ntxent", {"temperature": t}, sum(terms) / len(terms))


def test_nca_is_the_probability_of_a_neighbour_of_the_class() -> None:
    x, scale = unit(make_embeddings()), 3.0
    terms = []
    for i in range(len(x)):
        weights = {
            j: math.exp(-scale * float(((x[i] - x[j]) ** 2).sum())) for j in range(len(x)) if j != i
        }
        own = sum(w for j, w in weights.items() if LABELS[j] == LABELS[i])
        terms.append(-math.log(own / sum(weights.values())))
    check("nca", {"softmax_scale": scale}, sum(terms) / len(terms))


def test_proxy_nca_is_softmax_over_squared_distances_to_proxies() -> None:
    parameters = {"softmax_scale": 7.97}
    loss = make_loss("proxy_nca", parameters)
    x, proxies = unit(make_embeddings()), unit(loss.base_loss.proxies)
    squared = ((x[:, None] - proxies[None]) ** 2).sum(axis=2)
    check("proxy_nca", parameters, cross_entropy(-7.97 * squared))


def test_normalized_softmax_divides_cosines_by_the_temperature() -> None:
    parameters = {"temperature": 0.1087}
    loss = make_loss("normalized_softmax", parameters)
    cosines = unit(make_embeddings()) @ unit(loss.base_loss.W.t()).T
    check("normalized_softmax", parameters, cross_entropy(cosines / 0.1087))


def test_cosface_takes_the_margin_off_the_cosine_of_the_label() -> None:
    parameters = {"margin": 0.4324, "scale": 16.5}
    loss = make_loss("cosface", parameters)
    cosines = unit(make_embeddings()) @ unit(loss.base_loss.W.t()).T
    cosines[np.arange(len(LABELS)), LABELS] -= 0.4324
    check("cosface", parameters, cross_entropy(16.5 * cosines))


@pytest.mark.parametrize("degrees", [0.0, 23.22, 88.0])
def test_arcface_adds_a_margin_in_degrees_to_the_angle(degrees: float) -> None:
    parameters = {"margin": degrees, "scale": 10.0}
    loss = make_loss("arcface", parameters)
    cosines = unit(make_embeddings()) @ unit(loss.base_loss.W.t()).T
    margin, beyond = degrees * math.pi / 180, 0
    for i, label in enumerate(LABELS.tolist()):
        angle = math.acos(cosines[i, label])
        cosines[i, label] = math.cos(angle + margin)
        beyond += angle + margin > math.pi
    assert (beyond > 0) == (degrees == 88.0), "one case goes beyond 180 degrees"
    check("arcface", parameters, cross_entropy(10.0 * cosines))


@pytest.mark.parametrize("reg_weight", [0.0, 0.3754])
def test_soft_triple_is_soft_assignment_to_centres_plus_their_mean_distance(
    reg_weight: float,
) -> None:
    count, la, gamma, margin = 3, 17.69, 0.1, 0.3588
    parameters = {
        "la": la,
        "gamma": gamma,
        "margin": margin,
        "reg_weight": reg_weight,
        "centers_per_class": count,
    }
    loss = make_loss("soft_triple", parameters)
    x, centres = unit(make_embeddings()), unit(loss.base_loss.fc.t())
    logits = np.zeros((len(x), CLASSES))
    for i in range(len(x)):
        for c in range(CLASSES):
            similarities = [float(x[i] @ centres[c * count + k]) for k in range(count)]
            shares = [math.exp(s / gamma) for s in similarities]
            soft = sum(w * s for w, s in zip(shares, similarities, strict=True)) / sum(shares)
            logits[i, c] = la * (soft - margin * (LABELS[i].item() == c))
    distances = [
        math.sqrt(2 + 1e-5 - 2 * float(centres[c * count + k] @ centres[c * count + m]))
        for c in range(CLASSES)
        for k in range(count)
        for m in range(k + 1, count)
    ]
    spread = sum(distances) / len(distances)
    check("soft_triple", parameters, cross_entropy(logits) + reg_weight * spread)


def test_margin_per_class_reads_the_beta_of_the_anchors_class() -> None:
    parameters = {"margin": 0.0779, "beta": 0.9796}
    loss = make_loss("margin_per_class", parameters)
    assert isinstance(loss, PlainLoss)
    beta = loss.base_loss.beta
    assert beta.shape == (CLASSES,)
    assert torch.equal(beta.detach(), torch.full((CLASSES,), 0.9796))
    beta.data = torch.linspace(0.5, 1.3, CLASSES)
    x, betas = unit(make_embeddings()), beta.tolist()
    total, count = 0.0, 0
    for a, p in pairs(same=True):
        for other, n in pairs(same=False):
            if other != a:
                continue
            own = betas[int(LABELS[a])]
            near = max(0.0, float(np.linalg.norm(x[a] - x[p])) - own + 0.0779)
            far = max(0.0, own - float(np.linalg.norm(x[a] - x[n])) + 0.0779)
            total += near + far
            count += int(near > 0) + int(far > 0)
    check("margin_per_class", parameters, total / count, loss)
    loss(make_embeddings(), LABELS).backward()
    assert (beta.grad != 0).all()


@pytest.mark.parametrize("weight", [0.0, 0.1382])
def test_snr_contrastive_is_variance_ratio_with_regulariser_on_unit_embeddings(
    weight: float,
) -> None:
    parameters = {"pos_margin": 0.1670, "neg_margin": 0.9337, "regularizer_weight": weight}
    x = unit(make_embeddings())

    def ratio(anchor: int, other: int) -> float:
        return float(np.var(x[anchor] - x[other]) / np.var(x[anchor]))

    positive = mean_of_positive([ratio(a, p) - 0.1670 for a, p in pairs(same=True)])
    negative = mean_of_positive([0.9337 - ratio(a, n) for a, n in pairs(same=False)])
    assert positive > 0
    assert negative > 0
    off_zero = sum(abs(float(row.sum())) for row in x) / len(x)
    check("snr_contrastive", parameters, positive + negative + weight * off_zero)


@pytest.mark.parametrize("bins", [2, 17])
def test_fast_ap_is_average_precision_of_softly_binned_squared_distances(bins: int) -> None:
    x, width = unit(make_embeddings()), 4 / bins
    terms = []
    for i in range(len(x)):
        positive, every = [0.0] * (bins + 1), [0.0] * (bins + 1)
        for j in range(len(x)):
            if j == i:
                continue
            squared = float(((x[i] - x[j]) ** 2).sum())
            for k in range(bins + 1):
                share = max(0.0, 1 - abs(squared - k * width) / width)
                every[k] += share
                positive[k] += share * bool(LABELS[i] == LABELS[j])
        precision = sum(
            positive[k] * sum(positive[: k + 1]) / sum(every[: k + 1])
            for k in range(bins + 1)
            if positive[k] > 0
        )
        terms.append(1 - precision / (IMAGES - 1))
    check("fast_ap", {"num_bins": bins}, sum(terms) / len(terms))


def test_circle_weighs_each_similarity_by_its_distance_from_the_optimum() -> None:
    m, gamma, x = 0.4, 8.0, unit(make_embeddings())
    terms = []
    for i in range(len(x)):
        positive = negative = 0.0
        for j in range(len(x)):
            s = float(x[i] @ x[j])
            if j != i and LABELS[i] == LABELS[j]:
                positive += math.exp(-gamma * max(0.0, 1 + m - s) * (s - (1 - m)))
            elif j != i:
                negative += math.exp(gamma * max(0.0, s + m) * (s - m))
        terms.append(math.log(1 + positive * negative))
    check("circle", {"m": m, "gamma": gamma}, mean_of_positive(terms))


def test_supcon_averages_log_probabilities_over_the_positives_of_each_anchor() -> None:
    x, t = unit(make_embeddings()), 0.3
    terms = []
    for a in range(len(x)):
        others = [j for j in range(len(x)) if j != a]
        total = sum(math.exp(x[a] @ x[j] / t) for j in others)
        own = [math.exp(x[a] @ x[j] / t) for j in others if LABELS[j] == LABELS[a]]
        terms.append(-sum(math.log(value / total) for value in own) / len(own))
    check("supcon", {"temperature": t}, mean_of_positive(terms))


def test_lifted_structure_weighs_a_positive_against_the_negatives_of_both_its_images() -> None:
    parameters, x, terms = {"neg_margin": 1.2, "pos_margin": 0.3}, unit(make_embeddings()), []
    for a, p in pairs(same=True):
        pushed = [
            math.exp(1.2 - float(np.linalg.norm(x[i] - x[n])))
            for i, n in pairs(same=False)
            if i in (a, p)
        ]
        lifted = math.log(sum(pushed)) + float(np.linalg.norm(x[a] - x[p])) - 0.3
        terms.append(max(0.0, lifted) ** 2 / 2)
    check("lifted_structure", parameters, sum(terms) / len(terms))


def test_proxy_anchor_pulls_a_proxys_images_and_pushes_the_others() -> None:
    parameters = {"margin": 0.1, "alpha": 8.0}
    loss = make_loss("proxy_anchor", parameters)
    s = unit(make_embeddings()) @ unit(loss.base_loss.proxies).T
    pull = push = 0.0
    for c in range(CLASSES):
        own = LABELS.numpy() == c
        pull += math.log(1 + np.exp(-8.0 * (s[own, c] - 0.1)).sum()) / CLASSES
        push += math.log(1 + np.exp(8.0 * (s[~own, c] + 0.1)).sum()) / CLASSES
    check("proxy_anchor", parameters, pull + push)


def test_center_spread_is_twice_the_librarys_regulariser_and_has_a_gradient_everywhere() -> None:
    weights = torch.randn(CLASSES * 3, DIM, generator=torch.Generator().manual_seed(0))
    library = SparseCentersRegularizer(CLASSES, 3)(weights)
    assert CenterSpreadRegularizer(3)(weights).item() == pytest.approx(2 * library.item(), rel=1e-5)
    met = torch.ones(CLASSES * 3, DIM, requires_grad=True)
    CenterSpreadRegularizer(3)(met).backward()
    assert met.grad is not None
    assert torch.isfinite(met.grad).all()


# --- every file of search_spaces/ ----------------------------------------------------------------


def test_every_file_is_a_row_of_this_list() -> None:
    assert sorted([*PROXY_LOSSES, *PAIR_LOSSES]) == LOSSES


@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_finite_and_has_gradients_at_published_points_and_ends_of_ranges(
    name: str,
) -> None:
    for parameters in points(space_of(name)):
        loss = make_loss(name, parameters)
        embeddings = make_embeddings().detach().float().requires_grad_()
        value = loss(embeddings, LABELS)
        assert torch.isfinite(value), parameters
        value.backward()
        assert embeddings.grad is not None, parameters
        assert torch.isfinite(embeddings.grad).all(), parameters
        for own in loss.parameters():
            assert own.grad is None or torch.isfinite(own.grad).all(), parameters


@pytest.mark.parametrize("name", LOSSES)
def test_missing_parameter_is_named(name: str) -> None:
    needed = set(space_of(name).searched) - {"metric_loss_lr"}
    for missing in needed:
        parameters = {k: v for k, v in middle(space_of(name)).items() if k != missing}
        with pytest.raises(UserError, match=f"row {name} needs a value for {missing}"):
            make_loss(name, parameters)


def read_published_points() -> dict[tuple[str, str, str], dict[str, float]]:
    """Read the published hyperparameters with all the digits that their authors give."""
    points: dict[tuple[str, str, str], dict[str, float]] = {}
    path = Path(__file__).parent / "golden" / "published_hyperparameters.csv"
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            row, _, miner = line["row"].partition("+")
            values = points.setdefault((row, line["dataset"], miner), {})
            values[line["parameter"]] = float(line["exact"] or line["value"])
    return points


@pytest.mark.parametrize(("key", "expected"), read_published_points().items(), ids=str)
def test_published_point_is_the_published_one_to_the_last_digit(
    key: tuple[str, str, str], expected: dict[str, float]
) -> None:
    name, dataset, miner = key
    (point,) = [
        point
        for point in space_of(name).published
        if (point.dataset, point.miner or "") == (dataset, miner)
    ]
    assert point.source == (miner or "mlrc")
    # The table has N/A for this weight, which means no regulariser.
    absent = {"reg_weight": 0} if (name, dataset) == ("soft_triple", "sop") else {}
    assert dict(point.parameters) == {**expected, **absent}


def test_whole_parameters_are_integers() -> None:
    space = space_of("fast_ap")
    assert space.searched["num_bins"].type == "int"
    assert all(isinstance(p.parameters["num_bins"], int) for p in space.published)
    assert type(make_loss("fast_ap", {"num_bins": 27.0}).base_loss.num_bins) is int


@pytest.mark.parametrize(
    ("name", "parameter", "expected"),
    [
        ("ntxent", "temperature", (1e-4, 100, "log")),
        ("proxy_nca", "softmax_scale", (0.01, 100, "linear")),
        ("cosface", "scale", (0.01, 200, "linear")),
        ("arcface", "margin", (0, 90, "linear")),
        ("fast_ap", "num_bins", (2, 250, "linear")),
        ("snr_contrastive", "neg_margin", (0, 2, "linear")),
        ("soft_triple", "metric_loss_lr", (1e-6, 1, "log")),
    ],
)
def test_range_is_the_published_searchs(
    name: str, parameter: str, expected: tuple[float, float, str]
) -> None:
    searched = space_of(name).searched[parameter]
    assert (searched.low, searched.high, searched.scale) == expected
    assert searched.reason


def test_docs_name_every_row() -> None:
    text = (Path(__file__).parent.parent / "docs" / "rows.md").read_text(encoding="utf-8")
    missing = [name for name in [*LOSSES, "pretrained"] if f"| {name} |" not in text]
    assert not missing


# --- +wpm ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_mined_row_with_one_view_equals_its_twin(name: str) -> None:
    load_space(Row.parse(f"{name}+wpm"))
    for parameters in points(space_of(name)):
        plain, mined = make_loss(name, parameters), make_loss(f"{name}+wpm", parameters)
        embeddings, views = make_embeddings(), make_embeddings(1)
        torch.testing.assert_close(views[0], embeddings, rtol=0, atol=0)
        expected, value = plain(embeddings, LABELS), mined(views, LABELS)
        torch.testing.assert_close(value, expected, equal_nan=True)
        expected.backward()
        value.backward()
        assert embeddings.grad is not None
        assert views.grad is not None
        torch.testing.assert_close(views.grad[0], embeddings.grad, equal_nan=True)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_gradient_reaches_every_view(name: str) -> None:
    parameters = {**middle(space_of(name)), "num_bins": 10, "temperature": 0.1}
    loss = make_loss(f"{name}+wpm", parameters)
    assert isinstance(loss, WithinPairLoss)
    views = make_embeddings(3)
    loss(views, LABELS).backward()
    assert views.grad is not None
    assert torch.isfinite(views.grad).all()
    assert (views.grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize("name", PROXY_LOSSES)
def test_mining_is_refused_with_the_reason_where_there_is_no_pair(name: str) -> None:
    with pytest.raises(UserError, match="no pair to mine within: it compares images with") as told:
        load_space(Row.parse(f"{name}+wpm"))
    assert "\n" not in str(told.value)
    # Whatever a search-space file says, such a loss never runs behind the miner.
    with pytest.raises(ValueError, match="within-pair mining needs a loss"):
        make_loss(f"{name}+wpm")(make_embeddings(2), LABELS)


def test_unknown_row_lists_which_rows_may_be_mined() -> None:
    with pytest.raises(
        UserError, match=r"arcface, circle\[\+wpm\], contrastive\[\+wpm\], cosface,"
    ):
        load_space(Row("nonsense"))
    assert [name for name in LOSSES if nothing_to_mine(name)] == PROXY_LOSSES


# --- training ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Pixels:
    return make_pixels(tmp_path_factory.mktemp("rows"))  # 8 classes, folds train on 6 of them


def make_training(
    name: str,
    pixels: Pixels,
    parameters: Parameters | None = None,
    seed: int = 0,
    folds: tuple[int, ...] = (1,),
    **changes: int,
) -> Training:
    row = Row.parse(name)
    space = space_of(row.loss)
    point = next((p for p in space.published if p.miner is None), None)
    values = middle(space) if point is None else space.complete(point.parameters)
    values |= {**MINED, **(parameters or {})} if row.miner else dict(parameters or {})
    protocol = smoke_protocol(**{"max_epochs": 2, "iterations_per_epoch": 2, **changes})
    return Training(TrainingConfig(Row.parse(name), protocol, values, seed, folds), pixels, CPU)


def own_parameters(fold: FoldTraining) -> list[Tensor]:
    return [p.detach().clone() for p in fold.loss.parameters()]


def run(training: Training) -> list[tuple[float, float]]:
    numbers = []
    while not training.finished:
        report = training.run_epoch()
        assert report is not None
        numbers.append((report.folds[0].loss, report.folds[0].map_at_r))
    return numbers


@pytest.mark.parametrize("name", ALL_ROWS)
def test_row_trains_on_labels_that_do_not_start_at_zero(pixels: Pixels, name: str) -> None:
    training = make_training(name, pixels)  # fold 1 trains on labels 2 to 7: six classes
    before = own_parameters(training.folds[0])
    for loss, score in run(training):
        assert math.isfinite(loss)
        assert 0 <= score <= 1
    for old, new in zip(before, own_parameters(training.folds[0]), strict=True):
        assert len(old) in (1, 6) or old.shape[1] in (6, 60)
        assert not torch.equal(old, new)


@pytest.mark.parametrize("name", ["proxy_nca", "cosface", "soft_triple", "proxy_anchor"])
def test_same_seed_draws_the_same_proxies_and_leaves_the_global_generator(
    pixels: Pixels, name: str
) -> None:
    torch.manual_seed(1)
    state = torch.get_rng_state()
    (first,) = own_parameters(make_training(name, pixels).folds[0])
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again, other_seed, other_fold = (
        own_parameters(make_training(name, pixels, seed=seed, folds=(fold,)).folds[0])[0]
        for seed, fold in [(0, 1), (1, 1), (0, 2)]
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other_seed)
    assert not torch.equal(first, other_fold)


@pytest.mark.parametrize("name", ["cosface", "margin_per_class"])
def test_run_repeats_exactly_and_resumes_with_the_losss_own_parameters(
    pixels: Pixels, name: str
) -> None:
    whole = run(make_training(name, pixels))
    assert run(make_training(name, pixels)) == whole
    cut = make_training(name, pixels)
    cut.run_epoch()
    resumed = make_training(name, pixels)
    resumed.load_state_dict(cut.state_dict())
    assert run(resumed) == whole[1:]


def test_classes_are_numbered_in_the_order_of_their_labels() -> None:
    numbers = number_classes(Fold(train_classes=(95, 99, 3), val_classes=(4,)), 100)
    assert numbers[torch.tensor([3, 95, 99])].tolist() == [0, 1, 2]
    assert numbers.sum() == 0 + 1 + 2 - 97


def test_margin_per_class_has_a_beta_for_every_training_class_and_trains_those_it_saw(
    pixels: Pixels,
) -> None:
    training = make_training("margin_per_class", pixels, {"metric_loss_lr": 0.01, "beta": 1.0})
    fold = training.folds[0]
    (before,) = own_parameters(fold)
    assert before.shape == (6,)
    seen = fold._class_numbers[pixels.labels[fold.draw_batch()]]
    assert set(seen.tolist()) <= set(range(6))
    run(training)
    (after,) = own_parameters(fold)
    assert (before != after).sum() >= 4  # a batch of the smoke protocol has four classes


@pytest.mark.parametrize("name", LOSSES)
def test_losss_parameters_have_an_rmsprop_of_their_own(pixels: Pixels, name: str) -> None:
    training = make_training(name, pixels)
    fold = training.folds[0]
    own = {id(p) for p in fold.loss.parameters()}
    learns = "metric_loss_lr" in space_of(name).searched
    assert bool(own) == learns
    assert len(fold.optimizers) == 1 + learns
    assert own.isdisjoint(id(p) for g in fold.optimizers[0].param_groups for p in g["params"])
    if learns:
        optimizer = fold.optimizers[1]
        assert isinstance(optimizer, torch.optim.RMSprop)
        (group,) = optimizer.param_groups
        assert {id(p) for p in group["params"]} == own
        assert group["momentum"] == 0.9
        assert group["lr"] == training._config.parameters["metric_loss_lr"]
        assert group["weight_decay"] == (0 if name.startswith("margin") else 1e-4)


def test_missing_rate_is_named(pixels: Pixels) -> None:
    config = TrainingConfig(Row("margin"), smoke_protocol(), {"margin": 0.1, "beta": 1.0}, 0, (0,))
    with pytest.raises(UserError, match="row margin needs a value for metric_loss_lr"):
        Training(config, pixels, CPU)


@pytest.mark.parametrize("name", LOSSES)
def test_batch_has_the_rows_shape_where_classes_are_few(pixels: Pixels, name: str) -> None:
    fold = make_training(name, pixels, folds=(0,)).folds[0]
    labels = Counter(pixels.labels[fold.draw_batch()].tolist())
    if name in PROXY_LOSSES:  # 32 images of 6 classes: each repeats 5 or 6 times
        assert sum(labels.values()) == 32
        assert sorted(labels.values()) == [5, 5, 5, 5, 6, 6]
    else:  # 4 classes x 2 images of the smoke protocol
        assert sorted(labels.values()) == [2, 2, 2, 2]


def test_proxy_batch_is_32_classes_with_an_image_each_where_there_are_enough(
    tmp_path: Path,
) -> None:
    root = make_image_folder(tmp_path / "images", classes=88, images=2)
    many = Pixels(trainval_pixels(root, tmp_path / "work", smoke_protocol()))
    fold = make_training("cosface", many, folds=(0,)).folds[0]
    assert [tuple(p.shape) for p in fold.loss.parameters()] == [(16, 33)]
    labels = Counter(many.labels[fold.draw_batch()].tolist())
    assert len(labels) == 32
    assert set(labels.values()) == {1}


def test_pair_row_keeps_its_batch_where_classes_are_fewer(pixels: Pixels) -> None:
    fold = make_training("triplet", pixels, folds=(0,), classes_per_batch=8, images_per_class=4)
    labels = Counter(pixels.labels[fold.folds[0].draw_batch()].tolist())
    assert sorted(labels.values()) == [4] * 4 + [8] * 2


@pytest.mark.parametrize(
    ("name", "loss", "miner"),
    [
        ("triplet", "triplet", None),
        ("triplet+wpm", "triplet", "wpm"),
        ("multi_similarity_miner+wpm", "multi_similarity_miner", "wpm"),
        ("wpm", "wpm", None),
        ("a1_", "a1_", None),
        ("triplet+mean", "triplet", "mean"),
    ],
)
def test_row_is_parsed_and_printed(name: str, loss: str, miner: str | None) -> None:
    row = Row.parse(name)
    assert row == Row(loss, miner)
    assert str(row) == name


@pytest.mark.parametrize(
    "name",
    ["", "+wpm", "a+wpm+wpm", "Triplet", "triplet +wpm", "triplet\n", "1a", "../x", "a-b", "a+"],
)
def test_bad_row_names_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"is not LOSS or LOSS\+MINER"):
        Row.parse(name)


def test_twin_is_the_same_loss_without_the_miner() -> None:
    assert Row("triplet", "wpm").twin == Row("triplet")
    assert Row("triplet").twin is None
