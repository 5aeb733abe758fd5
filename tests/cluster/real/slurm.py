"""A small Slurm on this machine: a controller, and nodes with addresses of their own.

They are namespaces inside one that holds the network between them and the controller. Nothing
leads from that network to this machine or further, and no interface, mount or folder is added
outside of the namespaces but one work folder.
"""

import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tests.cluster.real import namespaces
from tests.cluster.real.namespaces import WorkFolder, first_process
from tests.support.commands import wait_until

USER = "wpm"
SHARED = Path("/mnt/wpm")  # seen by the controller and all nodes; holds the user's home as well
_CREDENTIALS_S = 10  # a job that is put into the queue again starts after these seconds

_ID = 61000  # user and group; known inside only
_NETWORK = "10.78.0"
_START_WAIT_S = 60
_NEEDED = {
    "munged": "munge",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
}
_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# Run by root in the namespaces around all nodes. FOLDER holds the cluster's files, KEPT lists the
# folders below /root that users must see.
_BOOT_ALL = """
mount -t proc none /proc
mount -t tmpfs -o mode=755 none /mnt
mkdir /mnt/state /mnt/kept /mnt/wpm
mount --bind "$FOLDER" /mnt/state
mount --bind "$FOLDER/shared" /mnt/wpm
for path in $KEPT; do
    mkdir -p "/mnt/kept$path" && mount --bind "$path" "/mnt/kept$path"
done
mount -t tmpfs -o mode=755 none /root
for path in $KEPT; do
    mkdir -p "$path" && mount --bind "/mnt/kept$path" "$path"
done
for name in passwd group hosts slurm; do mount --bind "/mnt/state/etc/$name" "/etc/$name"; done
mount --bind /mnt/state/run /run
hostname controller
ip link set lo up
ip link add switch type bridge
ip addr add "$ADDRESS/24" dev switch
ip link set switch up
exec munged --foreground --force --key-file=/mnt/state/munge.key --log-file=/mnt/state/munged.log
"""

_BOOT_NODE = """
mount -t proc none /proc
mount -t tmpfs -o mode=1777 none /dev/shm
mount -t tmpfs -o mode=1777 none /tmp
hostname "$NAME"
ip link set lo up
until ip addr show dev eth0 2> /dev/null | grep -q 'inet '; do sleep 0.1; done
exec slurmd -D
"""

# CPUs are declared: the machine may have fewer.
_SLURM_CONF = f"""
ClusterName=wpm
SlurmctldHost=controller({_NETWORK}.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=cred_expire={_CREDENTIALS_S}
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
StateSaveLocation=/mnt/state/controller
SlurmctldPidFile=/mnt/state/slurmctld.pid
SlurmdSpoolDir=/mnt/state/%n
SlurmdPidFile=/mnt/state/%n/slurmd.pid
SlurmdTimeout=20
ReturnToService=2
NodeName=DEFAULT CPUs=4 RealMemory=4000
PartitionName=main Nodes=ALL Default=YES
"""


def find_missing() -> str | None:
    """Return what this machine lacks for a Slurm and how to get it, or None."""
    return namespaces.find_missing("Slurm's nodes", _NEEDED)


