"""A Ray cluster of several nodes on this machine, in a process of its own.

As a program it reads lines: `add GPUS` adds a node, `remove RAYLET` kills one. It answers each with
a line, the first of all being the cluster's address, and ends with its input.
"""

import os
import subprocess
import sys
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parent.parent
START_WAIT_S = 120


class RayNodes:
    """The process, and how it is spoken to; nodes have one CPU each."""

    def __init__(self, folder: Path, nodes: int, token: bool = True) -> None:
        """Start a head and more nodes.

        Args:
            folder: for the token and Ray's own files; its path is short, for it holds sockets.
            nodes: in all.
            token: whether Ray asks for one.
        """
        (folder / "token").write_text("0123456789abcdef" * 4)
        # RAY_TMPDIR: other clusters of this machine stay out of each other's way.
        self.environment = {
            **os.environ,
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "token" if token else "disabled",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        }
        self._errors = folder / "stderr.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.ray_nodes"], cwd=ROOT, env=self.environment,
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        self.address = self._hear()
        self.added = [self.add() for _ in range(nodes - 1)]

    def __enter__(self) -> "RayNodes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate(timeout=120)

    def add(self, gpus: int = 0) -> int:
        """Add a node, with GPUs that are only declared.

        Returns:
            The process that is the parent of all the node's workers.
        """
        return int(self._say(f"add {gpus}"))

    def remove(self, raylet: int) -> None:
        """Kill a node that was added, with all that runs on it."""
        self._say(f"remove {raylet}")

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        # Ray prints on stdout as well.
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        self._process.communicate()
        raise AssertionError(f"the cluster has ended: {self._errors.read_text()[-500:]}")


def _serve() -> None:
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    print("> " + cluster.address, flush=True)
    added = {}
    for line in sys.stdin:
        verb, number = line.split()
        if verb == "add":
            node = cluster.add_node(wait=False, num_cpus=1, num_gpus=int(number))
            cluster.wait_for_nodes(timeout=START_WAIT_S)
            raylet = node.all_processes["raylet"][0].process.pid
            added[raylet] = node
        else:
            raylet = int(number)
            cluster.remove_node(added.pop(raylet), allow_graceful=False)
        print(f"> {raylet}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
