"""Tell an error that means "out of GPU memory" from every other one."""

import torch

# What libraries below torch say, in a plain RuntimeError, where their own workspace did not fit.
# cuDNN looks for another algorithm then, and finds none.
_DISGUISES = (
    "unable to find an engine to execute this computation",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDA out of memory",
    "CUDA error: out of memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's memory was too small for what was asked of it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _DISGUISES)
