"""The process that runs a trial: how it ends and what it reports; Ray itself is not started."""

import gc
import signal
import threading
import weakref
from typing import Any

import pytest

from wpm.cluster.watchdog import FIRST_S, FLOOR_S
from wpm.cluster.worker import Worker
from wpm.errors import StorageError, UserError
from wpm.jobs.job import BrokenGpuError, InterruptedJobError, StepResult


def make_worker() -> tuple[Worker, dict[str, Any]]:
    """Return a worker in the test's own process, and its configuration."""
    worker = Worker.__new__(Worker)
    worker._stop_watcher = threading.Thread()  # never started, and no signal is taken over
    config = {"threads": 1, "gpus": 0.0, "payload": "{}", "stop_file": ""}
    worker.setup(config)
    return worker, config


class ExitedError(Exception):
    """Raised where the actor's process would end."""


@pytest.mark.parametrize("started", [False, True])
def test_worker_that_gets_sigterm_ends_at_once_while_its_work_starts(
    monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """A job may wait minutes for the lock of an orphan."""
    calls: list[str] = []

    class Slow:
        def step(self) -> StepResult:
            worker._receive(signal.SIGTERM, None)
            assert calls == ["interrupt"]
            raise InterruptedJobError

        def interrupt(self) -> None:
            calls.append("interrupt")

        def close(self) -> None:
            calls.append("close")

    def start(payload: object) -> Slow:
        if not started:
            worker._receive(signal.SIGTERM, None)
            raise AssertionError("it would have waited")
        return Slow()

    def leave() -> None:
        raise ExitedError

    monkeypatch.setattr("wpm.cluster.worker.start_job", start)
    monkeypatch.setattr("wpm.cluster.worker.exit_actor", leave)
    worker, _ = make_worker()
    with pytest.raises(ExitedError):
        worker.step()
    assert calls == (["interrupt", "close"] if started else [])


def test_worker_reports_the_error_and_closes_its_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closed = []

    class FullDisk:
        def step(self) -> StepResult:
            raise StorageError("checkpoint-1.pt: cannot be written (No space left on device)")

        def close(self) -> None:
            closed.append(self)

    def refuse(payload: object) -> FullDisk:
        raise UserError("trials/0007: not visible on node 2")

    monkeypatch.setattr("wpm.cluster.worker.start_job", lambda payload: FullDisk())
    worker, config = make_worker()
    assert worker.step()["refused"].startswith("checkpoint-1.pt: cannot be written")
    assert len(closed) == 1
    monkeypatch.setattr("wpm.cluster.worker.start_job", refuse)
    assert worker.reset_config(config)
    assert worker.step() == {"refused": "trials/0007: not visible on node 2"}


@pytest.mark.parametrize("again", [False, True], ids=["once", "twice"])
def test_worker_that_gets_sigterm_between_two_steps_closes_its_work(
    monkeypatch: pytest.MonkeyPatch, again: bool
) -> None:
    """It waits for the driver's decision, so what it did since the last checkpoint is not saved."""
    calls: list[str] = []

    class Unsaved:
        def step(self) -> StepResult:
            return StepResult()

        def close(self) -> None:
            if again:  # must not end the process in the middle of the checkpoint
                worker._receive(signal.SIGTERM, None)
            calls.append("saved")

    monkeypatch.setattr("wpm.cluster.worker.start_job", lambda payload: Unsaved())
    worker, _ = make_worker()
    worker.step()
    with pytest.raises(SystemExit):
        worker._receive(signal.SIGTERM, None)
    assert calls == ["saved"]


def test_step_that_only_reports_history_sets_no_limit_for_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The next one may have to train again for minutes what a kill has lost."""
    steps = iter([StepResult(is_history=True), StepResult()])

    class Resumed:
        def step(self) -> StepResult:
            return next(steps)

    monkeypatch.setattr("wpm.cluster.worker.start_job", lambda payload: Resumed())
    worker, _ = make_worker()
    worker.step()
    assert worker._watchdog.limit_s == FIRST_S
    worker.step()
    assert worker._watchdog.limit_s == FLOOR_S


def test_memory_of_a_job_is_free_before_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    class Cyclic:
        def __init__(self) -> None:
            self.training = self  # as an optimiser holds what holds it

        def step(self) -> StepResult:
            return StepResult()

        def close(self) -> None:
            pass

    monkeypatch.setattr("wpm.cluster.worker.start_job", lambda payload: Cyclic())
    worker, config = make_worker()
    worker.step()
    job = weakref.ref(worker._job)
    assert job() is not None
    gc.disable()
    try:
        worker.reset_config(config)
        assert job() is None
    finally:
        gc.enable()


def test_process_ends_when_its_gpu_is_broken(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    closed = []

    class Broken:
        def step(self) -> StepResult:
            raise BrokenGpuError("AcceleratorError: CUDA error: an illegal memory access")

        def close(self) -> None:
            closed.append(self)

    def leave(code: int) -> None:
        assert code != 0
        raise ExitedError

    monkeypatch.setattr("wpm.cluster.worker.start_job", lambda payload: Broken())
    monkeypatch.setattr("os._exit", leave)
    worker, _ = make_worker()
    with pytest.raises(ExitedError):
        worker.step()
    assert len(closed) == 1, "the folder's lock is free for the next process"
    assert "illegal memory access" in caplog.text
