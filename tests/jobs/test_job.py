"""Work runs on the GPU that it was given."""

import pytest
import torch

from wpm.jobs.job import choose_device


@pytest.mark.parametrize(
    ("gpus", "node_has_one", "device"),
    [(1, True, "cuda"), (0.125, True, "cuda"), (0, True, "cpu"), (1, False, "cpu")],
)
def test_work_runs_on_a_gpu_only_if_it_was_given_one(
    gpus: float, node_has_one: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: node_has_one)
    assert choose_device(gpus).type == device
