"""The kind of node that the autoscaler asks for next, where kinds may be sold out."""

from functools import partial
from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import (
    NodeProviderAvailabilityTracker,
)
from ray.autoscaler._private.resource_demand_scheduler import get_nodes_for
from ray.autoscaler.node_launch_exception import NodeLaunchException

from wpm.cluster.node_kinds import prefer_kinds_in_stock

NODE: Any = {"CPU": 4, "GPU": 1}
KINDS = {
    name: {"resources": NODE, "min_workers": 0, "max_workers": 8, "node_config": {}}
    for name in ("spot_l4", "spot_a10g")
}
TRIAL: Any = {"CPU": 1.0, "GPU": 1.0}
SOLD_OUT = NodeLaunchException("InsufficientInstanceCapacity", "none left", None)


def chosen(tracker: NodeProviderAvailabilityTracker, trials: int = 1) -> dict[str, int]:
    """Return how many nodes of each kind Ray asks for, for trials that wait."""

    score: Any = partial(prefer_kinds_in_stock, node_availability_summary=tracker.summary())
    nodes, _ = get_nodes_for(KINDS, {}, "head", 8, [TRIAL] * trials, score)
    return dict(nodes)


def test_a_kind_that_was_refused_comes_after_the_others() -> None:
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 100.0)
    (first,) = chosen(tracker)
    (other,) = set(KINDS) - {first}
    tracker.update_node_availability(first, 90, SOLD_OUT)
    assert chosen(tracker, trials=3) == {other: 3}
    tracker.update_node_availability(first, 95, None)
    assert chosen(tracker) == {first: 1}


def test_of_kinds_that_were_refused_the_longest_ago_comes_first() -> None:
    tracker = NodeProviderAvailabilityTracker(timer=lambda: 100.0)
    for second in range(90, 96):
        (asked,) = chosen(tracker)
        tracker.update_node_availability(asked, second, SOLD_OUT)
        assert chosen(tracker) != {asked: 1}, "it is another kind's turn"


def test_a_kind_that_cannot_hold_a_trial_has_no_score() -> None:
    summary = NodeProviderAvailabilityTracker().summary()
    needed: Any = [{"GPU": 2.0}]
    assert prefer_kinds_in_stock(NODE, needed, "a", node_availability_summary=summary) is None
