"""Describe in one line why a job failed."""

import traceback
from pathlib import Path

import torch

from wpm.errors import UserError
from wpm.training.out_of_memory import is_out_of_memory

_REASON_LENGTH = 300
# How torch's plain RuntimeErrors begin where a GPU, or a library on it, has failed.
_GPU_ERRORS = ("CUDA error", "cuDNN error", "CUDA driver error")
_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch raises a plain RuntimeError that names it


def is_broken_gpu(error: Exception) -> bool:
    """Whether an error leaves this process without a usable GPU.

    After an illegal access, a device-side assertion or a fault of the hardware, every later call
    on the GPU fails in the same process. Out of memory is harmless: the next call may succeed.
    """
    if is_out_of_memory(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _GPU_ERRORS)


def describe_failure(error: Exception) -> str:
    """Describe what ended a training: the error, and the line of code that raised it."""
    message = " ".join(str(error).split())
    if len(message) > _REASON_LENGTH:
        message = message[:_REASON_LENGTH] + " ..."
    if is_out_of_memory(error):
        return f"out of GPU memory: {message}"
    if isinstance(error, MemoryError) or _CPU_ALLOCATOR in message:
        return f"out of memory: {message}".removesuffix(": ")
    named = f"{type(error).__name__}: {message}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, UserError) or not frames:
        return named
    return f"{named} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
