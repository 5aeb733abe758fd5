"""Describe in one line why a job failed."""

import traceback
from pathlib import Path

from wpm.errors import UserError
from wpm.training.fold import DivergedError
from wpm.training.out_of_memory import is_out_of_memory

_REASON_LENGTH = 300
_CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch raises a plain RuntimeError that names it


def describe_failure(error: Exception) -> str:
    """Describe what ended a training: the error, and the line of code that raised it."""
    message = " ".join(str(error).split())
    if len(message) > _REASON_LENGTH:
        message = message[:_REASON_LENGTH] + " ..."
    if isinstance(error, DivergedError):
        return f"diverged: {message}"
    if is_out_of_memory(error):
        return f"out of GPU memory: {message}"
    if isinstance(error, MemoryError) or _CPU_ALLOCATOR in message:
        return f"out of memory: {message}".removesuffix(": ")
    named = f"{type(error).__name__}: {message}".removesuffix(": ")
    frames = traceback.extract_tb(error.__traceback__)
    if isinstance(error, UserError) or not frames:
        return named
    return f"{named} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})"
