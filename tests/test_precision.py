"""Precision: settings are restored, and bf16 changes the forward pass but not the experiment."""

import dataclasses
import statistics
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from tests.support.tiny import make_config, make_pixels, smoke_protocol
from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.model.embedding import build_model
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.rows import Row
from wpm.splits import class_disjoint_splits
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

CPU = torch.device("cpu")


def knobs() -> tuple[str, str]:
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    return convolution.fp32_precision, torch.backends.cuda.matmul.fp32_precision


@pytest.mark.parametrize(
    ("precision", "expected"), [("float32", "ieee"), ("tf32", "tf32"), ("bf16", "ieee")]
)
def test_products_are_set_inside_and_put_back_outside(precision: str, expected: str) -> None:
    before = knobs()
    with pytest.raises(RuntimeError, match="inside"), float32_products(precision):
        assert knobs() == (expected, expected)
        raise RuntimeError("inside")
    assert knobs() == before


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_older_flags_agree_inside_and_outside(precision: str) -> None:
    """Torch raises where an older flag that it reads contradicts a newer one."""
    for within in (float32_products(precision), nullcontext()):
        with within:
            assert torch.backends.cudnn.allow_tf32 == (knobs()[0] == "tf32")
            matrix = torch.backends.cuda.matmul
            assert matrix.allow_tf32 == (matrix.fp32_precision == "tf32")
            usual = "high" if matrix.allow_tf32 else "highest"
            assert torch.get_float32_matmul_precision() == usual
            with torch.backends.cudnn.flags(enabled=True):
                pass


def test_a_precision_within_another_is_restored() -> None:
    with float32_products("tf32"):
        with float32_products("float32"):
            assert knobs() == ("ieee", "ieee")
        assert knobs() == ("tf32", "tf32")


def test_a_training_sets_the_products_of_its_protocol(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    protocol = dataclasses.replace(smoke_protocol(), precision="tf32")
    config = dataclasses.replace(make_config(), protocol=protocol)
    training = Training(config, make_pixels(tmp_path), CPU)
    validate = training.folds[0].validate

    def validate_and_look(epoch: int) -> None:
        seen.append(knobs())
        validate(epoch)

    monkeypatch.setattr(training.folds[0], "validate", validate_and_look)
    training.run_epoch()
    assert seen == [("tf32", "tf32")]


def test_bf16_runs_the_forward_pass_in_bfloat16_and_returns_float32() -> None:
    images = torch.randn(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    protocol = smoke_protocol()
    exact = build_model(protocol, 1, seed=0)(images)
    rounded = build_model(dataclasses.replace(protocol, precision="bf16"), 1, seed=0)(images)
    assert rounded.dtype == torch.float32
    error = (rounded - exact).abs().max() / exact.abs().max()
    assert 1e-5 < error < 0.03  # 8 bits of mantissa, through five layers


def best_score(pixels: Pixels, precision: str, seed: int) -> float:
    protocol = find_protocol("small", "glyphs", changes={"precision": precision})
    protocol = dataclasses.replace(protocol, iterations_per_epoch=30, max_epochs=2)
    parameters = {"pos_margin": 0.1, "neg_margin": 0.8}
    training = Training(
        TrainingConfig(Row("contrastive"), protocol, parameters, seed, (0,)), pixels, CPU
    )
    while not training.finished:
        report = training.run_epoch()
    assert report is not None
    return report.best_map_at_r


@pytest.mark.slow
def test_bf16_scores_agree_within_the_spread_of_seeds(tmp_path: Path) -> None:
    """On rendered characters; `python -m benchmarks.precision` does it on images of one's own."""
    index = load_index(DataSource("glyphs", None, tmp_path))
    classes = class_disjoint_splits(index.labels, 4).trainval_classes
    pixels = Pixels(build_pixel_cache(index.subset(classes), 28, tmp_path))
    exact, rounded = (
        [best_score(pixels, precision, seed) for seed in range(4)]
        for precision in ("float32", "bf16")
    )
    assert exact != rounded
    assert min(exact) > 0.05  # it learns: chance is 1 / 18 classes at best, MAP@R far below
    difference = statistics.mean(rounded) - statistics.mean(exact)
    assert abs(difference) < 2 * statistics.stdev(exact)
