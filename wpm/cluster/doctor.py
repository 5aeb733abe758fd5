"""Check a cluster before hours are spent on it: what is wrong, and how to fix it."""

import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from wpm.cluster.disk_needs import PlannedRun, estimate_disk
from wpm.cluster.node_facts import (
    LOCK,
    MARK,
    Facts,
    digest_of,
    gather_facts,
    probe_shared_folders,
    read_clock,
    read_versions,
)
from wpm.cluster.nodes import AskNodes, Node
from wpm.errors import StorageError, UserError
from wpm.files import hold_lock

# Only people compare timestamps across machines; a larger offset would confuse them.
CLOCK_TOLERANCE_S = 5.0
_CACHE_DELAY_S = 60.0  # a network disk may show a new file late


@dataclass(frozen=True)
class Finding:
    """A problem of the cluster.

    Attributes:
        where: the node, or the disk that all nodes share.
        what: what was found, with the value.
        fix: how to fix it.
        blocking: whether it must be fixed before a search.
    """

    where: str
    what: str
    fix: str
    blocking: bool = True

    def __str__(self) -> str:
        line = f"{self.where}: {self.what}; {self.fix}"
        return line if self.blocking else f"note: {line}"


def examine(planned: PlannedRun, ask: AskNodes) -> Iterator[Finding]:
    """Ask every node and compare the answers; yield what is wrong, the most severe kinds first.

    Args:
        planned: what is to be run.
        ask: runs a function on every node.
    """
    yield from find_unshared([planned.run_root, planned.source.work_root], ask)
    images = (planned.index.root / path for path in planned.index.paths)
    samples = set(islice((path for path in images if path.is_file()), 1))
    if planned.weights is not None:
        samples.add(planned.weights)
    answers = ask(gather_facts, {path: digest_of(path) for path in samples})
    facts = {answer.node: answer.value for answer in answers if answer.error is None}
    yield from find_unreadable_files(facts)
    yield from find_other_versions(read_versions(), facts)
    yield from find_missing_gpus(facts)
    yield from find_open_doors(facts)
    yield from find_full_disks(planned, list(facts))
    yield from find_wrong_clocks(ask)


def check_shared(folders: Sequence[Path], ask: AskNodes) -> None:
    """Refuse to start where a node does not see a folder that all must share.

    Raises:
        UserError: the first finding.
    """
    for finding in find_unshared(folders, ask):
        raise UserError(str(finding))


def find_unshared(folders: Sequence[Path], ask: AskNodes) -> list[Finding]:
    """Check that every node reads, writes and sees a lock in folders, and that we see its files.

    Args:
        folders: folders that every node must share with the driver; created as needed.
        ask: runs a function on every node.

    Raises:
        StorageError: the driver itself cannot write there.
    """
    findings = []
    with _probe_folders(folders) as probes:
        for answer in ask(probe_shared_folders, probes):
            if answer.error is not None:
                what = f"does not answer: {answer.error}"
                fix = "install the same commit there, and start Ray on it again"
                findings.append(Finding(answer.node.name, what, fix))
                continue
            lines = answer.value or _find_unseen(answer.node, probes)
            findings += [_unshared(answer.node, line) for line in lines]
    return findings


@contextmanager
def _probe_folders(folders: Sequence[Path]) -> Iterator[dict[Path, str]]:
    """Create a folder below each, with a mark and a lock that is held; remove them in the end."""
    with ExitStack() as stack:
        probes = {}
        for folder in folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                probe = Path(tempfile.mkdtemp(dir=folder, prefix=".doctor-"))
                stack.callback(shutil.rmtree, probe, ignore_errors=True)
                mark = uuid.uuid4().hex
                (probe / MARK).write_text(mark)
            except OSError as error:
                raise StorageError(
                    f"{folder}: cannot be written ({error.strerror}); free space, fix "
                    "permissions, or choose another"
                ) from error
            stack.enter_context(hold_lock(probe / LOCK, wait_s=0, what=f"folder {probe}"))
            probes[probe] = mark
        yield probes


def _unshared(node: Node, what: str) -> Finding:
    return Finding(node.name, what, "mount the same disk there, at the same path, with locks")


