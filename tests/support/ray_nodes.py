"""A Ray cluster of several nodes on this machine, in a process of its own.

Run as a program, this module first prints the address of its cluster. Then it reads commands, one
a line, and answers each with a line: `add GPUS` adds a node, `remove RAYLET` kills one. It ends
when its input ends.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).resolve().parents[2]
START_WAIT_S = 120
_END_WAIT_S = 60


class RayNodes:
    """The cluster's process and the commands to it. Every node has one CPU."""

    def __init__(self, folder: Path, nodes: int, environment: dict[str, str]) -> None:
        """Start a cluster.

        Args:
            folder: for the token and Ray's own files; its path must be short, since it holds
                sockets.
            nodes: how many nodes to start, the head included.
            environment: environment variables of every process of the cluster.
        """
        (folder / "token").write_text("0123456789abcdef" * 4)
        # RAY_TMPDIR keeps clusters of one machine apart, and marks the processes of this one.
        self.environment = {
            **environment,
            "RAY_TMPDIR": str(folder),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        }
        self._folder = folder
        self._errors = folder / "stderr.txt"
        with self._errors.open("w") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.ray_nodes"], cwd=ROOT, env=self.environment,
                text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
            )  # fmt: skip
        try:
            self.address = self._answer()
            self.added = [self.add() for _ in range(nodes - 1)]
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> "RayNodes":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def add(self, gpus: int = 0) -> int:
        """Add a node. Its GPUs are declared, not real.

        Returns:
            The node's raylet: the process that is the parent of all its workers.
        """
        return int(self._say(f"add {gpus}"))

    def remove(self, raylet: int) -> None:
        """Kill a node that was added, and all processes on it."""
        self._say(f"remove {raylet}")

    def _say(self, line: str) -> str:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        # Ray prints on stdout as well.
        for line in self._process.stdout:
            if line.startswith("> "):
                return line[2:].strip()
        raise AssertionError(f"the cluster's process has ended: {self._errors.read_text()[-500:]}")

    def _end(self) -> None:
        """End the cluster and the launches on it; kill what does not end by itself."""
        with suppress(subprocess.TimeoutExpired):
            self._process.communicate(timeout=_END_WAIT_S)
        end_processes(self._folder)


def processes_of(folder: Path) -> list[int]:
    """Return the processes of the cluster with this RAY_TMPDIR, other than the calling one."""
    mark = f"RAY_TMPDIR={folder}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with suppress(OSError):
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def end_processes(folder: Path) -> None:
    """Kill all processes of the cluster with this RAY_TMPDIR, and the launches on it."""
    deadline = time.monotonic() + _END_WAIT_S
    while left := processes_of(folder):
        assert time.monotonic() < deadline, f"processes {left} do not end"
        for process in left:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.2)


def children_of(parent: int) -> list[int]:
    """Return the child processes of a process."""
    processes = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [process for process in processes if parent_of(process) == parent]


def parent_of(process: int) -> int | None:
    """Return the parent of a process, or None if the process has ended."""
    with suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text()
        return int(status.split("PPid:")[1].split()[0])
    return None


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
            # As when a machine vanishes, workers end at the same moment as their node.
            for worker in children_of(raylet):
                with suppress(ProcessLookupError):
                    os.kill(worker, signal.SIGKILL)
            cluster.remove_node(added.pop(raylet), allow_graceful=False)
        print(f"> {raylet}", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
