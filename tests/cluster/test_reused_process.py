"""A process that dies while the next trial takes it over costs no trial; with Ray Tune itself."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray import tune

from tests.support.work_sources import Endless
from wpm.cluster import runner
from wpm.cluster.connection import Resources, connect
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work

pytestmark = pytest.mark.slow


class Three(Endless):
    """Hands out three pieces of work, which stop after a step."""

    def __init__(self) -> None:
        super().__init__()
        self.stopped: list[str] = []
        self.crashed: list[str] = []

    @property
    def exhausted(self) -> bool:  # type: ignore[override]
        return self.handed_out == 3

    def next_work(self) -> Work | None:  # type: ignore[override]
        return None if self.exhausted else super().next_work()

    def on_step(self, work: Work, step: StepResult) -> Decision:
        return Decision.STOP

    def on_stopped(self, work: Work, step: StepResult) -> None:
        self.stopped.append(work.key)

    def on_crashed(self, work: Work, reason: str) -> None:
        self.crashed.append(reason)


def make_worker(mark: Path) -> type[tune.Trainable]:
    """Return a worker whose process dies when it is first taken over; Ray copies it by value."""
    step = json.dumps(StepResult().to_json())

    class Worker(tune.Trainable):
        def step(self) -> dict[str, Any]:
            return {"step": step}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return True

    return Worker


def test_trial_that_was_taking_over_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "died"
    monkeypatch.setattr(runner, "Worker", make_worker(mark))
    source, resources = Three(), Resources("local", os.cpu_count() or 1, 0)

    def show(describe: Callable[[], str]) -> None: ...

    with connect(resources, print):
        runner.run_work(source, resources, tmp_path, show)
    assert mark.exists()
    assert source.crashed == []
    assert sorted(source.stopped) == ["1", "2", "3"]
