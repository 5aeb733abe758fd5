"""The machine that a benchmark runs on: its device, and the memory in use."""

import platform
import resource
from pathlib import Path

import torch


def find_device() -> tuple[torch.device, str]:
    """Return the GPU if there is one, else the CPU, and the name of the hardware."""
    if torch.cuda.is_available():
        return torch.device("cuda"), torch.cuda.get_device_name()
    return torch.device("cpu"), platform.machine()


def resident_bytes() -> int:
    """Return the resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
