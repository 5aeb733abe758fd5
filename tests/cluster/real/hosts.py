"""Hosts on one machine: each has an address, an sshd, processes, a home and a /tmp of its own.

They are namespaces of this machine, inside one that holds the network between them. Nothing leads
from that network to this machine or further, and no interface, mount or folder is added outside of
the namespaces but one work folder.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cluster.real import namespaces
from tests.cluster.real.namespaces import WorkFolder, first_process, run_checked
from tests.support.ray_nodes import children_of

USER = "wpm"
HOME = Path("/home") / USER
SHARED = Path("/mnt/wpm")  # on every host that shares the folder

_ID = 61000  # user and group; known on the hosts alone
_NETWORK = "10.77.0"
PREFIX = "wpm-hosts-"
_SYSTEM = ("usr", "bin", "sbin", "lib", "lib64", "opt", "dev", "sys")
_START_WAIT_S = 30
_NEEDED = {
    "sshd": "openssh-server",
    "ssh": "openssh-client",
    "rsync": "rsync",
    "git": "git",
}

# Run by root in the namespaces of a host. The tree of folders is built beside the machine's own,
# which stays as it is; FOLDER holds what is the host's, KEPT lists what it sees of this machine.
_BOOT = """
root=$FOLDER/root
mount -t tmpfs -o mode=755 none "$root"
for name in $SYSTEM; do
    [ -e "/$name" ] || continue
    if [ -L "/$name" ]; then cp -d "/$name" "$root/"; continue; fi
    mkdir "$root/$name" && mount --bind "/$name" "$root/$name"
done
mkdir -p "$root/proc" "$root/root" "$root/var/tmp" "$root/dev/shm" "$root/dev/pts"
mount -t proc none "$root/proc"
mount -t tmpfs -o mode=1777 none "$root/dev/shm"
mount -t devpts -o mode=620,ptmxmode=666 none "$root/dev/pts"
for name in etc run tmp home; do
    mkdir "$root/$name" && mount --bind "$FOLDER/$name" "$root/$name"
done
if [ -n "$SHARED_FROM" ]; then
    mkdir -p "$root$SHARED_AT" && mount --bind "$SHARED_FROM" "$root$SHARED_AT"
fi
for path in $KEPT; do
    mkdir -p "$root$path" && mount --bind "$path" "$root$path"
done
hostname "$NAME"
ip link set lo up
exec chroot "$root" /usr/sbin/sshd -D -e -f /dev/null -o UsePAM=no \\
    -o HostKey=/etc/ssh/ssh_host_ed25519_key -o 'Subsystem=sftp internal-sftp'
