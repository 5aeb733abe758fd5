"""Checks with torch: a search space with which every trial would fail is refused before."""

import inspect
import shutil
from pathlib import Path

import pytest
import torch
from pytorch_metric_learning import losses

from wpm.cli.model_checks import check_parameters
from wpm.errors import UserError
from wpm.losses import build_loss
from wpm.rows import PRETRAINED, Row
from wpm.spaces import SPACES_FOLDER, known_losses, load_space, nothing_to_mine

ROWS = [Row(name) for name in known_losses()]
ROWS += [Row(name, "wpm") for name in known_losses() if not nothing_to_mine(name)]


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_spaces_that_ship_pass(row: Row) -> None:
    check_parameters(load_space(row), SPACES_FOLDER)


def test_missing_parameter_is_named_with_its_file(tmp_path: Path) -> None:
    (tmp_path / "triplet.toml").write_text("[search.marging]\nlow = 0\nhigh = 1\n")
    space = load_space(Row("triplet"), tmp_path)
    with pytest.raises(UserError, match=r"triplet\.toml: row triplet needs a value for margin"):
        check_parameters(space, tmp_path)


@pytest.mark.parametrize(
    "name", [name for name in known_losses() if nothing_to_mine(name) and name != PRETRAINED]
)
def test_loss_without_pairs_is_refused_even_if_its_file_does_not_say_so(
    name: str, tmp_path: Path
) -> None:
    for file in (name, "wpm"):
        text = (SPACES_FOLDER / f"{file}.toml").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if not line.startswith("nothing_to_mine")]
        (tmp_path / f"{file}.toml").write_text("\n".join(lines), encoding="utf-8")
    space = load_space(Row(name, "wpm"), tmp_path)
    with pytest.raises(UserError, match=rf"row {name}\+wpm: .*needs a loss .*; use {name}$"):
        check_parameters(space, tmp_path)


# Rows that users add

CONCRETE = sorted(
    name
    for name, found in vars(losses).items()
    if inspect.isclass(found)
    and issubclass(found, losses.BaseMetricLossFunction)
    and found not in (losses.BaseMetricLossFunction, losses.GenericPairLoss)
)
# What the library's losses need beyond their defaults, and why one of them is no row.
NEEDED = {
    "P2SGradLoss": (
        'arguments = { descriptors_dim = "embedding_size", num_classes = "num_classes" }'
    ),
    "RankedListLoss": "fixed = { margin = 0.4, Tn = 3.0 }",
}
HAVE_WEIGHTS = {
    "ArcFaceLoss", "CosFaceLoss", "LargeMarginSoftmaxLoss",
    "NormalizedSoftmaxLoss", "P2SGradLoss", "ProxyAnchorLoss", "ProxyNCALoss", "SoftTripleLoss",
    "SphereFaceLoss", "SubCenterArcFaceLoss",
}  # fmt: skip
NO_ROW = {
    "ManifoldLoss": "ManifoldLoss needs l; search or fix them",
    "VICRegLoss": "not supported for this loss function",
}
READ_NO_PAIR_MATRIX = {
    "AngularLoss", "NPairsLoss", "SmoothAPLoss", "ThresholdConsistentMarginLoss"
}  # fmt: skip


def write_row(folder: Path, text: str) -> None:
    shutil.copy(SPACES_FOLDER / "wpm.toml", folder)
    (folder / "mine.toml").write_text(text, encoding="utf-8")


