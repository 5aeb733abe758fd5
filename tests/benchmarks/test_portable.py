"""Benchmarks are carried to GPU machines that have torch, torchvision and metric learning only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import STAGES

ROOT = Path(__file__).resolve().parents[2]
CARRIED = [
    "within_pair_step",
    "gradient_shares",
    "folds",
    "precision",
    "views",
    "images",
    "table_cost",
    "trunks",
]
CARRIED += ["gpu.__main__", *(f"gpu.{entry.module}" for entry in STAGES.values())]
ABSENT = [
    *("ray", "optuna", "faiss", "pandas", "plotly", "safetensors", "matplotlib", "tensorboardX"),
    *("jinja2", "timm"),
]


# Imports each benchmark where those packages cannot be imported; prints what went wrong by name.
TRY_ALL = """
import importlib, json, sys, traceback

benchmarks, absent = json.loads(sys.argv[1])
for name in absent:
    sys.modules[name] = None
errors = {}
for name in benchmarks:
    try:
        importlib.import_module(f"benchmarks.{name}")
    except Exception:
        errors[name] = traceback.format_exc()
print(json.dumps(errors))
"""


@pytest.fixture(scope="module")
def errors() -> dict[str, str]:
    """Import all benchmarks in one process, which loads torch once."""
    answer = subprocess.run(
        [sys.executable, "-c", TRY_ALL, json.dumps([CARRIED, ABSENT])],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return dict(json.loads(answer.stdout))


@pytest.mark.parametrize("name", CARRIED)
def test_benchmark_starts_without_what_gpu_machines_lack(name: str, errors: dict[str, str]) -> None:
    assert name not in errors, errors[name]
