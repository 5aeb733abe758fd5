"""Real launches where the machine allows less than usual: CPUs, folders, output."""

import os
from pathlib import Path

import pytest

from tests.support.commands import Launcher
from wpm.records import TrialState

pytestmark = pytest.mark.slow


def test_dry_run_counts_the_cpus_that_it_may_use(tmp_path: Path) -> None:
    with Launcher(tmp_path) as launcher:
        allowed = min(os.sched_getaffinity(0))
        launcher.preexec = lambda: os.sched_setaffinity(0, {allowed})
        output = launcher.run("--rows", "contrastive", "--dry-run")
    assert "; 1 at a time:" in output


def test_search_without_a_home_and_with_a_long_temporary_folder(tmp_path: Path) -> None:
    """Containers with a random user have no home, and cluster jobs get long TMPDIRs."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with Launcher(tmp_path) as launcher:
        launcher.environment |= {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(long)}
        (tmp_path / "file").touch()  # so that not even root can make this home
        output = launcher.run("--rows", "contrastive", "--trials", "1")
        (line,) = [line for line in output.splitlines() if line.startswith("Ray's files go to")]
        assert f"because TMPDIR={long} has a path of" in line
        folder = Path(line.split(", because")[0].removeprefix("Ray's files go to "))
        assert [record.state for record in launcher.trials()] == [TrialState.COMPLETE]
    assert not folder.exists()
    assert not (long / "ray").exists()


def test_search_continues_when_nobody_reads_its_output(tmp_path: Path) -> None:
    """As with `python launch.py 2>&1 | head -1`."""
    with Launcher(tmp_path) as launcher:
        search = launcher.start("--rows", "contrastive", "--trials", "1")
        assert search.stdout is not None
        search.stdout.readline()
        search.stdout.close()
        assert search.wait(timeout=300) == 0
        assert [record.state for record in launcher.trials()] == [TrialState.COMPLETE]
        (log,) = (launcher.run_root / "logs").glob("*.log")
        text = log.read_text(encoding="utf-8")
    assert "contrastive trial   0 complete" in text
    assert "Traceback" not in text
