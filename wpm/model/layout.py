"""Choose how images and weights lie in memory, which decides the kernels that run.

"Channels last" keeps the channels of a pixel together. CPUs are faster with it, and so are the
tensor cores of a GPU. Its kernels for IEEE float32 are not: there they convert to and fro
(docs/performance.md). Some releases of torch also compute a wrong gradient in this layout, so a
GPU gets it only after a small trial of the operation.
"""

import functools

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from wpm.model.embedding import EmbeddingModel

_RIGHT_WITHIN = 1e-5  # the trial's numbers are about 1


def place(model: EmbeddingModel, device: torch.device) -> EmbeddingModel:
    """Move a model to a device, in the layout that suits it; its images will follow."""
    model.to(device)
    model.lay_out(choose_layout(device, model.precision))
    return model


def choose_layout(device: torch.device, precision: str) -> torch.memory_format:
    """Return the layout for a device and a protocol's precision."""
    if device.type == "cpu" or (precision != "float32" and pools_rightly(device)):
        return torch.channels_last
    return torch.contiguous_format


@functools.cache
def pools_rightly(device: torch.device) -> bool:
    """Whether a padded average pool of channels-last images has the right gradient on a device.

    Torch had it wrong on GPUs until June 2026, without an error (pytorch/pytorch issue 188344).
    Inception networks have such pools.
    """
    return torch.allclose(
        _pooled_gradient(device, torch.channels_last),
        _pooled_gradient(torch.device("cpu"), torch.contiguous_format),
        rtol=0,
        atol=_RIGHT_WITHIN,
    )


def _pooled_gradient(device: torch.device, layout: torch.memory_format) -> Tensor:
    numbers = torch.arange(2 * 5 * 5, dtype=torch.float32).view(1, 2, 5, 5)
    images = torch.zeros_like(numbers).to(device, memory_format=layout).requires_grad_()
    pooled = avg_pool2d(images, 3, stride=1, padding=1)
    pooled.backward((numbers / 50).to(device, memory_format=layout))
    assert images.grad is not None
    return images.grad.cpu()