def _find_unseen(node: Node, probes: Mapping[Path, str]) -> Iterator[str]:
    """Look for the marks that a node says it has written; yield a line for each missing one."""
    deadline = time.monotonic() + _CACHE_DELAY_S
    for probe, mark in probes.items():
        written = probe / node.id
        while not written.exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        if not written.exists() or written.read_text() != mark:
            yield f"{probe.parent}: what it writes is not seen by the driver"


def find_unreadable_files(facts: Mapping[Node, Facts]) -> Iterator[Finding]:
    """Yield which images or weights a node cannot read."""
    for node, fact in facts.items():
        for line in fact.unreadable:
            yield _unshared(node, line)


def find_other_versions(
    expected: Mapping[str, str], facts: Mapping[Node, Facts]
) -> Iterator[Finding]:
    """Compare every node's versions with the driver's."""
    for node, fact in facts.items():
        others = [
            f"{name} {fact.versions.get(name)}, the driver has {version}"
            for name, version in expected.items()
            if fact.versions.get(name) != version
        ]
        if others:
            fix = "install the same commit and requirements.txt there, then restart Ray on it"
            yield Finding(node.name, "; ".join(others), fix)


def find_missing_gpus(facts: Mapping[Node, Facts]) -> Iterator[Finding]:
    """Compare the GPUs that a node offers with those that torch can use."""
    for node, fact in facts.items():
        if isinstance(fact.cuda, str):
            what = f"declares {node.gpus:g} GPUs, torch cannot use them ({fact.cuda})"
        elif fact.cuda is not None and fact.cuda < node.gpus:
            what = f"declares {node.gpus:g} GPUs, torch sees {fact.cuda}"
        else:
            continue
        yield Finding(node.name, what, "fix its driver (nvidia-smi), or start Ray with --num-gpus")


def find_open_doors(facts: Mapping[Node, Facts]) -> Iterator[Finding]:
    """Find where strangers could connect: through Ray they can run any code.

    Ray binds its own ports to every address, whatever its options say. So a token, and a firewall
    around machines with public addresses, must keep strangers out.
    """
    for node, fact in facts.items():
        if not fact.token:
            yield Finding(
                node.name,
                "Ray asks for no token: whoever reaches a port of it runs code here",
                "ray get-auth-token --generate, copy ~/.ray/auth_token to every node, and start "
                "Ray everywhere with RAY_AUTH_MODE=token",
            )
        for listener in fact.listeners:
            if listener.dashboard and listener.address in ("0.0.0.0", "::"):
                yield Finding(
                    node.name,
                    f"the dashboard answers on every address, port {listener.port}",
                    "start the head with --dashboard-host=127.0.0.1 and use it over ssh",
                )
        ports = sorted(
            {x.port for x in fact.listeners if x.address in ("0.0.0.0", "::", *fact.public)}
        )
        if fact.public and ports:
            yield Finding(
                node.name,
                f"has the public address {fact.public[0]}, and Ray listens there on ports "
                f"{', '.join(map(str, ports))}",
                "see that a firewall closes them to all but the nodes",
                blocking=not fact.token,
            )


def find_full_disks(planned: PlannedRun, nodes: Sequence[Node]) -> Iterator[Finding]:
    """Compare the free space with what the planned run may write."""
    need = estimate_disk(planned, nodes)
    by_disk: dict[int, list[Path]] = {}
    for folder in need:
        by_disk.setdefault(folder.stat().st_dev, []).append(folder)
    for folders in by_disk.values():
        needed = sum(need[folder] for folder in folders)
        free = shutil.disk_usage(folders[0]).free
        if free < needed:
            where = " and ".join(map(str, folders))
            what = f"{_in_gb(free)} free, about {_in_gb(needed)} needed"
            yield Finding(where, what, "free space or choose another disk")


def find_wrong_clocks(ask: AskNodes) -> Iterator[Finding]:
    """Compare clocks, in the node's favour by the time that the network takes."""
    sent = time.time()
    answers = ask(read_clock, None)
    received = time.time()
    for answer in answers:
        if answer.error is None:
            ahead, behind = answer.value - received, sent - answer.value
            if max(ahead, behind) > CLOCK_TOLERANCE_S:
                what = f"{ahead:.0f} s ahead" if ahead > 0 else f"{behind:.0f} s behind"
                yield Finding(
                    answer.node.name, f"its clock is {what} of the driver's", "start chrony there"
                )


def _in_gb(size: int) -> str:
    return f"{size / 1e9:.3g} GB"