def refusal_of(folder: Path, row: str = "mine") -> str:
    with pytest.raises(UserError) as caught:
        check_parameters(load_space(Row.parse(row), folder), folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", CONCRETE)
def test_every_loss_of_the_library_is_a_row_without_python_or_is_refused_with_a_reason(
    name: str, tmp_path: Path
) -> None:
    text = f'loss = "{name}"\n{NEEDED.get(name, "")}\n'
    if name in HAVE_WEIGHTS:
        own_weights = "" if name in NEEDED else "own_weights = true\n"
        text += f"{own_weights}fixed.metric_loss_lr = 0.01\n"
    write_row(tmp_path, text)
    if name in NO_ROW:
        assert NO_ROW[name] in refusal_of(tmp_path)
        return
    check_parameters(load_space(Row("mine"), tmp_path), tmp_path)
    if name in HAVE_WEIGHTS or name in READ_NO_PAIR_MATRIX:
        assert refusal_of(tmp_path, "mine+wpm").startswith("row mine+wpm: ")
        return
    space = load_space(Row("mine", "wpm"), tmp_path)
    check_parameters(space, tmp_path)
    plain, mined = (
        build_loss(row, space.lowest(), num_classes=4, embedding_dim=8, description=space.loss)
        for row in (Row("mine"), space.row)
    )
    embeddings, labels = torch.randn(16, 8), torch.arange(4).repeat_interleave(4)
    torch.testing.assert_close(mined(embeddings[None], labels), plain(embeddings, labels))
    views = (embeddings + 0.3 * torch.randn(3, 16, 8)).requires_grad_()
    mined(views, labels).backward()
    assert views.grad is not None
    assert (views.grad.abs().sum(dim=(1, 2)) > 0).all()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('loss = "SupConLos"', "mine.toml: 'SupConLos' is no loss of pytorch-metric-learning; did"),
        ('loss = "mine:Mine"', "mine.toml: module mine cannot be imported on"),
        ('loss = "SupConLoss"\nsearch.temprature = { low = 0, high = 1 }',
         "mine.toml: SupConLoss has no argument 'temprature'; did you mean 'temperature'?"),
        ('loss = "SupConLoss"\nminer = "MultiSimilarityMinor"', "did you mean 'MultiSimilarityMi"),
        ('loss = "InstanceLoss"\ndistance = "LpDistance"',
         "mine.toml: InstanceLoss cannot be built (AssertionError: InstanceLoss requires"),
        ('loss = "ProxyNCALoss"\nown_weights = true',
         "mine.toml: ProxyNCALoss has weights of its own; search or fix metric_loss_lr"),
        ('loss = "SupConLoss"\nsearch.metric_loss_lr = { low = 0, high = 1 }',
         "mine.toml: search.metric_loss_lr is read by nothing; SupConLoss reads"),
        ('loss = "SupConLoss"\nfixed.sharpness = 3', "SupConLoss has no argument 'sharpness'"),
        ('loss = "wpm.losses:CenterSpreadRegularizer"\narguments.centers_per_class = 2',
         "mine.toml: CenterSpreadRegularizer cannot be computed (TypeError: "),
        ('loss = "torch.nn:Identity"', "mine.toml: Identity cannot be computed (TypeError: "),
    ],
)  # fmt: skip
def test_row_that_cannot_be_trained_is_refused_in_one_line(
    text: str, says: str, tmp_path: Path
) -> None:
    write_row(tmp_path, text)
    assert says in refusal_of(tmp_path)


def test_parameter_of_a_miner_is_not_one_of_the_loss_too(tmp_path: Path) -> None:
    write_row(tmp_path, 'loss = "SupConLoss"\nfixed.sharpness = 3\n')
    assert "sharpness is also a parameter of wpm" in refusal_of(tmp_path, "mine+wpm")


def test_older_file_without_a_loss_searches_only_what_its_row_reads(tmp_path: Path) -> None:
    text = "[search.margin]\nlow = 0\nhigh = 1\n[search.swap]\nlow = 0\nhigh = 1\n"
    (tmp_path / "triplet.toml").write_text(text)
    with pytest.raises(
        UserError, match=r"search\.swap is read by nothing; TripletMarginLoss reads"
    ):
        check_parameters(load_space(Row("triplet"), tmp_path), tmp_path)


@pytest.mark.parametrize(
    "result", ["embeddings", "embeddings.sum().item()", "embeddings.sum().detach()"]
)
def test_own_loss_returns_a_scalar_with_a_gradient(result: str, tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "from torch import nn\n"
        "class Pull(nn.Module):\n"
        "    def forward(self, embeddings, labels):\n"
        f"        return {result}\n"
    )
    write_row(tmp_path, 'loss = "my_loss:Pull"\n')
    assert "must be a scalar tensor with a gradient" in refusal_of(tmp_path)


def test_own_loss_is_a_row_but_not_mined_unless_it_reads_a_distance(tmp_path: Path) -> None:
    (tmp_path / "my_loss.py").write_text(
        "from torch import nn\n"
        "class Pull(nn.Module):\n"
        "    def forward(self, embeddings, labels):\n"
        "        return embeddings.square().sum()\n"
    )
    write_row(tmp_path, 'loss = "my_loss:Pull"\n')
    check_parameters(load_space(Row("mine"), tmp_path), tmp_path)
    message = refusal_of(tmp_path, "mine+wpm")
    assert message.startswith("row mine+wpm: Pull has no distance that mined values could replace")
    assert message.endswith("; use mine")
