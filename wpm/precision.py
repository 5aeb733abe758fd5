"""In which precision trunk and embedder multiply; scores are always computed in float32."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

# "float32" is IEEE float32 throughout. torch's own default lets cuDNN round the inputs of
# convolutions to tf32 on GPUs that can: not what the published numbers were made with.
_FLOAT32_AS = {"float32": "ieee", "tf32": "tf32", "bf16": "ieee"}


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set how this process multiplies float32 numbers on a GPU, and put it back at the end.

    Args:
        precision: of a protocol; "bf16" leaves what is still float32 in IEEE float32.
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
    """Return the context of a forward pass: bfloat16 where the protocol says so, else none.

    Args:
        precision: of a protocol.
        device: of the images.
    """
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
