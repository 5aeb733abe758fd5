"""The nodes of a cluster: their resources, and questions that every node answers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy


@dataclass(frozen=True)
class Node:
    """A node of a cluster, as the cluster describes it.

    Attributes:
        id: unique in the cluster.
        name: host name and address, for messages.
        cpus: cores that the node offers to trials.
        gpus: GPUs that the node offers to trials.
    """

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Answer:
    """What a node answered.

    Attributes:
        node: the node that was asked.
        value: its answer, None if there is none.
        error: why there is none.
    """

    node: Node
    value: Any
    error: str | None = None


# The type of `ask_nodes`: runs a function once on every node; function, question -> answers.
AskNodes = Callable[[Callable[[Node, Any], Any], Any], list[Answer]]


def ask_nodes(
    function: Callable[[Node, Any], Any], question: Any, *, wait_s: float = 180.0
) -> list[Answer]:
    """Run a function once on every node, also while work runs there; Ray must be connected.

    Args:
        function: is called with the node and the question; it and its answer must be picklable.
        question: the same for every node.
        wait_s: a node that has not answered by then counts as silent.
    """
    task = ray.remote(num_cpus=0, max_retries=0)(function)
    asked = {
        task.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False)
        ).remote(node, question): node
        for node in list_nodes()
    }
    ready, _ = ray.wait(list(asked), num_returns=len(asked), timeout=wait_s)
    answers = []
    for reference, node in asked.items():
        if reference not in ready:
            answers.append(Answer(node, None, f"silent for {wait_s:.0f} s"))
            continue
        try:
            answers.append(Answer(node, ray.get(reference)))
        except RayError as error:
            answers.append(Answer(node, None, str(error).strip().splitlines()[-1].strip()))
    return answers


def list_nodes() -> list[Node]:
    """Return the nodes that are alive; Ray must be connected."""
    return [
        Node(
            id=node["NodeID"],
            name=f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            cpus=node["Resources"].get("CPU", 0.0),
            gpus=node["Resources"].get("GPU", 0.0),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def count_slots(nodes: Iterable[Node], cpus: float, gpus: float) -> int:
    """Return how many pieces of work can run at a time.

    Args:
        nodes: all nodes of the cluster.
        cpus: cores per piece of work, above 0.
        gpus: GPUs per piece of work; 0 for none.
    """
    # The small addition makes 3 x 0.1 fit 0.3, whatever floating point makes of it.
    return sum(
        min(
            int(offered / needed + 1e-6)
            for offered, needed in ((node.cpus, cpus), (node.gpus, gpus))
            if needed
        )
        for node in nodes
    )
