"""Tell Ray's autoscaler which kind of node to ask for, where one may be sold out.

The autoscaler of the cluster's head imports this module, because `cluster.yaml` names it in
`RAY_AUTOSCALER_UTILIZATION_SCORER`.
"""

from numbers import Real
from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import _default_utilization_scorer


def prefer_kinds_in_stock(
    node_resources: dict[str, Real],
    resources: list[dict[str, Real]],
    node_type: str,
    *,
    node_availability_summary: NodeAvailabilitySummary,
) -> tuple[Any, ...] | None:
    """Return how well a kind of node serves what waits; the autoscaler asks for the greatest.

    Ray's own answer leaves out whether the cloud has any left, so Ray asks for one kind again and
    again. Here a kind that was refused less than half an hour ago comes after the others. Of
    several such kinds, the one that was refused longest ago comes first.

    Args:
        node_resources: what a node of this kind offers.
        resources: what waits, each piece of work for itself.
        node_type: the name of the kind.
        node_availability_summary: which kinds the cloud has refused lately, and when.

    Returns:
        None if a node of this kind can hold nothing of what waits.
    """
    answer = _default_utilization_scorer(
        node_resources, resources, node_type, node_availability_summary=node_availability_summary
    )
    if answer is None:
        return None
    last = node_availability_summary.node_availabilities.get(node_type)
    if last is None or last.is_available:
        return (True, 0.0, *answer)
    return (False, -last.last_checked_timestamp, *answer)
