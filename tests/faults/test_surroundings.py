"""Real launches where the machine allows less than usual: CPUs, folders, output."""

import os
from pathlib import Path

import pytest

from tests.support.commands import Launcher
from tests.support.without_ray import run_here
from wpm.records import TrialState

pytestmark = pytest.mark.slow


def test_dry_run_counts_the_cpus_that_it_may_use(tmp_path: Path) -> None:
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        output = run_here(Launcher(tmp_path), "--rows", "contrastive", "--dry-run")
    finally:
        os.sched_setaffinity(0, allowed)
    assert "; 1 at a time:" in output


def test_search_without_a_home_with_a_long_temporary_folder_and_without_a_reader(
    tmp_path: Path,
) -> None:
    """Containers with a random user have no home, and cluster jobs get long TMPDIRs.

    The output ends while the search runs, as with `python launch.py 2>&1 | head`.
    """
    long = tmp_path / ("x" * 100)
    long.mkdir()
    with Launcher(tmp_path) as launcher:
        launcher.environment |= {"HOME": str(tmp_path / "file" / "home"), "TMPDIR": str(long)}
        launcher.environment.pop("RAY_TMPDIR", None)  # it would be taken in place of TMPDIR
        (tmp_path / "file").touch()  # so that not even root can make this home
        search = launcher.start("--rows", "contrastive", "--trials", "1")
        assert search.stdout is not None
        line = next(line for line in search.stdout if line.startswith("Ray's files go to"))
        search.stdout.close()
        assert f"because TMPDIR={long} has a path of" in line
        folder = Path(line.split(", because")[0].removeprefix("Ray's files go to "))
        assert search.wait(timeout=300) == 0
        assert [record.state for record in launcher.trials()] == [TrialState.COMPLETE]
        (log,) = (launcher.run_root / "logs").glob("*.log")
        text = log.read_text(encoding="utf-8")
    assert "contrastive trial   0 complete" in text, "a line that nobody could read"
    assert not folder.exists()
    assert not (long / "ray").exists()
