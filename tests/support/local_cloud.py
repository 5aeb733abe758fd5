"""A cloud for Ray's autoscaler whose machines are Ray nodes on this machine.

The autoscaler's process imports this module, because the cluster's file names it as an external
provider.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_USER_NODE_TYPE


class LocalCloud(FakeMultiNodeProvider):
    """Ray's provider for one machine, with what a cloud of spot machines does besides.

    Its head has the name that the cluster's file gives it, machines vanish, and kinds sell out.
    The provider's settings hold `head_kind`, and `sold_out`, the path of a file with the names of
    the kinds that cannot be had at present.
    """

    def __init__(self, provider_config: dict[str, Any], cluster_name: str) -> None:
        super().__init__(provider_config, cluster_name)
        head = self._nodes[self._head_node_id]
        head["tags"][TAG_RAY_USER_NODE_TYPE] = provider_config["head_kind"]
        self._sold_out = Path(provider_config["sold_out"])

    def non_terminated_nodes(self, tag_filters: Mapping[str, str]) -> list[str]:
        """Return the nodes that exist; those whose raylet was killed do so no longer."""
        with self.lock:
            for identity in [name for name in self._nodes if self._has_vanished(name)]:
                self._terminate_node(self._nodes.pop(identity))
        return list(super().non_terminated_nodes(tag_filters))

    def _has_vanished(self, identity: str) -> bool:
        node: Any = self._nodes[identity].get("node")
        if node is None:
            return False  # the head
        (raylet,) = node.all_processes["raylet"]
        return raylet.process.poll() is not None

    def create_node_with_resources_and_labels(
        self,
        node_config: dict[str, Any],
        tags: dict[str, str],
        count: int,
        resources: dict[str, float],
        labels: dict[str, str],
    ) -> None:
        """Start nodes, or refuse as EC2 does where a kind has no capacity left."""
        kind = tags[TAG_RAY_USER_NODE_TYPE]
        if kind in self._sold_out.read_text().split():
            raise NodeLaunchException("InsufficientInstanceCapacity", f"no {kind} left", None)
        super().create_node_with_resources_and_labels(node_config, tags, count, resources, labels)
