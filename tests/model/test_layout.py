"""Layouts: channels last where it is right and fast, and images follow the weights."""

import pytest
import torch
from torch import Tensor

from wpm.model import layout
from wpm.model.embedding import EmbeddingModel, build_model
from wpm.model.layout import choose_layout, place, pools_rightly
from wpm.protocol_files import find_protocol

CPU, GPU = torch.device("cpu"), torch.device("cuda")
IMAGES = torch.randn((2, 3, 24, 24), generator=torch.Generator().manual_seed(0))
LAYOUTS = (torch.contiguous_format, torch.channels_last)


def make_model() -> EmbeddingModel:
    return build_model(find_protocol("small", "glyphs"), 3, seed=0)


@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
def test_cpu_has_channels_last(precision: str) -> None:
    assert choose_layout(CPU, precision) == torch.channels_last


@pytest.mark.parametrize(
    ("precision", "right", "expected"),
    [
        ("float32", True, torch.contiguous_format),
        ("tf32", True, torch.channels_last),
        ("bf16", True, torch.channels_last),
        ("tf32", False, torch.contiguous_format),
        ("bf16", False, torch.contiguous_format),
    ],
)
def test_gpu_has_channels_last_where_tensor_cores_multiply_and_pools_are_right(
    precision: str, right: bool, expected: torch.memory_format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "pools_rightly", lambda device: right)
    assert choose_layout(GPU, precision) == expected


def test_pools_of_the_cpu_are_right() -> None:
    assert pools_rightly(CPU)


def test_pool_that_forgets_its_padding_in_the_backward_pass_is_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = torch.nn.functional.avg_pool2d

    def shifted(images: Tensor, kernel: int, stride: int, padding: int) -> Tensor:
        """Have the gradient of torch's faulty kernel, in one of the two layouts."""
        pooled = right(images, kernel, stride=stride, padding=padding)
        if images.is_contiguous():
            return pooled
        wrong = right(images.roll((-1, -1), (2, 3)), kernel, stride=stride, padding=padding)
        return wrong + (pooled - wrong).detach()

    monkeypatch.setattr(layout, "avg_pool2d", shifted)
    assert not pools_rightly.__wrapped__(CPU)


@pytest.mark.parametrize("weights", LAYOUTS)
@pytest.mark.parametrize("images", LAYOUTS)
def test_images_follow_the_weights(
    weights: torch.memory_format, images: torch.memory_format
) -> None:
    plain, laid_out = make_model().eval(), make_model().eval()
    laid_out.lay_out(weights)
    found: list[Tensor] = []
    stem = laid_out.trunk.stem

    def watched(batch: Tensor) -> Tensor:
        found.append(batch)
        return stem(batch)

    laid_out.trunk.stem = watched  # type: ignore[assignment, method-assign]
    embeddings = laid_out(IMAGES.to(memory_format=images))
    assert found[0].is_contiguous(memory_format=weights)
    assert torch.allclose(embeddings, plain(IMAGES), atol=1e-5)


def test_placed_model_is_on_the_device_in_its_layout() -> None:
    model = place(make_model(), CPU)
    weights = [p for p in model.trunk.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert weights
    assert all(w.is_contiguous(memory_format=torch.channels_last) for w in weights)
