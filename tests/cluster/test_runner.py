"""What fits on the nodes, and how much work Tune is handed; Ray itself is not started."""

import json
import os
import signal
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.air.execution._internal.actor_manager import RayActorManager
from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.air.execution._internal.tracked_actor_task import TrackedActorTask
from ray.exceptions import OutOfMemoryError
from ray.job_submission import JobStatus
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from wpm.cluster import remote, tune_bridge
from wpm.cluster import runner as cluster
from wpm.cluster.nodes import Node, count_slots
from wpm.cluster.worker import Worker
from wpm.errors import StorageError, UserError
from wpm.files import hold_lock
from wpm.jobs.job import InterruptedJobError, StepResult
from wpm.jobs.work import Work


def make_nodes(*resources: tuple[float, float]) -> list[Node]:
    return [Node(str(i), f"node {i}", cpus, gpus) for i, (cpus, gpus) in enumerate(resources)]


@pytest.mark.parametrize(
    ("nodes", "cpus", "gpus", "slots"),
    [
        ([(2, 0)], 1, 0, 2),
        ([(16, 4)], 1, 1, 4),
        ([(2, 4)], 1, 1, 2),
        ([(16, 1), (16, 0)], 1, 0.25, 4),
        ([(1, 0), (1, 0)], 2, 0, 0),  # no node holds it alone
        ([(0.3, 0)], 0.1, 0, 3),
        ([(4, 0)], 1, 0.25, 0),
        ([], 1, 0, 0),
    ],
)
def test_slots_are_counted_node_by_node(
    nodes: list[tuple[float, float]], cpus: float, gpus: float, slots: int
) -> None:
    assert count_slots(make_nodes(*nodes), cpus, gpus) == slots


class Endless:
    """A source that never runs out."""

    exhausted = False
    remaining = 1

    def __init__(self) -> None:
        self.handed_out = 0

    def next_work(self) -> Work:
        self.handed_out += 1
        return Work(str(self.handed_out), "study", {})

    def on_step(self, work: Work, step: StepResult) -> bool:
        return True

    def on_stopped(self, work: Work, step: StepResult) -> None:
        pass

    def on_ended(self, work: Work, step: StepResult) -> None:
        pass

    def on_crashed(self, work: Work, reason: str) -> None:
        pass

    def on_suspended(self, work: Work) -> None:
        pass

    def retire(self, study: str) -> None:
        pass

    def describe(self) -> str:
        return ""


def test_work_is_handed_out_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter more than runs at a time: Tune keeps a process only for a trial that waits."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    source = Endless()
    bridge = tune_bridge.WorkSearcher(source, cluster._QueueCapacity(1, 0))
    while bridge.suggest(f"trial {source.handed_out}"):
        pass
    assert source.handed_out == 8 + 2
    bridge.hear("trial 3", {"step": '{"reports": [], "result": null}'})
    assert bridge.suggest("another") is not None
    assert bridge.suggest("one more") is None


