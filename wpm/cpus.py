"""How many CPUs this process may use; a machine often has more."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath


def count_cpus(proc: Path = Path("/proc/self")) -> int:
    """Return how many CPUs this process may use, at least 1.

    That is the number of CPUs that it may run on (`taskset`, SLURM, `docker --cpuset-cpus`), or
    less where a control group limits its time (`docker --cpus`, limits of Kubernetes). A limit of
    2.5 CPUs counts as 2.

    Args:
        proc: folder in which the kernel describes this process.
    """
    allowed = float(len(os.sched_getaffinity(0)))
    return max(1, int(min(allowed, *_time_limits(proc), math.inf)))


def _time_limits(proc: Path) -> Iterator[float]:
    """Yield the limits, in CPUs, of the control groups that the process is in."""
    with suppress(OSError):  # no control groups here
        memberships = (proc / "cgroup").read_text().splitlines()
        mounts = (proc / "mountinfo").read_text().splitlines()
        for membership in memberships:
            _, controllers, group = membership.split(":", 2)
            if not controllers:
                yield from _limits_above("cgroup2", "", group, mounts)
            elif "cpu" in controllers.split(","):
                yield from _limits_above("cgroup", "cpu", group, mounts)


def _limits_above(kind: str, controller: str, group: str, mounts: list[str]) -> Iterator[float]:
    """Yield the limits of a group and of all groups that contain it, as far as they are mounted.

    Args:
        kind: file system of the groups: "cgroup2", or "cgroup" for version 1.
        controller: of version 1, which has a mount for each; "" for version 2.
        group: path of the group, from the root of all groups.
        mounts: lines of /proc/self/mountinfo.
    """
    for mount in mounts:
        place, _, system = mount.partition(" - ")
        file_system, _, options = system.split(" ", 2)
        if file_system != kind or controller not in ("", *options.split(",")):
            continue
        root, target = (_unescape(word) for word in place.split(" ")[3:5])
        # A container sees its own group as the root of the mount, or only its name in `group`.
        inner = PurePosixPath(group)
        below = inner.relative_to(root) if inner.is_relative_to(root) else PurePosixPath()
        for folder in (below, *below.parents):
            yield from _read_limit(Path(target, folder))


def _unescape(word: str) -> str:
    """Undo how the kernel writes blanks and backslashes in paths."""
    return word.replace("\\040", " ").replace("\\134", "\\")


def _read_limit(folder: Path) -> Iterator[float]:
    """Yield the limit of one group, if it has one."""
    with suppress(OSError, ValueError):  # no such file, or "max" in place of a number
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:  # -1: no limit
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())
