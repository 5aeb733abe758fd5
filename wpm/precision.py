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
    before = _read_products()
    _set_products(dict.fromkeys(before, _FLOAT32_AS[precision]))
    try:
        yield
    finally:
        _set_products(before)


def _read_products() -> dict[str, str]:
    """Return how convolutions, recurrent layers and matrix products multiply now."""
    cudnn = torch.backends.cudnn
    return {
        "convolution": cudnn.conv.fp32_precision,  # type: ignore[attr-defined]
        "recurrent": cudnn.rnn.fp32_precision,  # type: ignore[attr-defined]
        "matrix": torch.backends.cuda.matmul.fp32_precision,
    }


def _set_products(products: dict[str, str]) -> None:
    """Set what `_read_products` returned, and torch's older flags to agree with it.

    Torch refuses to read an older flag (`allow_tf32`, `get_float32_matmul_precision`) that says
    something else than the newer ones, and torch.compile reads them. An older flag overwrites the
    newer ones, so it goes first.
    """
    cudnn, matrix = torch.backends.cudnn, torch.backends.cuda.matmul
    cudnn.allow_tf32 = products["convolution"] == "tf32"
    matrix.allow_tf32 = products["matrix"] == "tf32"
    cudnn.conv.fp32_precision = products["convolution"]  # type: ignore[attr-defined]
    cudnn.rnn.fp32_precision = products["recurrent"]  # type: ignore[attr-defined]
    matrix.fp32_precision = products["matrix"]


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context of a forward pass: bfloat16 if the protocol's precision is "bf16"."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")
