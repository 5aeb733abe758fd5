"""A GPU holds all pixels if the process may allocate enough; otherwise they stay on the host."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from tests.support.tiny import make_pixels
from wpm.data.pixels import Pixels

# A training names no number; torch takes such a device in some functions and not in others.
GPU = torch.device("cuda")


class FakeGpu:
    """A GPU of a thousand bytes for each of the cache's, as far as `Pixels` can see one."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.total = 1000 * size
        self.free, self.fraction, self.allocated = self.total, 1.0, 0
        self.copies = 0
        self.is_full = False
        # Torch's own functions check their argument, then ask the driver, which is not here.
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        for module in (torch.cuda, torch.cuda.memory):
            monkeypatch.setattr(module, "_lazy_init", lambda: None, raising=False)
            monkeypatch.setattr(module, "is_initialized", lambda: True)
        monkeypatch.setattr(
            torch._C, "_cuda_getMemoryFraction", lambda device: self.fraction, raising=False
        )
        monkeypatch.setattr(
            torch._C,
            "_cuda_memoryStats",
            lambda device: {"allocated_bytes": {"all": {"current": self.allocated}}},
            raising=False,
        )
        driver = SimpleNamespace(cudaMemGetInfo=lambda device: (self.free, self.total))
        monkeypatch.setattr(torch.cuda, "cudart", lambda: driver)
        to = Tensor.to

        def copy(tensor: Tensor, target: object, *more: object, **options: object) -> Tensor:
            if target != GPU:
                return to(tensor, target, *more, **options)  # type: ignore[call-overload, no-any-return]
            if self.is_full:
                raise torch.OutOfMemoryError("CUDA out of memory")
            self.copies += 1
            return tensor.clone()

        monkeypatch.setattr(Tensor, "to", copy)


@pytest.fixture
def pixels(tmp_path: Path) -> Pixels:
    return make_pixels(tmp_path)


@pytest.fixture
def gpu(pixels: Pixels, monkeypatch: pytest.MonkeyPatch) -> FakeGpu:
    return FakeGpu(len(pixels.bytes), monkeypatch)


def test_bytes_are_copied_once_where_there_is_room(pixels: Pixels, gpu: FakeGpu) -> None:
    held = pixels.resident(GPU)
    assert held is not None
    assert torch.equal(held, pixels.bytes)
    assert pixels.resident(GPU) is held
    assert gpu.copies == 1


@pytest.mark.parametrize(
    ("free", "fraction", "allocated", "fits"),
    [
        (1000, 1.0, 0, True),
        (4, 1.0, 0, True),  # a quarter of four
        (3.99, 1.0, 0, False),  # neighbours took the rest
        (1000, 0.004, 0, True),
        (1000, 0.00399, 0, False),  # a small share of an empty card
        (1000, 0.5, 496, True),
        (1000, 0.5, 497, False),  # little is left of a large share
    ],
)
def test_smaller_of_free_memory_and_of_what_is_left_of_the_share_decides(
    free: float, fraction: float, allocated: float, fits: bool, pixels: Pixels, gpu: FakeGpu
) -> None:
    size = len(pixels.bytes)
    gpu.free, gpu.fraction, gpu.allocated = int(free * size), fraction, int(allocated * size)
    assert (pixels.resident(GPU) is not None) == fits
    assert gpu.copies == fits


def test_bytes_stay_in_host_memory_where_the_copy_does_not_fit(
    pixels: Pixels, gpu: FakeGpu
) -> None:
    gpu.is_full = True
    assert pixels.resident(GPU) is None
    gpu.is_full = False
    assert pixels.resident(GPU) is None, "a training does not change its way half way"
