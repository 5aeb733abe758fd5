"""The precision in which trunk and embedder multiply; scores are always computed in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# "float32" is IEEE float32 everywhere. torch's own default lets cuDNN round the inputs of
# convolutions to tf32 on GPUs that support it, and the published numbers were not made so.
_FLOAT32_AS = {"float32": "ieee", "tf32": "tf32", "bf16": "ieee"}


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set how this process multiplies float32 numbers on a GPU, and restore it at the end.

    Args:
        precision: the protocol's. With "bf16", operations that stay in float32 use IEEE float32.
    """
    convolution = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    matrix = torch.backends.cuda.matmul
    before = convolution.fp32_precision, matrix.fp32_precision
    convolution.fp32_precision = matrix.fp32_precision = _FLOAT32_AS[precision]
    try:
        yield
    finally:
        convolution.fp32_precision, matrix.fp32_precision = before


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 if the protocol's precision is "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
