"""Code version, libraries and machine behind a record."""

import platform
import subprocess
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.cpus import count_cpus


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Return the code version, libraries and machine that write a record."""
    libraries = ("torch", "torchvision", "pytorch-metric-learning", "ray", "optuna", "numpy")
    return {
        "wpm": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: _version_of(name) for name in libraries},
        "machine": platform.node(),
        "processor": platform.machine(),
        "cores": count_cpus(),
        "started": timestamp(),
    }


@cache  # this process keeps running the version that it has loaded, whatever is installed later
def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """Return the commit of the source tree, marked "dirty" if changed; None outside a tree."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"],
            cwd=here, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None
