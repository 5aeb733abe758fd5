"""Counting the CPUs that a process may use, from files like those of the kernel."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from wpm.cpus import count_cpus

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a process that may run on 16 CPUs; tests write its control groups."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(16)))
    folder = tmp_path / "proc"
    folder.mkdir()
    return folder


def write_version_2(proc: Path, group: str, root: str = "/") -> Path:
    """Describe a process in a group of version 2; return where the groups are mounted."""
    mount = proc.parent / "mount of groups"
    mount.mkdir()
    (proc / "cgroup").write_text(f"0::{group}\n")
    escaped = str(mount).replace(" ", "\\040")
    (proc / "mountinfo").write_text(
        "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
        f"41 31 0:38 {root} {escaped} rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
    )
    return mount


def write_version_1(proc: Path, group: str, root: str = "/") -> Path:
    """The same for version 1, whose controllers have a mount each."""
    mount = proc.parent / "cpu,cpuacct"
    mount.mkdir()
    (proc / "cgroup").write_text(f"3:memory:/other\n2:cpu,cpuacct:{group}\n0::/\n")
    (proc / "mountinfo").write_text(
        f"32 31 0:29 {root} {mount} rw - cgroup cgroup rw,cpu,cpuacct\n"
        f"33 31 0:30 / {mount.parent}/memory rw - cgroup cgroup rw,memory\n"
    )
    return mount


def limit(folder: Path, cpus: float, *, version: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    quota = int(cpus * 100_000)
    if version == 2:
        (folder / "cpu.max").write_text(f"{quota} 100000\n")
    else:
        (folder / "cpu.cfs_quota_us").write_text(f"{quota}\n")
        (folder / "cpu.cfs_period_us").write_text("100000\n")


WRITERS = {1: write_version_1, 2: write_version_2}


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(("cpus", "counted"), [(4, 4), (2.5, 2), (0.5, 1), (64, 16)])
def test_limit_of_a_control_group_counts(
    cpus: float, counted: int, version: int, proc: Path
) -> None:
    limit(WRITERS[version](proc, "/a/b") / "a" / "b", cpus, version=version)
    assert count_cpus(proc) == counted


@pytest.mark.parametrize("version", [1, 2])
def test_limit_of_a_group_above_counts(version: int, proc: Path) -> None:
    mount = WRITERS[version](proc, "/kubepods/pod1/abc")
    limit(mount / "kubepods" / "pod1" / "abc", 8, version=version)
    limit(mount / "kubepods" / "pod1", 3, version=version)
    limit(mount / "elsewhere", 1, version=version)
    assert count_cpus(proc) == 3


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize(
    ("group", "root"),
    [
        ("/docker/abc", "/docker/abc"),  # docker without a namespace for its groups
        ("/", "/"),  # docker with one
        ("/../other", "/docker/abc"),  # a group outside of what is mounted
    ],
)
def test_container_sees_its_limit_at_the_root_of_the_mount(
    group: str, root: str, version: int, proc: Path
) -> None:
    limit(WRITERS[version](proc, group, root), 5, version=version)
    assert count_cpus(proc) == 5


def test_no_limit_is_no_limit(proc: Path) -> None:
    assert count_cpus(proc) == 16, "no control groups"
    (write_version_2(proc, "/") / "cpu.max").write_text("max 100000\n")
    assert count_cpus(proc) == 16


def test_unlimited_group_of_version_1(proc: Path) -> None:
    mount = write_version_1(proc, "/")
    (mount / "cpu.cfs_quota_us").write_text("-1\n")
    (mount / "cpu.cfs_period_us").write_text("100000\n")
    assert count_cpus(proc) == 16


def test_cpus_that_a_process_is_bound_to_are_counted() -> None:
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        "from wpm.cpus import count_cpus; print(count_cpus())"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert answer.stdout == "1\n"


def test_cpus_are_counted_in_one_place() -> None:
    """Other ways of counting see CPUs that this process may not use."""
    others = ("cpu_count(", "sched_getaffinity(", "ProcessPoolExecutor()", "ThreadPoolExecutor()")
    found = {
        str(path.relative_to(ROOT))
        for folder in ("wpm", "analysis", "benchmarks", "clusters")
        for path in (ROOT / folder).rglob("*.py")
        if any(name in path.read_text(encoding="utf-8") for name in others)
    }
    assert found == {"wpm/cpus.py"}
