"""What fits on the nodes, and how much work Tune is handed; Ray itself is not started."""

import pytest
from ray.job_submission import JobStatus

from wpm import cluster
from wpm.errors import UserError
from wpm.jobs import StepResult
from wpm.machine import Node, count_slots
from wpm.work import Work


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

    def on_lost(self, work: Work, reason: str) -> None:
        pass

    def on_left(self, work: Work) -> None:
        pass

    def retire(self, study: str) -> None:
        pass

    def describe(self) -> str:
        return ""


def test_work_is_handed_out_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter more than runs at a time: Tune keeps a process only for a trial that waits."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    source = Endless()
    bridge = cluster._Bridge(source, cluster._Room(1, 0))
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
    assert cluster._Room(1, 0, grows=True)() == slots + waiting


def test_room_grows_with_the_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = make_nodes((1, 0))
    monkeypatch.setattr(cluster, "list_nodes", lambda: nodes)
    monkeypatch.setattr(cluster._Room, "_RECOUNT_S", 0.0)
    room = cluster._Room(1, 0)
    assert room() == 1 + 1
    nodes += make_nodes((7, 0))
    assert room() == 8 + 2


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
    monkeypatch.setattr(cluster, "JobSubmissionClient", Jobs)
    assert cluster.run_on_head("http://head:8265", COMMAND) == "study a\nstudy b"


def test_what_goes_wrong_there_is_one_line_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "JobSubmissionClient", Jobs)
    monkeypatch.setattr(Jobs, "status", JobStatus.FAILED)
    monkeypatch.setattr(Jobs, "printed", "launch.py: error: no studies under /mnt/my runs\n")
    with pytest.raises(UserError, match=r"^on http://head:8265: no studies under /mnt/my runs$"):
        cluster.run_on_head("http://head:8265", COMMAND)
    with pytest.raises(UserError, match=r"no job interface answers .*ray dashboard cluster.yaml"):
        cluster.run_on_head("http://nobody:8265", COMMAND)
