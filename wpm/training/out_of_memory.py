"""Recognise the errors that mean "out of GPU memory"."""

import torch

# Libraries below torch raise a plain RuntimeError with such a text when their own workspace does
# not fit. (cuDNN then looks for another algorithm, and finds none.)
_DISGUISES = (
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDA out of memory",
    "CUDA error: out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that the GPU's memory was too small."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _DISGUISES)
