"""Machines of this machine: a network of their own in namespaces, and one work folder.

When the process that made them ends, however it ends, the kernel ends all of their processes, and
the namespaces go with them; the next run deletes the work folder.
"""

import fcntl
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from tests.support.ray_nodes import children_of

_FOLDERS = Path(tempfile.gettempdir())
_LOCK = "lock"
_MARK = "WPM_NAMESPACES"
_WAIT_S = 60
_PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_NEEDED = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "ip": "iproute2",
}
_TRY = """
ip link add switch type bridge
ip link add cable type veth peer name eth0
"""


def find_missing(what: str, programs: Mapping[str, str]) -> str | None:
    """Return what this machine lacks and how to get it, or None.

    Args:
        what: is made here, for the message.
        programs: needed besides, with the Debian package of each.
    """
    if os.geteuid() != 0:
        return f"{what} are network namespaces, which only root makes: run it as root"
    for program, package in {**_NEEDED, **programs}.items():
        if shutil.which(program, path=_PATH) is None:
            return f"{program} is not installed: apt-get install {package}"
    answer = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--uts", "--fork", "sh", "-ec", _TRY],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        why = (answer.stderr.strip() or "no message").splitlines()[-1]
        return (
            f"no network can be made in a namespace ({why}): allow CAP_SYS_ADMIN, bridge and veth"
        )
    return None


class WorkFolder:
    """A folder that its maker holds locked, so that no other run takes it for a leftover.

    Attributes:
        path: of the folder; everybody can read it.
        mark: environment variable by which processes are known that belong to it.
    """

    def __init__(self, prefix: str) -> None:
        """Make a folder, and delete those that killed runs left.

        Args:
            prefix: of the names of all folders for this purpose.
        """
        delete_leftovers(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=_FOLDERS))
        self._lock = _lock(self.path)
        self.path.chmod(0o755)
        self.mark = {_MARK: str(self.path)}

    def delete(self) -> None:
        """Delete the folder; call it when the processes were killed."""
        _delete(self.path)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def delete_leftovers(prefix: str) -> None:
    """Delete the work folders of runs that were killed, and kill what is left of these."""
    for folder in _FOLDERS.glob(f"{prefix}*"):
        lock = _lock(folder)
        if lock is None:
            continue
        mark = f"{_MARK}={folder}".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if mark in (entry / "environ").read_bytes().split(b"\0"):
                        os.kill(int(entry.name), signal.SIGKILL)
        _delete(folder)
        os.close(lock)


def _lock(folder: Path) -> int | None:
    """Hold the lock of a work folder; None if another process holds it."""
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def _delete(folder: Path) -> None:
    """Delete a work folder whose processes were killed; the last may take a moment to end."""
    deadline = time.monotonic() + _WAIT_S
    while True:
        try:
            shutil.rmtree(folder)
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
        else:
            return


def first_process(started: int) -> int:
    """Return the first process of a machine, the one with which all its others end.

    Args:
        started: process of the `nsenter` whose child is the `unshare` that made the machine.
    """
    return wait_for_child(wait_for_child(started))


def wait_for_child(parent: int) -> int:
    """Return the only child of a process, once it is there."""
    deadline = time.monotonic() + _WAIT_S
    while not (children := children_of(parent)):
        assert time.monotonic() < deadline, f"process {parent} started none"
        time.sleep(0.05)
    return children[0]


def plug_in(network: int, machine: int, cable: str, address: str) -> None:
    """Connect a machine, as its eth0, to the bridge `switch`.

    Args:
        network: a process in the network that has the bridge.
        machine: the machine's first process.
        cable: name of the end that is in the network.
        address: of the machine.
    """
    ip(network, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", str(machine))
    ip(network, "link", "set", cable, "master", "switch", "up")
    ip(machine, "addr", "add", f"{address}/24", "dev", "eth0")
    ip(machine, "link", "set", "eth0", "up")


def cut_off(network: int, machine: int, cable: str) -> None:
    """End a machine as a power cut does: its cable is pulled, then all processes end at once."""
    ip(network, "link", "del", cable)
    os.kill(machine, signal.SIGKILL)


def ip(process: int, *arguments: str) -> None:
    """Run `ip` in the network of a process."""
    run_checked("nsenter", "--target", str(process), "--net", "--", "ip", *arguments)


def run_checked(*command: str) -> None:
    """Run a command; the test fails with what it printed if the command fails."""
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, f"{shlex.join(command)}: {answer.stdout}{answer.stderr}"
