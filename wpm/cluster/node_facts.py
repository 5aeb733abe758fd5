"""Facts about a machine, gathered on every node before hours are spent there."""

import contextlib
import hashlib
import ipaddress
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from wpm.cluster.nodes import Node
from wpm.files import is_locked
from wpm.records import provenance

MARK, LOCK = "driver", "lock"  # files that the driver writes into a probe folder
_LISTENING = "0A"  # the state of a listening socket in /proc/net/tcp
_CUDA_TIMEOUT_S = 120.0
# Runs in a process of its own: a Ray task that asks for no GPU sees none.
_CUDA_PROBE = """
import torch
for index in range(torch.cuda.device_count()):
    torch.zeros(1, device=f"cuda:{index}")
print(torch.cuda.device_count())
"""


@dataclass(frozen=True)
class Listener:
    """A port on which a process of Ray waits for connections.

    Attributes:
        address: the address that it is bound to; 0.0.0.0 or :: is every one.
        port: number of the port.
        dashboard: whether it serves the dashboard and the job interface, which runs any code.
    """

    address: str
    port: int
    dashboard: bool


@dataclass(frozen=True)
class Facts:
    """What a node answers.

    Attributes:
        unreadable: a line for each sample file that cannot be read, or differs.
        versions: of Python, libraries and the code, by name.
        token: whether Ray asks for a token here.
        listeners: ports of Ray's processes.
        public: addresses of this machine that are reachable from the internet.
        cuda: number of GPUs that torch can use, or why it can use none; None where the node
            offers no GPU.
    """

    unreadable: tuple[str, ...]
    versions: Mapping[str, str]
    token: bool
    listeners: tuple[Listener, ...]
    public: tuple[str, ...]
    cuda: int | str | None


def gather_facts(node: Node, samples: Mapping[Path, str]) -> Facts:
    """Gather the facts; called on the node.

    Args:
        node: the node that this runs on.
        samples: SHA-256 of files that the node must be able to read.
    """
    return Facts(
        unreadable=tuple(_read_samples(samples)),
        versions=read_versions(),
        token=os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
        listeners=tuple(find_listeners()),
        public=tuple(a for a in _outward_addresses() if ipaddress.ip_address(a).is_global),
        cuda=_probe_cuda() if node.gpus else None,
    )


def probe_shared_folders(node: Node, probes: Mapping[Path, str]) -> tuple[str, ...]:
    """Look for the driver's marks and locks, and write marks for the driver; called on the node.

    Args:
        node: the node that this runs on.
        probes: folders that the driver has created below the shared ones, and the mark that it
            wrote into each.

    Returns:
        A line for each folder that is not shared.
    """
    troubles = []
    for probe, mark in probes.items():
        folder = probe.parent
        try:
            # Never create parents: an unmounted folder must stay missing, or the check would pass.
            if (probe / MARK).read_text() != mark:
                troubles.append(f"{folder}: is not the folder that the driver sees")
            elif not is_locked(probe / LOCK):
                troubles.append(f"{folder}: a lock that the driver holds is not seen")
            else:
                (probe / node.id).write_text(mark)
        except OSError as error:
            what = "written" if (probe / MARK).exists() else "seen"
            troubles.append(f"{folder}: cannot be {what} ({error.strerror})")
    return tuple(troubles)


def read_clock(node: Node, question: None) -> float:
    """Return the time by the node's clock."""
    return time.time()


def read_versions() -> dict[str, str]:
    """Return the versions of everything that results depend on; that of the code is a digest."""
    written = provenance()
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + path.read_bytes())
    libraries = {name: str(version) for name, version in written["libraries"].items()}
    return {"python": written["python"], **libraries, "code of wpm": digest.hexdigest()[:12]}


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_samples(samples: Mapping[Path, str]) -> Iterator[str]:
    for path, digest in samples.items():
        try:
            if digest_of(path) != digest:
                yield f"{path}: differs from the driver's file of that name"
        except OSError as error:
            yield f"{path}: cannot be read ({error.strerror})"


def _probe_cuda() -> int | str:
    """Use every GPU once; return how many there are, or the last line of the error."""
    visible = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _CUDA_PROBE],
            env=visible, capture_output=True, text=True, timeout=_CUDA_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"no answer within {_CUDA_TIMEOUT_S:.0f} s"
    if answer.returncode:
        return (answer.stderr.strip().splitlines() or [f"exit code {answer.returncode}"])[-1]
    return int(answer.stdout)


def find_listeners(proc: Path = Path("/proc")) -> list[Listener]:
    """Return the listening TCP ports of Ray's processes on this machine.

    Processes of other users cannot be inspected, and are left out.
    """
    sockets = {
        inode: (address, port)
        for table in ("tcp", "tcp6")
        for inode, address, port in _read_socket_table(proc / "net" / table)
    }
    found = set()
    for process in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended meanwhile, or is another user's
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if not _is_ray(command):
                continue
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and target[8:-1] in sockets:
                    address, port = sockets[target[8:-1]]
                    dashboard = "dashboard.py" in command and f"--port={port} " in command
                    found.add(Listener(address, port, dashboard))
    return sorted(found, key=lambda listener: (listener.port, listener.address))


def _is_ray(command: str) -> bool:
    return "/site-packages/ray/" in command or command.startswith(("ray::", "ray-dashboard"))


def _read_socket_table(table: Path) -> Iterator[tuple[str, str, int]]:
    """Yield inode, address and port of every listening socket in a table of the kernel."""
    if not table.exists():  # the kernel has no IPv6
        return
    for line in table.read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] != _LISTENING:
            continue
        address, port = fields[1].split(":")
        # The kernel prints 32-bit words in the machine's own byte order, for IPv4 and IPv6.
        words = struct.unpack(f">{len(address) // 8}I", bytes.fromhex(address))
        packed = struct.pack(f"={len(words)}I", *words)
        family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
        yield fields[9], socket.inet_ntop(family, packed).removeprefix("::ffff:"), int(port, 16)


def _outward_addresses() -> Iterator[str]:
    """Yield the addresses that this machine would use on the internet; nothing is sent."""
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            yield probe.getsockname()[0]
