"""Classes that a row's file names: found in the library or in own modules, with their arguments."""

import linecache
import sys
from pathlib import Path

import pytest
from pytorch_metric_learning import distances, losses, miners
from torch import nn

from wpm.errors import StorageError, UserError
from wpm.loss_classes import build_call, check_arguments, find_class, list_arguments
from wpm.loss_description import ClassCall, OwnModule, ParameterValue

OWN = """
import dataclasses
from torch import nn

@dataclasses.dataclass
class Options:
    margin: "float" = 1.0

class Mine(nn.Module):
    def __init__(self, margin):
        super().__init__()
        self.margin = margin

    def forward(self, embeddings, labels):
        raise ValueError("here")

Number = 3
"""


def own(text: str = OWN) -> dict[str, OwnModule]:
    return {"mine": OwnModule(f"{hash(text):x}", text)}


def test_classes_of_the_library_are_found_by_their_kind() -> None:
    assert find_class("loss", "SupConLoss", {}) is losses.SupConLoss
    assert find_class("miner", "MultiSimilarityMiner", {}) is miners.MultiSimilarityMiner
    assert find_class("distance", "LpDistance", {}) is distances.LpDistance
    assert find_class("embedding_regularizer", "LpRegularizer", {}).__name__ == "LpRegularizer"


@pytest.mark.parametrize(
    ("kind", "name", "says"),
    [
        ("loss", "SupConLos", "'SupConLos' is no loss of pytorch-metric-learning; did you mean 'S"),
        ("loss", "LpDistance", "'LpDistance' is no loss of pytorch-metric-learning; choose from"),
        ("loss", "CrossBatchMemory", "'CrossBatchMemory' is no loss"),
        ("miner", "SupConLoss", "'SupConLoss' is no miner"),
        ("loss", "mine:Mien", "module mine has no class 'Mien'; did you mean 'Mine'?"),
        ("loss", "mine:Number", "module mine has something else than a class named 'Number'"),
        ("loss", "mine:Options", "mine:Options is no loss: it must be a torch.nn.Module"),
        ("distance", "mine:Mine", "mine:Mine is no distance: it must be a BaseDistance"),
        ("loss", "wpm.rows:Row", "wpm.rows:Row is no loss: it must be a torch.nn.Module"),
    ],
)
def test_wrong_class_is_refused_with_what_is_close(kind: str, name: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        find_class(kind, name, own())
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_own_class_is_imported_once_from_its_text_and_its_lines_are_in_tracebacks() -> None:
    modules = own()
    found = find_class("loss", "mine:Mine", modules)
    assert find_class("loss", "mine:Mine", modules) is found
    assert find_class("loss", "mine:Mine", own(OWN + "\n")) is not found, "another text"
    assert issubclass(found, nn.Module)
    assert "mine" not in sys.modules
    globals_of = vars(sys.modules[found.__module__])
    assert linecache.getline("mine.py", 15, globals_of).strip() == 'raise ValueError("here")'


@pytest.mark.parametrize("text", ["import no_such_package", "class", "1 / 0"])
def test_own_module_that_cannot_be_imported_is_refused(text: str) -> None:
    with pytest.raises(
        UserError, match=r"^module mine cannot be imported on \S+ \(\w+Error: "
    ) as caught:
        find_class("loss", "mine:Mine", own(text))
    assert "\n" not in str(caught.value)


def test_module_that_only_this_machine_lacks_is_no_fault_of_the_trial() -> None:
    with pytest.raises(
        StorageError, match=r"no_such cannot be imported on .* beside the row's file"
    ):
        find_class("loss", "no_such:Loss", {})


def test_arguments_are_those_of_the_class_and_of_the_bases_that_it_hands_on_to() -> None:
    found = list_arguments(losses.CosFaceLoss)
    assert found is not None
    assert {"margin", "scale", "num_classes", "embedding_size", "distance"} <= found
    assert "self" not in found
    assert list_arguments(distances.LpDistance) == {
        "normalize_embeddings", "p", "power", "is_inverted", "collect_stats"
    }  # fmt: skip
    assert list_arguments(nn.Identity) is None
    assert list_arguments(type("Bare", (nn.Module,), {})) == set()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (
            ClassCall("SupConLoss", {"temprature": 1.0}),
            "SupConLoss has no argument 'temprature'; did you mean 'temperature'?",
        ),
        (ClassCall("SupConLoss", {"zzz": 1.0}), "has no argument 'zzz'; it has collect_stats, "),
        (
            ClassCall("SupConLoss", {"distance": ClassCall("LpDistance", {"pwer": 2})}),
            "LpDistance has no argument 'pwer'; did you mean 'power'?",
        ),
        (ClassCall("RankedListLoss", {}), "RankedListLoss needs margin and Tn; search or fix them"),
        (
            ClassCall("CosFaceLoss", {}),
            "CosFaceLoss needs num_classes and embedding_size; own_weights = true gives",
        ),
    ],
)
def test_wrong_argument_is_refused_with_what_is_close(call: ClassCall, says: str) -> None:
    with pytest.raises(UserError) as caught:
        check_arguments("loss", call, {})
    assert says in str(caught.value)


def test_class_is_built_with_parameters_constants_and_classes() -> None:
    call = ClassCall(
        "TripletMarginLoss",
        {
            "margin": ParameterValue("m"),
            "triplets_per_anchor": ParameterValue("count", whole=True),
            "swap": True,
            "distance": ClassCall("LpDistance", {"power": 2}),
        },
    )
    loss = build_call("loss", call, {"m": 0.25, "count": 3.0}, {})
    assert isinstance(loss, losses.TripletMarginLoss)
    assert (loss.margin, loss.swap, loss.distance.power) == (0.25, True, 2)
    assert type(loss.triplets_per_anchor) is int
    with pytest.raises(KeyError, match="count"):
        build_call("loss", call, {"m": 0.25}, {})


def test_own_module_in_a_folder_is_found_where_we_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wpm.rows import Row
    from wpm.spaces import load_space

    (tmp_path / "here" / "package").mkdir(parents=True)
    (tmp_path / "here" / "package" / "deep.py").write_text(OWN)
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "mine.toml").write_text('loss = "package.deep:Mine"\n[fixed]\nmargin = 2.5\n')
    described = load_space(Row("mine"), tmp_path).loss
    assert described is not None
    loss = build_call("loss", described.loss, {"margin": 2.5}, described.modules)
    assert loss.margin == 2.5