@pytest.mark.parametrize(("slots", "waiting"), [(1, 1), (2, 2), (4, 4), (8, 8), (20, 8), (64, 16)])
def test_a_small_cluster_may_double(
    slots: int, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An autoscaler adds nodes for what waits, and a node takes minutes to come."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((slots, 0)))
    assert cluster._QueueCapacity(1, 0, grows=True)() == slots + waiting


def test_room_grows_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = make_nodes((1, 0))
    monkeypatch.setattr(cluster, "list_nodes", lambda: nodes)
    monkeypatch.setattr(cluster._QueueCapacity, "_RECOUNT_S", 0.0)
    room = cluster._QueueCapacity(1, 0)
    assert room() == 1 + 1
    nodes += make_nodes((7, 0))
    assert room() == 8 + 2


class Scripted(Endless):
    """Remembers what it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []

    def on_step(self, work: Work, step: StepResult) -> bool:
        self.heard.append(f"step of {work.key}")
        return False

    def on_stopped(self, work: Work, step: StepResult) -> None:
        self.heard.append(f"stop of {work.key}")

    def on_crashed(self, work: Work, reason: str) -> None:
        self.heard.append(f"loss of {work.key}: {reason}")


@pytest.mark.parametrize("last", [False, True])
def test_refusal_of_a_worker_ends_the_launch_and_fails_no_work(
    monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """A full disk, say: the source hears of no end, so the next launch goes on with the work."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    source = Scripted()
    bridge = tune_bridge.WorkSearcher(source, cluster._QueueCapacity(1, 0))
    for trial in ("a", "b"):
        assert isinstance(bridge.suggest(trial), dict)
    refusal = {"refused": "checkpoint-1.pt: cannot be written (No space left on device)"}
    if last:  # as Tune ends: with the last result of each
        bridge.on_trial_complete("a", {**refusal, "done": True})
    else:
        refused: Any = SimpleNamespace(trial_id="a", run_metadata=SimpleNamespace(num_failures=0))
        controller: Any = SimpleNamespace()
        decision = tune_bridge.WorkScheduler(bridge).on_trial_result(controller, refused, refusal)
        assert decision == FIFOScheduler.STOP, "the worker is stopped"
    assert isinstance(bridge.error, UserError)
    assert str(bridge.error) == refusal["refused"]
    assert bridge.suggest("c") == Searcher.FINISHED
    # The other work ends after its step, and is not told as stopped or lost either.
    assert bridge.hear("b", {"step": '{"reports": [], "result": null}'})
    bridge.on_trial_complete("b", None, error=True)
    assert source.heard == []


def make_worker() -> tuple[Worker, dict[str, Any]]:
    """Return a worker without a process of its own, and what it was set up with."""
    worker = Worker.__new__(Worker)
    worker._lookout = threading.Thread()  # never started, and no signal is taken over
    config = {"threads": 1, "gpus": 0.0, "payload": "{}", "stop_file": ""}
    worker.setup(config)
    return worker, config


class ExitedError(Exception):
    """The actor's process would be gone."""


@pytest.mark.parametrize("started", [False, True])
def test_worker_asked_to_end_leaves_at_once_while_its_work_starts(
    monkeypatch: pytest.MonkeyPatch, started: bool
) -> None:
    """A job may wait minutes for the lock of an orphan."""
    heard: list[str] = []

    class Slow:
        def step(self) -> StepResult:
            worker._receive(signal.SIGTERM, None)
            assert heard == ["interrupt"]
            raise InterruptedJobError

        def interrupt(self) -> None:
            heard.append("interrupt")

        def close(self) -> None:
            heard.append("close")

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
    assert heard == (["interrupt", "close"] if started else [])


def test_worker_says_what_is_wrong_and_lets_its_work_go(
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


def make_trial(error_file: Path | None = None) -> Any:
    failures = SimpleNamespace(num_failures=2)
    return SimpleNamespace(trial_id="1", run_metadata=failures, error_file=error_file)


def test_deaths_are_counted_anew_when_a_trial_has_got_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    bridge = tune_bridge.WorkSearcher(Endless(), cluster._QueueCapacity(1, 0))
    listener, trial = tune_bridge.WorkScheduler(bridge), make_trial()

    def failures_after(reports: int) -> int:
        bridge.suggest("1")
        trial.run_metadata.num_failures = 2
        step = json.dumps({"reports": [{}] * reports, "result": None})
        listener.on_trial_result(SimpleNamespace(), trial, {"step": step})  # type: ignore[arg-type]
        return int(trial.run_metadata.num_failures)

    assert failures_after(3) == 0
    assert failures_after(3) == 2, "a resumed trial only repeated its history"
    assert failures_after(4) == 0


def test_saved_work_that_was_asked_to_end_is_no_death(tmp_path: Path) -> None:
    bridge = tune_bridge.WorkSearcher(Endless(), lambda: 1)
    noted = tmp_path / "error.txt"
    noted.write_text("Failure # 1 (occurred at 1)\nOOM killer\nFailure # 2 (at 2)\nexit_actor()\n")
    trial = make_trial(noted)
    tune_bridge.WorkScheduler(bridge).on_trial_error(SimpleNamespace(), trial)  # type: ignore[arg-type]
    assert trial.run_metadata.num_failures == 1
    assert bridge.errors == {"1": "it was asked to end (SIGTERM)"}
    noted.write_text("Failure # 3 (occurred at 1)\nits node has died\n")
    tune_bridge.WorkScheduler(bridge).on_trial_error(SimpleNamespace(), trial)  # type: ignore[arg-type]
    assert trial.run_metadata.num_failures == 1
    assert bridge.errors == {"1": "its node died"}


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("", "killed"),
        ("1 worker(s) were killed due to the node running low on memory. Memory on\nthe OOM killer",
         "out of memory, ended by Ray's memory monitor"),
        ("died\nThe actor died because its node has died. Node Id: 1", "its node died"),
        ("died\n(1) the process was killed by the OOM killer due to high memory\n",
         "killed, out of memory, hung or crashed"),
        ("Traceback\n  wpm.errors.StorageError: /x: cannot be written\n",
         "wpm.errors.StorageError: /x: cannot be written"),
    ],
)  # fmt: skip
def test_death_is_named_in_one_line(error: str, words: str) -> None:
    assert tune_bridge.describe_crash(error) == words


