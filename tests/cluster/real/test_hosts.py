"""Hosts of this machine are apart from each other and from it, and leave nothing behind."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.cluster.real.hosts import PREFIX, SHARED, Hosts, find_missing
from tests.cluster.real.namespaces import delete_leftovers
from tests.support.commands import ROOT, wait_until


@pytest.fixture(autouse=True)
def _skip_where_hosts_cannot_be_made() -> None:
    if missing := find_missing():
        pytest.skip(missing)


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts([]) as made:
        made.add("one")
        made.add("two", shares=False)
        yield made


def test_each_has_processes_files_and_an_address_of_its_own(hosts: Hosts) -> None:
    assert hosts.run("one", "hostname; id -un; pwd").split() == ["one", "wpm", "/home/wpm"]
    hosts.run("one", f"touch /tmp/of-one ~/of-one {SHARED}/of-one")
    assert hosts.run("two", "ls ~ /tmp") == "/home/wpm:\n\n/tmp:\n"
    assert hosts.run("two", f"ls -d {SHARED} 2> /dev/null || true") == ""
    assert [path.name for path in hosts.shared.iterdir()] == ["of-one"]
    assert not Path("/tmp/of-one").exists()
    with hosts.in_background("one", "sleep 98765"):
        wait_until(lambda: "sleep 98765" in hosts.processes("one").values(), 10)
        assert "sleep 98765" not in hosts.run("two", "ps -eo args")


def test_they_reach_each_other_and_nothing_else(hosts: Hosts) -> None:
    look = "timeout 5 bash -c 'exec 3<> /dev/tcp/{}/22'"
    hosts.run("two", look.format(hosts.address("one")))
    with pytest.raises(AssertionError, match="unreachable"):
        hosts.run("two", look.format("192.0.2.1"))
    links = subprocess.run(["ip", "addr"], capture_output=True, text=True, check=True).stdout
    assert hosts.address("one").rpartition(".")[0] not in links, "no address of this machine"


def test_host_that_ended_boots_again_with_its_home_and_without_its_processes(hosts: Hosts) -> None:
    hosts.run("one", "touch /tmp/gone ~/kept")
    hosts.run("one", "setsid --fork sleep 98765 < /dev/null > /dev/null 2>&1")
    hosts.end("one")
    with pytest.raises(AssertionError, match=r"No route to host|exit code 124"):
        hosts.run("two", f"timeout 5 bash -c 'exec 3<> /dev/tcp/{hosts.address('one')}/22'")
    hosts.boot("one")
    assert hosts.run("one", "ls ~ /tmp") == "/home/wpm:\nkept\n\n/tmp:\n"
    assert "sleep" not in hosts.run("one", "ps -eo args")
    hosts.run("two", f"timeout 5 bash -c 'exec 3<> /dev/tcp/{hosts.address('one')}/22'")


def test_nothing_is_left_when_the_process_that_made_them_is_killed() -> None:
    code = (
        "import time\n"
        "from tests.cluster.real.hosts import Hosts\n"
        "with Hosts([]) as hosts:\n"
        "    hosts.add('one')\n"
        "    print(hosts.folder, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as maker:
        assert maker.stdout is not None
        folder = Path(maker.stdout.readline().strip())
        assert processes_with(folder)
        maker.kill()
    wait_until(lambda: not processes_with(folder), 30)
    assert folder.exists()
    delete_leftovers(PREFIX)
    assert not folder.exists()


def processes_with(folder: Path) -> list[int]:
    """Return the processes that have a folder in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if str(folder).encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
    return found
