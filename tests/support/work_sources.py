"""Nodes and sources of work for tests of the cluster; Ray itself is not started."""

from wpm.cluster.nodes import Node
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work


def make_nodes(*resources: tuple[float, float]) -> list[Node]:
    return [Node(str(i), f"node {i}", cpus, gpus) for i, (cpus, gpus) in enumerate(resources)]


class Endless:
    """A source that never runs out."""

    exhausted = False
    remaining = 1

    def __init__(self) -> None:
        self.handed_out = 0

    def next_work(self) -> Work:
        self.handed_out += 1
        return Work(str(self.handed_out), "study", {})

    def on_step(self, work: Work, step: StepResult) -> Decision:
        return Decision.STOP

    def on_stopped(self, work: Work, step: StepResult) -> None:
        pass

    def on_ended(self, work: Work, step: StepResult) -> None:
        pass

    def on_crashed(self, work: Work, reason: str) -> None:
        pass

    def on_suspended(self, work: Work) -> None:
        pass

    def stop_study(self, study: str) -> None:
        pass

    def describe(self) -> str:
        return ""


class Scripted(Endless):
    """Remembers its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []

    def on_step(self, work: Work, step: StepResult) -> Decision:
        self.calls.append(f"step of {work.key}")
        return Decision.CONTINUE

    def on_stopped(self, work: Work, step: StepResult) -> None:
        self.calls.append(f"stop of {work.key}")

    def on_crashed(self, work: Work, reason: str) -> None:
        self.calls.append(f"crash of {work.key}: {reason}")
