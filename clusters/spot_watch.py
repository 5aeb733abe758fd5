"""Warn the trials on a spot node before AWS interrupts it, so that they save their work.

`python clusters/spot_watch.py` runs beside Ray on every worker of cluster.yaml. It asks the
machine's metadata service every 5 s, as AWS advises. AWS announces an interruption two minutes
before it happens. The watcher then drains the node, so that Ray starts nothing more there, and
sends SIGTERM to every trial. Each trial saves its work and resumes on another node. The watcher
needs no library but Ray, and ends with the node. With --now it asks nobody and warns the trials
at once, for machines whose end somebody else announces: clusters/kuberay.yaml calls it so.

Source: "Spot Instance interruption notices" and "Use the Instance Metadata Service", AWS,
https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
"""

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path

_METADATA = "http://169.254.169.254/latest"
_ASK_EVERY_S = 5
_ANSWER_WAIT_S = 2
_TOKEN_LIFE_S = 60
_DRAIN_WAIT_S = 30
_NOTICE_S = 120  # AWS announces an interruption this long before
_TRIAL = "ray::ResourceTrainable"  # the name that Tune gives to a process that trains


class Node:
    """A Ray node on this machine: its raylet, and the trials, which are children of the raylet.

    Args:
        raylet: process number of the raylet.

    Raises:
        ValueError: the process is not a raylet.
    """

    def __init__(self, raylet: int) -> None:
        self.raylet = raylet
        command = _command_of(raylet)
        options = dict(part.partition("=")[::2] for part in command if part.startswith("--"))
        if not _is_raylet(command) or not {"--node_id", "--gcs-address"} <= options.keys():
            raise ValueError(f"process {raylet} is not the raylet of a Ray node")
        self.id, self._gcs = options["--node_id"], options["--gcs-address"]
        self._command = command

    @property
    def alive(self) -> bool:
        """Whether the raylet still runs."""
        return _command_of(self.raylet) == self._command

    def trials(self) -> set[int]:
        """Return the processes of the running trials."""
        return {
            process
            for process in _processes()
            if _parent_of(process) == self.raylet and _command_of(process)[0].startswith(_TRIAL)
        }

    def drain(self) -> str | None:
        """Ask the cluster to start nothing more on this node.

        Returns:
            None if the node is drained, else the reason why it is not.
        """
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", self._gcs,
            "--node-id", self.id, "--reason", "DRAIN_NODE_REASON_PREEMPTION",
            "--reason-message", "the machine is taken away",
            "--deadline-remaining-seconds", str(_NOTICE_S),
        ]  # fmt: skip
        try:
            answer = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=_DRAIN_WAIT_S
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {_DRAIN_WAIT_S} s"
        if answer.returncode == 0:
            return None
        return (answer.stderr.strip() or f"exit code {answer.returncode}").splitlines()[-1]


def read_announcement(metadata: str) -> str | None:
    """Ask whether AWS has announced an interruption.

    Args:
        metadata: address of the metadata service, version 2, which requires a token.

    Returns:
        The announcement, such as `{"action": "terminate", "time": "2026-01-01T00:02:00Z"}`, or
        None if there is none.

    Raises:
        OSError, HTTPException: the service does not answer, or not as expected.
    """
    token = _ask(
        f"{metadata}/api/token",
        "PUT",
        {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_LIFE_S)},
    )
    try:
        return _ask(
            f"{metadata}/meta-data/spot/instance-action",
            "GET",
            {"X-aws-ec2-metadata-token": token},
        )
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return None
        raise


def wait_for_announcement(node: Node, metadata: str) -> str | None:
    """Ask until AWS announces an interruption, or the node has ended.

    Args:
        metadata: address as for `read_announcement`. If the service does not answer, keep asking.

    Returns:
        The announcement, or None if the node has ended first.
    """
    trouble = None
    while node.alive:
        try:
            end, problem = read_announcement(metadata), None
        except (OSError, HTTPException) as error:
            end, problem = None, f"{metadata} does not answer: {error}"
        if problem != trouble:
            _say(f"{problem}; still asking" if problem else f"{metadata} answers again")
            trouble = problem
        if end is not None:
            return " ".join(end.split())
        time.sleep(_ASK_EVERY_S)
    return None


def empty_node(node: Node) -> None:
    """Drain the node and signal its trials, until the node has ended.

    A trial that starts before the node is drained is signalled too.
    """
    signalled: set[int] = set()
    drained = False
    while node.alive:
        if not drained:
            why = node.drain()
            drained = why is None
            _say("the node is drained" if drained else f"the node cannot be drained: {why}")
        for trial in node.trials() - signalled:
            with suppress(ProcessLookupError):
                os.kill(trial, signal.SIGTERM)
                _say(f"asked trial process {trial} to save and end")
            signalled.add(trial)
        time.sleep(1)


def find_node() -> Node:
    """Return the only Ray node that this user runs on the machine.

    Raises:
        ValueError: there is none, or there are several.
    """
    raylets = [p for p in _processes() if _is_raylet(_command_of(p)) and _is_ours(p)]
    if not raylets:
        raise ValueError("no Ray node runs here: run `ray start` first")
    if len(raylets) > 1:
        raise ValueError(f"raylets {sorted(raylets)} run here: name one with --raylet")
    return Node(raylets[0])


def _ask(address: str, method: str, headers: dict[str, str]) -> str:
    request = urllib.request.Request(address, method=method, headers=headers)
    # Ignore proxies: a proxy would ask the metadata service of its own machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=_ANSWER_WAIT_S) as answer:
        content: bytes = answer.read()
    return content.decode("utf-8", errors="replace")


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _command_of(process: int) -> list[str]:
    """Return the command of a process; an empty one if the process has ended."""
    try:
        content = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return [""]
    return content.decode("utf-8", errors="replace").split("\0")


def _parent_of(process: int) -> int | None:
    with suppress(OSError):
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8", errors="replace")
        return int(status.split("PPid:")[1].split()[0])
    return None


def _is_raylet(command: list[str]) -> bool:
    return command[0].endswith("/raylet/raylet")


def _is_ours(process: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{process}").stat().st_uid == os.getuid()
    return False


def _say(line: str) -> None:
    print(time.strftime("%Y-%m-%dT%H:%M:%S%z"), line, flush=True)


def main() -> None:
    """Watch one node until it ends."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--raylet",
        type=int,
        metavar="PID",
        help="process of the node's raylet, if several run here",
    )
    parser.add_argument(
        "--metadata",
        default=_METADATA,
        metavar="URL",
        help="address of the metadata service [%(default)s]",
    )
    parser.add_argument(
        "--now",
        action="store_true",
        help="the end of the machine is known: drain the node and warn its trials at once",
    )
    arguments = parser.parse_args()
    try:
        node = find_node() if arguments.raylet is None else Node(arguments.raylet)
    except ValueError as error:
        parser.exit(2, f"spot_watch: {error}\n")
    if arguments.now:
        _say(f"node {node.id} is about to be taken away")
        empty_node(node)
        _say("the node has ended")
        return
    _say(f"watching node {node.id}")
    end = wait_for_announcement(node, arguments.metadata)
    if end is not None:
        _say(f"AWS announces an interruption: {end}")
        empty_node(node)
    _say("the node has ended")


if __name__ == "__main__":
    main()
