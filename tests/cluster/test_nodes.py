"""How many trials fit on the nodes."""

import pytest

from tests.support.work_sources import make_nodes
from wpm.cluster.nodes import count_slots


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
