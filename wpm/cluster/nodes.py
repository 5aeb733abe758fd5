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
        name: for people: host name and address.
        cpus: declared for trials.
        gpus: declared for trials.
    """

    id: str
    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Answer:
    """What a node answered.

    Attributes:
        node: which.
        value: its answer, None if it has none.
        error: why it has none.
    """

    node: Node
    value: Any
    error: str | None = None


# Runs a function once on every node: function, question -> answers.
AskNodes = Callable[[Callable[[Node, Any], Any], Any], list[Answer]]


def ask_nodes(
    function: Callable[[Node, Any], Any], question: Any, *, wait_s: float = 180.0
) -> list[Answer]:
    """Run a function once on every node, beside whatever runs there; Ray must be connected.

    Args:
        function: of the node and the question; picklable, as its answer is.
        question: passed to it.
        wait_s: seconds after which a node counts as silent.
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
    """Return how many pieces of work run at a time.

    Args:
        nodes: of the cluster.
        cpus: cores a piece of work, above 0.
        gpus: GPUs a piece of work; 0 for none.
    """
    # A little more than there is: 3 x 0.1 must fit 0.3.
    return sum(
        min(
            int(have / wanted + 1e-6)
            for have, wanted in ((node.cpus, cpus), (node.gpus, gpus))
            if wanted
        )
        for node in nodes
    )
