"""A cluster on this machine that Ray's autoscaler grows and shrinks, by a file of this repository.

Run as a program, this module prints what the cluster is made of, once a second.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from ray.autoscaler._private.util import prepare_config

from tests.support.ray_nodes import children_of, end_processes, processes_of

ROOT = Path(__file__).resolve().parents[2]
HEAD_ID = "f" * 51 + "00000"  # the head's, for Ray's provider of nodes on one machine
START_WAIT_S = 120
# CPUs and GPUs of the instance types, as the clouds publish them. Ray reads them off AWS.
INSTANCES = {
    "g6.2xlarge": {"CPU": 8, "GPU": 1},
    "g6.xlarge": {"CPU": 4, "GPU": 1},
    "g5.xlarge": {"CPU": 4, "GPU": 1},
}
_OBJECT_STORE_BYTES = 80_000_000  # Ray's smallest; nodes share this machine's memory


@dataclass(frozen=True)
class Sample:
    """What a cluster was made of at one moment.

    Attributes:
        at: seconds since the first sample.
        nodes: the kind of each node that is alive, by its identity, the head's included.
        busy: identities of the nodes whose GPU is taken.
        waiting: trials that wait for a node.
    """

    at: float
    nodes: dict[str, str]
    busy: list[str]
    waiting: int


def cluster_file(path: Path, provider: dict[str, Any], idle_minutes: float) -> dict[str, Any]:
    """Return a cluster's file for nodes on this machine.

    What only a cloud can supply is replaced: the provider, its credentials and set-up commands, and
    the resources that it reads off its instance types. Kinds of node and limits stay.

    Args:
        path: the file.
        provider: settings of the provider in the cloud's place.
        idle_minutes: how long an idle worker stays.
    """
    config: dict[str, Any] = prepare_config(yaml.safe_load(path.read_text()))
    for name in config:
        if name.endswith("_commands"):
            config[name] = []
    for kind in config["available_node_types"].values():
        instance = kind["node_config"].get("InstanceType")
        kind["resources"] = {
            **kind["resources"],
            **INSTANCES.get(instance, {}),
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    provider = {
        "type": "external",
        "module": "tests.support.local_cloud.LocalCloud",
        "head_kind": config["head_node_type"],
        "head_node_id": HEAD_ID,
        "launch_multiple": True,
        "use_node_id_as_ip": True,
        "disable_node_updaters": True,
        **provider,
    }
    return {
        **config,
        "provider": provider,
        "auth": {},
        "file_mounts": {},
        "idle_timeout_minutes": idle_minutes,
    }


def _ray_settings(start_commands: list[str]) -> dict[str, str]:
    """Return the environment variables of Ray that start commands of a file set."""
    return dict(re.findall(r"\b(RAY_\w+)=(\S+)", " ".join(start_commands)))


class ScalingCluster:
    """A head with an autoscaler, and a record of the cluster's nodes."""

    def __init__(
        self,
        folder: Path,
        file: Path,
        environment: dict[str, str],
        *,
        idle_minutes: float,
    ) -> None:
        """Start the head.

        Args:
            folder: for the token and Ray's own files; its path must be short, since it holds
                sockets.
            file: the cluster's file; its provider is replaced.
            environment: environment variables of every process of the cluster.
            idle_minutes: how long an idle worker stays.
        """
        self._folder = folder
        self._sold_out = folder / "sold_out"
        self._sold_out.touch()
        (folder / "token").write_text("0123456789abcdef" * 4)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{probe.getsockname()[1]}"
        self.environment = {
            **environment,
            "RAY_TMPDIR": str(folder),  # marks the processes of this cluster as well
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # all nodes listen on loopback alone
            "RAY_worker_niceness": "0",  # a cloud's machine has nothing else to do
            "PYTHONPATH": os.pathsep.join(
                part for part in (environment.get("PYTHONPATH"), str(ROOT)) if part
            ),
        }
        self.config = cluster_file(
            file, {"gcs_address": self.address, "sold_out": str(self._sold_out)}, idle_minutes
        )
        # `ray up` turns version 2 on where a file says nothing.
        self._settings = {
            "RAY_enable_autoscaler_v2": "1",
            **_ray_settings(yaml.safe_load(file.read_text())["head_start_ray_commands"]),
        }
        self.version = 2 if self._settings["RAY_enable_autoscaler_v2"] == "1" else 1
        self._processes: list[subprocess.Popen[str]] = []
        try:
            self._start()
        except BaseException:
            self._end()
            raise

    def _start(self) -> None:
        file = self._folder / "cluster.yaml"
        file.write_text(yaml.safe_dump(self.config, sort_keys=False))
        head = self.config["available_node_types"][self.config["head_node_type"]]["resources"]
        port = self.address.rpartition(":")[2]
        command = [
            str(Path(sys.executable).parent / "ray"), "start", "--head", "--block",
            f"--port={port}", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
            "--dashboard-agent-listen-port=0",
            "--min-worker-port=0", "--max-worker-port=0",
            f"--num-cpus={head['CPU']}", f"--num-gpus={head['GPU']}",
            f"--object-store-memory={_OBJECT_STORE_BYTES}", f"--autoscaling-config={file}",
        ]  # fmt: skip
        # What `ray up` tells the head of itself, and what Ray's provider for one machine asks for.
        of_the_head = {
            **self._settings,
            "RAY_NODE_TYPE_NAME": self.config["head_node_type"],
            "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID,
            "RAY_FAKE_CLUSTER": "1",
            "AUTOSCALER_METRIC_PORT": "0",
        }
        self._run(command, "head.txt", {**self.environment, **of_the_head})
        self._run(
            [sys.executable, "-m", "tests.support.scaling_cluster", self.address],
            "samples.txt",
            self.environment,
        )
        deadline = time.monotonic() + START_WAIT_S
        while not list(self.samples()):
            ended = [process.args for process in self._processes if process.poll() is not None]
            assert not ended, f"{ended}: {self._said()}"
            assert time.monotonic() < deadline, f"the head does not start: {self._said()}"
            time.sleep(0.5)

    def _run(self, command: list[str], output: str, environment: dict[str, str]) -> None:
        with (self._folder / output).open("w") as file:
            self._processes.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    text=True,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def _said(self) -> str:
        return "\n".join(
            (self._folder / name).read_text()[-800:] for name in ("head.txt", "samples.txt")
        )

    def __enter__(self) -> "ScalingCluster":
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def samples(self) -> Iterator[Sample]:
        """Return all samples until now, about one for each second."""
        for line in (self._folder / "samples.txt").read_text().splitlines():
            if line.startswith("{") and line.endswith("}"):
                yield Sample(**json.loads(line))

    def now(self) -> Sample:
        """Return the latest sample."""
        return list(self.samples())[-1]

    def sell_out(self, *kinds: str) -> None:
        """Let no more nodes of these kinds start."""
        self._sold_out.write_text(" ".join(kinds))

    def raylets(self) -> dict[str, int]:
        """Return the process of each worker node that is alive, by the node's identity."""
        found = {}
        for process in processes_of(self._folder):
            with suppress(OSError):
                if Path(f"/proc/{process}/comm").read_text().strip() == "raylet":
                    for word in Path(f"/proc/{process}/environ").read_text().split("\0"):
                        name, _, value = word.partition("=")
                        if name == "RAY_OVERRIDE_NODE_ID_FOR_TESTING" and value != HEAD_ID:
                            found[value] = process
        return found

    def kill(self, raylet: int) -> None:
        """End a node and all processes on it at once, as when a machine vanishes."""
        for process in (*children_of(raylet), raylet):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def log(self) -> str:
        """Return what the autoscaler has logged."""
        return (self._folder / "ray/session_latest/logs/monitor.log").read_text()

    def _end(self) -> None:
        end_processes(self._folder)
        for started in self._processes:
            started.wait()