def test_what_tune_keeps_of_an_ended_trial_is_let_go() -> None:
    """It keeps every trial for its analysis, which nobody reads."""
    listener = tune_bridge.WorkScheduler(tune_bridge.WorkSearcher(Endless(), lambda: 1))
    controller = SimpleNamespace()
    config = {"payload": "long"}
    ended, ending = (Trial("wpm", stub=True, config=dict(config)) for _ in range(2))
    for trial in (ended, ending):
        trial.update_last_result({"step": "long", "score": 0.5, "training_iteration": 1})
        listener.on_trial_complete(controller, trial, {})  # type: ignore[arg-type]
    ended.set_status(Trial.TERMINATED)
    listener.on_trial_add(controller, ending)  # type: ignore[arg-type]
    assert (ended.config, ended.metric_analysis, ended.run_metadata.last_result) == ({}, {}, {})
    assert ending.config == config, "Tune is not through with it"
    assert ending.last_result["step"] == "long"


def test_process_that_is_starting_is_left_to_its_trial() -> None:
    """Tune would give its trial the next process that is free, and drop it: see the docstring."""
    running, starting, waiting, new = (
        SimpleNamespace(status=status) for status in ("RUNNING", "PENDING", "PENDING", "PENDING")
    )
    actors = {id(running): "started", id(starting): "started", id(waiting): "asked for"}
    controller = SimpleNamespace(
        get_trials=lambda: [running, starting, waiting, new],
        _trial_to_actor=SimpleNamespace(get=lambda trial: actors.get(id(trial))),
        _actor_manager=SimpleNamespace(is_actor_started=lambda actor: actor == "started"),
    )
    listener = tune_bridge.WorkScheduler(tune_bridge.WorkSearcher(Endless(), lambda: 1))
    wrapper = SimpleNamespace(_tune_controller=controller)

    def chosen() -> Any:
        return listener.choose_trial_to_run(wrapper)

    assert chosen() is waiting, "the oldest"
    actors[id(waiting)] = "started"
    assert chosen() is new
    actors[id(new)] = "started"
    assert chosen() is None


def test_memory_monitor_ends_a_trial_and_not_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune gives up altogether on errors that it takes for none of an actor's or a task's."""
    manager = RayActorManager(resource_manager=SimpleNamespace())  # type: ignore[arg-type]
    monkeypatch.setattr(manager, "_cleanup_actor", lambda tracked_actor: None)
    cluster.pass_memory_errors_to_tune()
    heard: list[Exception] = []

    def hear(_: TrackedActor, error: Exception) -> None:
        heard.append(error)

    task = TrackedActorTask(TrackedActor(1, on_error=hear), on_error=hear)
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory.")
    manager._actor_task_failed(task, killed)
    assert heard == [killed, killed], "of the actor, and of the task"


def test_files_of_killed_launches_are_removed(tmp_path: Path) -> None:
    old, young, held = (tmp_path / f".ray-{name}" for name in ("old", "young", "held"))
    for folder in (old, young, held):
        folder.mkdir()
        (folder / cluster._LOCK).touch()
    for folder in (old, held):
        os.utime(folder, (0, 0))
    with (
        hold_lock(held / cluster._LOCK, wait_s=0, what="it"),
        cluster._hold_ray_files(tmp_path) as ours,
    ):
        assert set(tmp_path.iterdir()) == {young, held, ours}
    assert set(tmp_path.iterdir()) == {young, held}


class Jobs:
    """A cluster's job interface, with one job that ends at the second look."""

    status = JobStatus.SUCCEEDED
    printed = "job_manager: set up\nRunning entrypoint for job 1: x\nstudy a\nstudy b\n"

    def __init__(self, address: str) -> None:
        if "nobody" in address:
            raise ConnectionError("Failed to connect")
        self.looks = [JobStatus.RUNNING, self.status]

    def submit_job(self, *, entrypoint: str, entrypoint_num_cpus: int) -> str:
        assert entrypoint == "python launch.py --status --run-root '/mnt/my runs'"
        assert entrypoint_num_cpus == 0, "beside what trains there"
        return "1"

    def get_job_status(self, job: str) -> JobStatus:
        return self.looks.pop(0)

    def get_job_logs(self, job: str) -> str:
        return self.printed


COMMAND = ["python", "launch.py", "--status", "--run-root", "/mnt/my runs"]


def test_what_a_command_on_the_head_prints_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JobSubmissionClient", Jobs)
    assert remote.run_on_head("http://head:8265", COMMAND) == "study a\nstudy b"


def test_what_goes_wrong_there_is_one_line_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "JobSubmissionClient", Jobs)
    monkeypatch.setattr(Jobs, "status", JobStatus.FAILED)
    monkeypatch.setattr(Jobs, "printed", "launch.py: error: no studies under /mnt/my runs\n")
    with pytest.raises(UserError, match=r"^on http://head:8265: no studies under /mnt/my runs$"):
        remote.run_on_head("http://head:8265", COMMAND)
    with pytest.raises(UserError, match=r"no job interface answers .*ray dashboard cluster.yaml"):
        remote.run_on_head("http://nobody:8265", COMMAND)
