"""What stages write down, and that a check which ought to fail does."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.gpu import right
from benchmarks.gpu.figures import Stage, find_value
from benchmarks.gpu.steps import list_rows
from wpm.data.crops import crop_at_once
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.training.mined_step import MinedStep

CPU = torch.device("cpu")


def make_stage(out: Path, seconds: float = 600.0) -> Stage:
    return Stage("right", out, CPU, quick=True, seconds=seconds, trunk="convnet")


def figures_of(out: Path) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = json.loads((out / "right.json").read_text())["figures"]
    return content


def verdicts_of(out: Path, beginning: str) -> set[str]:
    found = {f["verdict"] for f in figures_of(out) if f["what"].startswith(beginning)}
    return found - {"skipped"}


def test_figure_is_on_disk_as_soon_as_it_is_measured(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)
    stage.record("step", 0.5, "s", precision="bf16", n=7)
    (figure,) = figures_of(tmp_path)
    assert (figure["value"], figure["precision"], figure["n"]) == (0.5, "bf16", 7)
    assert "CPU cores" in figure["device"]
    assert figure["versions"]["torch"] == torch.__version__
    assert json.loads((tmp_path / "right.json").read_text())["state"] == "running"
    stage.finish()
    assert json.loads((tmp_path / "right.json").read_text())["state"] == "done"
    assert find_value(tmp_path, "right", "step", "s", "bf16") == 0.5
    assert find_value(tmp_path, "right", "step", "s", "float32") is None
    assert find_value(tmp_path, "folds", "step", "s") is None


@pytest.mark.parametrize(
    ("value", "verdict"), [(0.9, "right"), (1.0, "right"), (1.1, "WRONG"), (math.nan, "WRONG")]
)
def test_limit_decides_what_is_right(value: float, verdict: str, tmp_path: Path) -> None:
    make_stage(tmp_path).record("error", value, "", limit=1.0)
    assert figures_of(tmp_path)[0]["verdict"] == verdict


def test_failure_ends_its_own_figure_and_no_other(tmp_path: Path) -> None:
    stage = make_stage(tmp_path)

    def fail() -> None:
        raise ValueError("no | good\nat all")

    stage.each({"first": fail, "second": lambda: stage.record("second", 1, "s")})
    first, second = figures_of(tmp_path)
    assert (first["verdict"], first["note"]) == ("FAILED", "ValueError: no / good at all")
    assert second["value"] == 1


def test_nothing_is_begun_without_the_time_for_it(tmp_path: Path) -> None:
    stage = make_stage(tmp_path, seconds=2)
    stage.each({"slow": lambda: stage.record("slow", 1, "s")}, needs_s=3)
    assert figures_of(tmp_path)[0]["note"] == "no time left"


# Checks that find a fault


def test_gradients_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right.check_gradients(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "gradients") == {"right"}
    take = MinedStep.backward_low_memory

    def lose_some(step: MinedStep, *given: Any) -> Tensor:
        loss = take(step, *given)
        parameter = next(step.model.parameters())
        assert parameter.grad is not None
        parameter.grad *= 0.95
        return loss

    monkeypatch.setattr(MinedStep, "backward_low_memory", lose_some)
    right.check_gradients(make_stage(tmp_path))
    assert "WRONG" in verdicts_of(tmp_path, "gradients: mined, low memory")
    assert verdicts_of(tmp_path, "gradients: mined, fast") == {"right"}


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_checked(ties: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right.check_retrieval(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "retrieval") == {"right"}
    score = retrieval_scores

    def shift(embeddings: Tensor, labels: Tensor) -> RetrievalScores:
        found = score(embeddings, labels)
        is_tied = embeddings.shape[1] == 16
        change = 0.3 if is_tied == ties else 0.0
        return RetrievalScores(found.precision_at_1, found.r_precision, found.map_at_r + change)

    monkeypatch.setattr(right, "retrieval_scores", shift)
    right.check_retrieval(make_stage(tmp_path))
    assert verdicts_of(tmp_path, f"retrieval {'with' if ties else 'without'} ties") == {"WRONG"}


def test_scores_by_sorting_by_hand() -> None:
    # Of the first query: nearest a stranger and a mate at one distance, then the other mate.
    embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [-1.0, 0.0]])
    labels = torch.tensor([0, 0, 1, 1])
    best = right.sorted_scores(embeddings, labels, first="own class")
    worst = right.sorted_scores(embeddings, labels, first="other class")
    assert (best.precision_at_1, best.map_at_r) == (1.0, 1.0)
    assert (worst.precision_at_1, worst.map_at_r) == (0.0, 0.0)


def test_crops_are_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right.check_crops(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "crops") == {"right"}
    monkeypatch.setattr(right, "crop_at_once", lambda *given: crop_at_once(*given) + 3)
    right.check_crops(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "crops: all at once") == {"WRONG"}


def test_fall_back_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right.check_out_of_memory(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "out of memory") == {"right"}
    monkeypatch.setattr("wpm.training.mined_step.is_out_of_memory", lambda error: False)
    right.check_out_of_memory(make_stage(tmp_path))
    assert verdicts_of(tmp_path, "out of memory") == {"FAILED"}


def test_every_row_of_the_search_spaces_is_counted() -> None:
    rows = list_rows()
    assert len(rows) == len(set(rows)) == 32
    assert sum(row.miner is not None for row in rows) == 13