class Slurm:
    """A Slurm cluster, used by one user, called `wpm`; a context manager.

    Attributes:
        shared: the folder that all nodes see at `SHARED`.
        nodes: names of the nodes.
    """

    def __init__(self, nodes: int, kept: Sequence[Path]) -> None:
        """Start the controller and all nodes.

        Args:
            nodes: how many.
            kept: folders of this machine that jobs read.
        """
        self._work = WorkFolder("wpm-slurm-")
        self._folder = self._work.path
        self.shared = self._folder / "shared"
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)]
        self._addresses = {name: f"{_NETWORK}.{i}" for i, name in enumerate(self.nodes, start=2)}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._write_files()
        settings = {
            "FOLDER": str(self._folder),
            "KEPT": " ".join(str(path) for path in kept if path.parts[1] == "root"),
            "ADDRESS": f"{_NETWORK}.1",
        }
        # `setpriv` ends everything with this process.
        self._all = self._start(
            "setpriv", "--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--uts",
            "--fork", "--kill-child", "sh", "-euc", _BOOT_ALL,
            log="boot", settings=settings,
        )  # fmt: skip
        try:
            self._inside = namespaces.wait_for_child(self._all.pid)
            socket = self._folder / "run" / "munge" / "munge.socket.2"
            wait_until(socket.is_socket, _START_WAIT_S)
            self._processes["controller"] = self._start(
                *self._enter(self._inside), "slurmctld", "-D", log="slurmctld"
            )
            for name in self.nodes:
                self.boot(name)
            wait_until(lambda: self._states() == {"idle"}, _START_WAIT_S)
        except BaseException:
            print(self.logs())
            self.close()
            raise

    def __enter__(self) -> "Slurm":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the controller, all nodes and the network, and delete their files."""
        for process in (self._all, *self._processes.values()):
            process.kill()
            process.wait()
        self._work.delete()

    def boot(self, name: str) -> None:
        """Boot a node, for the first time or after its end."""
        (self._folder / name).mkdir(exist_ok=True)
        process = self._start(
            *self._enter(self._inside), "unshare", "--net", "--mount", "--pid", "--uts", "--fork",
            "--kill-child", "sh", "-euc", _BOOT_NODE, log=name, settings={"NAME": name},
        )  # fmt: skip
        self._processes[name] = process
        namespaces.plug_in(self._inside, self._init_of(name), name, self._addresses[name])

    def end(self, name: str) -> None:
        """End a node as a power cut does: its cable is pulled, then all processes end at once."""
        namespaces.cut_off(self._inside, self._init_of(name), name)
        self._processes[name].wait()

    def run(self, command: str, *, node: str | None = None, wait_s: float = 120) -> str:
        """Run a command as the user does, in bash.

        Args:
            command: for bash.
            node: where; by default beside the controller, as on a login node.
            wait_s: the test fails if it takes longer.

        Returns:
            What it printed, errors included.
        """
        inside = self._init_of(node) if node else self._inside
        answer = subprocess.run(
            [
                *self._enter(inside),
                "setpriv", "--reuid", str(_ID), "--regid", str(_ID), "--clear-groups",
                "env", "-i", f"HOME={SHARED}/home", f"USER={USER}", f"PATH={_PATH}",
                "LANG=C.UTF-8", "bash", "-c", command,
            ],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, timeout=wait_s, check=False,
        )  # fmt: skip
        assert answer.returncode == 0, f"{command}: {answer.returncode}\n{answer.stdout}"
        return answer.stdout

    def give_to_user(self, folder: Path) -> None:
        """Make the user the owner of a folder and all that is in it."""
        namespaces.run_checked("chown", "-R", f"{_ID}:{_ID}", str(folder))

    def show(self, job: str) -> dict[str, str]:
        """Return the fields of a job as `scontrol show job` prints them."""
        fields = self.run(f"scontrol show job --oneliner {job}").split()
        return dict(field.partition("=")[::2] for field in fields)

    def _states(self) -> set[str]:
        """Return the states of all nodes, empty while the controller does not answer."""
        with suppress(AssertionError):
            return set(self.run("sinfo --noheader --format=%T").split())
        return set()

    def logs(self) -> str:
        """Return the ends of the daemons' logs, for the message of a test that fails."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}"
            for path in sorted(self._folder.glob("*.log"))
        )

    def _write_files(self) -> None:
        for name in ("etc/slurm", "run/munge", "shared/home", "controller"):
            (self._folder / name).mkdir(parents=True)
        self.give_to_user(self.shared)
        (self._folder / "munge.key").write_bytes(os.urandom(128))
        (self._folder / "munge.key").chmod(0o400)
        etc = self._folder / "etc"
        names = {"controller": f"{_NETWORK}.1", **self._addresses}
        (etc / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{a} {n}\n" for n, a in names.items())
        )
        user = f"{USER}:x:{_ID}:{_ID}::{SHARED}/home:/bin/bash\n"
        (etc / "passwd").write_text(Path("/etc/passwd").read_text() + user)
        (etc / "group").write_text(Path("/etc/group").read_text() + f"{USER}:x:{_ID}:\n")
        lines = "".join(f"NodeName={n} NodeAddr={a}\n" for n, a in self._addresses.items())
        (etc / "slurm" / "slurm.conf").write_text(_SLURM_CONF + lines)

    def _start(
        self, *command: str, log: str, settings: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a process that ends with the cluster; what it prints goes to a log."""
        with (self._folder / f"{log}.log").open("a") as file:
            return subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file,
                env={"PATH": _PATH, **self._work.mark, **(settings or {})},
                start_new_session=True,  # Ctrl-C is for the test, which then ends the cluster
            )  # fmt: skip

    def _enter(self, process: int) -> list[str]:
        return ["nsenter", "--target", str(process), "--net", "--mount", "--pid", "--uts", "--"]

    def _init_of(self, name: str) -> int:
        return first_process(self._processes[name].pid)
