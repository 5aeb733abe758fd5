"""launch.py --serve as a user types it: its addresses, its refusals and its end."""

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from launch import main
from tests.support.searches import write_searched
from tests.support.stored import bytes_under
from wpm.cli.arguments import build_parser
from wpm.cli.options import LaunchOptions
from wpm.cli.serve import describe_addresses, report_command
from wpm.live_page.server import open_port
from wpm.records import StudyPlace
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def served(run_root: Path, temporary: Path) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    """Start launch.py --serve on a free port; yield the process and the page's address."""
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "launch.py"), "--serve", "0", "--run-root", str(run_root)],
        cwd=temporary, env={**os.environ, "TMPDIR": str(temporary)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    with process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/$", line.strip())
            assert address is not None, line
            yield process, address[0]
        finally:
            process.kill()


def read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=60) as answer:
        text: str = answer.read().decode()
    return text


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_page_is_served_until_a_signal_ends_it_quietly(
    number: signal.Signals, tmp_path: Path
) -> None:
    write_searched(tmp_path / "runs", trials=2)
    with served(tmp_path / "runs", tmp_path) as (process, address):
        assert "<title>Search</title>" in read(address)
        assert process.stdout is not None
        assert process.stdout.readline().startswith("from another machine: ssh -N -L ")
        process.send_signal(number)
        _, complaints = process.communicate(timeout=30)
    assert (process.returncode, complaints) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"], "reports are deleted"


@pytest.mark.slow
def test_full_report_is_made_from_the_page(tmp_path: Path) -> None:
    place = write_searched(tmp_path / "runs", "triplet+wpm", trials=8)
    before = bytes_under(tmp_path / "runs")
    with served(tmp_path / "runs", tmp_path) as (_, address):
        while "triplet" not in read(f"{address}changes"):
            pass
        for path in ("report", f"report/{place.name.replace('+', '%2B')}"):
            assert "Search report: omniglot/small/triplet+wpm" in read(address + path)
    assert bytes_under(tmp_path / "runs") == before


def test_another_machine_is_told_the_address_that_ssh_has_reached() -> None:
    root = Path("/mnt/runs")
    here, tunnel, _ = describe_addresses(8321, root, {}, "node7")
    assert here == "the studies under /mnt/runs: http://127.0.0.1:8321/"
    assert re.search(r"ssh -N -L 8321:127\.0\.0\.1:8321 \S+@node7$", tunnel)
    through = {"SSH_CONNECTION": "203.0.113.9 51000 198.51.100.4 22"}
    assert describe_addresses(8321, root, through, "node7")[1].endswith("@198.51.100.4")
    through = {"SSH_CONNECTION": "203.0.113.9 51000 198.51.100.4 2222"}
    assert "8321 -p 2222 " in describe_addresses(8321, root, through, "node7")[1]


def test_report_command_selects_the_study(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", Row("triplet", "wpm"), 2)
    command = report_command(tmp_path, place, tmp_path / "out.html")
    assert command[1:5] == ["-m", "analysis.report", "--run-root", str(tmp_path)]
    assert command[5:13] == [
        "--dataset", "omniglot", "--protocol", "small", "--row", "triplet+wpm", "--search", "2",
    ]  # fmt: skip
    assert command[-2:] == ["--out", str(tmp_path / "out.html")]
    assert "--dataset" not in report_command(tmp_path, None, tmp_path / "out.html")


def test_port_has_a_default_and_may_be_given() -> None:
    def port(*arguments: str) -> int | None:
        return LaunchOptions.from_arguments(build_parser(None).parse_args(arguments)).serve

    assert (port(), port("--serve"), port("--serve", "9000")) == (None, 8321, 9000)


def test_port_in_use_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_port(0) as taken:
        port = taken.getsockname()[1]
        assert main(["--serve", str(port), "--run-root", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == (
        f"launch.py: error: --serve {port}: cannot listen on 127.0.0.1:{port} (Address already in "
        "use); give another port from 1024 to 65535, or 0 for any that is free\n"
    )