"""


def find_missing() -> str | None:
    """Return what this machine lacks to make hosts and how to get it, or None."""
    return namespaces.find_missing("hosts", _NEEDED)


class Hosts:
    """Hosts that one user, called `wpm`, can log in to from each other; a context manager.

    Attributes:
        folder: all files of the hosts.
        shared: the folder that hosts see at `SHARED`.
    """

    def __init__(self, kept: Sequence[Path]) -> None:
        """Make the network; hosts are added by `add`.

        Args:
            kept: folders of this machine that every host sees, at the same path. They should not
                be writable for everybody.
        """
        self._work = WorkFolder(PREFIX)
        self.folder = self._work.path
        self.shared = self.folder / "shared"
        self.shared.mkdir()
        os.chown(self.shared, _ID, _ID)
        self._kept = [path for path in kept if path.parts[1] not in _SYSTEM]
        self._hosts: dict[str, subprocess.Popen[bytes]] = {}
        self._addresses: dict[str, str] = {}
        self._shares: dict[str, bool] = {}
        run_checked("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / "key"))
        # `setpriv` ends the network with this process, and the hosts with the network.
        self._network = subprocess.Popen(
            [
                "setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--pid", "--fork",
                "--kill-child", "sleep", "infinity",
            ],
            start_new_session=True,  # Ctrl-C is for the test, which then ends the hosts
            env={**os.environ, **self._work.mark},
        )  # fmt: skip
        try:
            self._inside = namespaces.wait_for_child(self._network.pid)
            namespaces.ip(self._inside, "link", "add", "switch", "type", "bridge")
            namespaces.ip(self._inside, "link", "set", "switch", "up")
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all hosts and the network, and delete their files."""
        for process in (self._network, *self._hosts.values()):
            process.kill()
            process.wait()
        self._work.delete()

    def add(self, name: str, *, shares: bool = True) -> None:
        """Make a host and boot it.

        Args:
            name: host name.
            shares: whether it sees the shared folder.
        """
        folder = self.folder / name
        for part in ("root", "run/sshd", f"home/{USER}/.ssh"):
            (folder / part).mkdir(parents=True)
        self._addresses[name] = f"{_NETWORK}.{len(self._addresses) + 2}"
        self._shares[name] = shares
        shutil.copytree(
            "/etc", folder / "etc", symlinks=True, ignore=lambda *_: ["shadow", "gshadow", "ssh"]
        )
        self._configure(name, folder / "etc")
        home = self.home(name)
        shutil.copytree("/etc/skel", home, dirs_exist_ok=True)
        (home / ".ssh").chmod(0o700)
        shutil.copy(self.folder / "key.pub", home / ".ssh" / "authorized_keys")
        self.give_to_user(home)
        self.boot(name)

    def _configure(self, name: str, etc: Path) -> None:
        """Give a host its name, its user and the key of its sshd."""
        for file, line in (
            ("passwd", f"{USER}:x:{_ID}:{_ID}::{HOME}:/bin/bash"),
            ("group", f"{USER}:x:{_ID}:"),
        ):
            with (etc / file).open("a") as lines:
                lines.write(line + "\n")
        (etc / "shadow").write_text(f"{USER}:*:20000:0:99999:7:::\n")  # no password, not locked
        (etc / "shadow").chmod(0o600)
        for file, text in (
            ("hostname", f"{name}\n"),
            ("hosts", f"127.0.0.1 localhost\n127.0.1.1 {name}\n"),  # as Debian writes it
            ("resolv.conf", ""),
        ):
            (etc / file).unlink(missing_ok=True)
            (etc / file).write_text(text)
        (etc / "ssh").mkdir()
        key = str(etc / "ssh" / "ssh_host_ed25519_key")
        run_checked("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)

    def boot(self, name: str) -> None:
        """Boot a host, for the first time or after its end: its home is kept, its /tmp is empty."""
        folder = self.folder / name
        shutil.rmtree(folder / "tmp", ignore_errors=True)
        (folder / "tmp").mkdir()
        (folder / "tmp").chmod(0o1777)
        settings = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "NAME": name,
            "FOLDER": str(folder),
            "SYSTEM": " ".join(_SYSTEM),
            "KEPT": " ".join(map(str, self._kept)),
            "SHARED_FROM": str(self.shared) if self._shares[name] else "",
            "SHARED_AT": str(SHARED),
        }
        # Anew at every boot: what an earlier sshd said there would be taken for this one's.
        with (folder / "sshd.log").open("w") as log:
            process = subprocess.Popen(
                [
                    "nsenter", "--target", str(self._inside), "--pid", "--",
                    "unshare", "--net", "--mount", "--pid", "--uts", "--fork", "--kill-child",
                    "sh", "-euc", _BOOT,
                ],
                stdout=log, stderr=log, env=settings, start_new_session=True,
            )  # fmt: skip
        self._hosts[name] = process
        namespaces.plug_in(self._inside, self._init_of(name), _cable(name), self.address(name))
        deadline = time.monotonic() + _START_WAIT_S
        while "Server listening" not in (folder / "sshd.log").read_text():
            assert process.poll() is None, (folder / "sshd.log").read_text()
            assert time.monotonic() < deadline, f"{name}: no sshd after {_START_WAIT_S} s"
            time.sleep(0.1)

    def end(self, name: str) -> None:
        """End a host as a power cut does: its cable is pulled, then all processes end at once."""
        namespaces.cut_off(self._inside, self._init_of(name), _cable(name))
        self._hosts[name].wait()

    def address(self, name: str) -> str:
        """Return the address of a host."""
        return self._addresses[name]

    def home(self, name: str) -> Path:
        """Return where the user's home of a host lies on this machine."""
        return self.folder / name / "home" / USER

    def give_to_user(self, folder: Path) -> None:
        """Make the user of the hosts the owner of a folder and all that is in it."""
        run_checked("chown", "-R", f"{_ID}:{_ID}", str(folder))

    @contextmanager
    def in_background(self, name: str, command: str) -> Iterator[None]:
        """Run a command as `run` does, while something else is done."""
        process = subprocess.Popen(
            self._as_user(name, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            yield
        finally:
            _kill(process)

    def run(self, name: str, command: str, *, wait_s: float = 300) -> str:
        """Run a command as the user of a host, in bash, in the home folder.

        Args:
            name: host.
            command: for bash.
            wait_s: the test fails if it takes longer.

        Returns:
            What it printed, errors included.
        """
        with subprocess.Popen(
            self._as_user(name, command),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        ) as process:  # fmt: skip
            try:
                output, _ = process.communicate(timeout=wait_s)
            finally:
                _kill(process)
        assert process.returncode == 0, f"{command}: exit code {process.returncode}\n{output}"
        return output

    def _as_user(self, name: str, command: str) -> list[str]:
        return [
            "nsenter", "--target", str(self._init_of(name)),
            "--mount", "--net", "--pid", "--uts", "--root", "--wd", "--",
            "setpriv", "--reuid", str(_ID), "--regid", str(_ID), "--init-groups",
            "env", "-i", f"HOME={HOME}", f"USER={USER}", f"LOGNAME={USER}", "LANG=C.UTF-8",
            f"PATH={HOME}/venv/bin:/usr/local/bin:/usr/bin:/bin",
            "bash", "-c", f"cd ~ && {command}",
        ]  # fmt: skip

    def processes(self, name: str) -> dict[int, str]:
        """Return the processes of a host and their commands."""
        found = {}
        place = Path(f"/proc/{self._init_of(name)}/ns/pid").readlink()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if (entry / "ns" / "pid").readlink() == place:
                        command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                        found[int(entry.name)] = command.decode(errors="replace").strip()
        return found

    def _init_of(self, name: str) -> int:
        return first_process(self._hosts[name].pid)


def _cable(name: str) -> str:
    """Return the name of the end of a host's cable that is in the network between the hosts."""
    return f"to-{name}"


def make_environment(folder: Path, requirements: Path) -> list[Path]:
    """Make a virtual environment that has what a node needs.

    It sees all packages of the environment that runs the tests, and only what is missing there is
    installed, so that torch is not installed twice.

    Args:
        folder: of the environment; kept as it is if it is there.
        requirements: list of packages.

    Returns:
        The folders that a host must see to use it.
    """
    ours = Path(sys.prefix).resolve()
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        run_checked(sys.executable, "-m", "venv", str(folder))
        packages = folder / "lib" / version / "site-packages"
        (packages / "tests.pth").write_text(f"{ours}/lib/{version}/site-packages\n")
        run_checked(
            str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check",
            "-r", str(requirements),
        )  # fmt: skip
        if not (folder / "bin" / "ray").exists():
            ray = folder / "bin" / "ray"
            ray.write_text(
                f"#!{folder}/bin/python\nimport sys\n"
                "from ray.scripts.scripts import main\nsys.exit(main())\n"
            )
            ray.chmod(0o755)
        (folder / "ready").touch()
    return [folder, ours, Path(sys.base_prefix).resolve()]


def _kill(process: subprocess.Popen[Any]) -> None:
    """Kill what `nsenter` has started, and `nsenter`."""
    for child in children_of(process.pid):
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.kill()
    process.wait()
