"""Benchmarks are carried to GPU machines that have torch, torchvision and metric learning only."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CARRIED = [
    "within_pair_step",
    "gradient_shares",
    "folds",
    "precision",
    "views",
    "images",
    "table_cost",
]
ABSENT = ["ray", "optuna", "faiss", "pandas", "plotly", "safetensors"]


@pytest.mark.parametrize("name", CARRIED)
def test_benchmark_starts_without_what_gpu_machines_lack(name: str) -> None:
    code = f"import sys\nfor name in {ABSENT}: sys.modules[name] = None\nimport benchmarks.{name}\n"
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr
