"""Driving a launch on Ray: how much work is queued, out-of-memory errors; Ray is not started."""

import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError

from tests.support.work_sources import make_nodes
from wpm.cluster import runner as cluster


@pytest.mark.parametrize(("slots", "waiting"), [(1, 1), (2, 2), (4, 4), (8, 8), (20, 8), (64, 16)])
def test_a_small_cluster_may_double(
    slots: int, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaler adds nodes for waiting trials, and a node takes minutes to start."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((slots, 0)))
    assert cluster.QueueCapacity(1, 0, grows=True)() == slots + waiting


def test_room_grows_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = make_nodes((1, 0))
    monkeypatch.setattr(cluster, "list_nodes", lambda: nodes)
    monkeypatch.setattr(cluster.QueueCapacity, "_RECOUNT_S", 0.0)
    room = cluster.QueueCapacity(1, 0)
    assert room() == 1 + 1
    nodes += make_nodes((7, 0))
    assert room() == 8 + 2


def test_memory_monitor_ends_a_trial_and_not_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune ends the search on errors that it does not attribute to an actor or a task."""
    manager = RayActorManager(resource_manager=SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(manager, "_cleanup_actor", lambda tracked_actor: None)
    cluster.pass_memory_errors_to_tune()
    received: list[Exception] = []

    def hear(_: TrackedActor, error: Exception) -> None:
        received.append(error)

    task = TrackedActorTask(TrackedActor(1, on_error=hear), on_error=hear)
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
    manager._actor_task_failed(task, killed)
    assert received == [killed, killed], "of the actor, and of the task"


def test_second_sigterm_is_patient_and_a_later_ctrl_c_is_not(tmp_path: Path) -> None:
    """Kubernetes asks twice where a job is deleted; trials must save all the same."""
    before = signal.getsignal(signal.SIGTERM)
    stop_file = tmp_path / "stop"
    with cluster._LaunchStopper(lambda: None, lambda: "", stop_file) as stopper:
        assert not stopper.stop_all()
        signal.raise_signal(signal.SIGTERM)
        assert stopper.stop_all()
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt:
            pytest.fail("the second SIGTERM ended the launch")
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert stop_file.exists()
    assert signal.getsignal(signal.SIGTERM) == before