def _watch(address: str) -> None:
    """Print a sample each second; end the cluster when the test has been killed."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_resource_state
    from ray.core.generated import autoscaler_pb2

    connect, dead = vars(ray._raylet)["GcsClient"], vars(autoscaler_pb2)["NodeStatus"].DEAD
    begun, parent = time.monotonic(), os.getppid()
    client: Any = None
    while os.getppid() == parent:
        try:
            client = client or connect(address=address)
            state = get_cluster_resource_state(client)
        except Exception as error:  # of any kind: the head is not up yet, or is gone
            print(f"no answer yet: {error}", flush=True)
            time.sleep(1)
            continue
        alive = [node for node in state.node_states if node.status != dead]
        sample = Sample(
            at=round(time.monotonic() - begun, 1),
            nodes={node.node_id.hex(): node.ray_node_type_name for node in alive},
            busy=[
                node.node_id.hex()
                for node in alive
                if node.total_resources.get("GPU", 0) > node.available_resources.get("GPU", 0)
            ],
            waiting=len(state.pending_gang_resource_requests)
            + sum(request.count for request in state.pending_resource_requests),
        )
        if alive:
            print(json.dumps(asdict(sample)), flush=True)
        time.sleep(1)
    end_processes(Path(os.environ["RAY_TMPDIR"]))


if __name__ == "__main__":
    _watch(sys.argv[1])
