"""Kill everything that can be killed; the same command finishes, nothing lost or repeated."""

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.commands import Launcher, study_states, wait_until
from wpm.records import COMPLETE, RUNNING, find_studies, read_finals

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "contrastive+wpm")


def kill_driver(process: "subprocess.Popen[str]") -> None:
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)


def progress_of(launcher: Launcher) -> int:
    """Count reports and ended trials on disk: it only grows while a launch lives."""
    return sum(len(r.reports) + (r.result is not None) for r in launcher.trials())


def wait_for_progress(launcher: Launcher, process: "subprocess.Popen[str]", goal: int) -> None:
    """Wait until that much is on disk, or the launch has ended."""
    wait_until(lambda: progress_of(launcher) >= goal or process.poll() is not None)


def test_driver_killed_at_random_moments_of_a_search(tmp_path: Path) -> None:
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    kills = int(os.environ.get("WPM_FAULT_KILLS", "3"))
    print(f"seed {seed}, {kills} kills")
    rng = random.Random(seed)
    launcher = Launcher(tmp_path)
    wanted = 8
    ended_before: dict[Path, str] = {}
    for _ in range(kills):
        process = launcher.start(*ROWS, "--trials", str(wanted))
        wait_for_progress(launcher, process, progress_of(launcher) + rng.randint(1, 10))
        kill_driver(process)
        for record in launcher.trials():
            if record.result is not None:
                ended = str(record.result["ended"])
                assert ended_before.setdefault(record.folder, ended) == ended, "run twice"
    launcher.run(*ROWS, "--trials", str(wanted))
    records = launcher.trials()
    assert len(records) == 2 * wanted
    assert not any(r.state == RUNNING for r in records)
    for record in records:
        assert record.result is not None
        if record.folder in ended_before:
            assert record.result["ended"] == ended_before[record.folder], "run twice"
        epochs = [report["epoch"] for report in record.reports]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch was lost or repeated"
    for row, states in study_states(launcher.run_root).items():
        counts = Counter(states)
        assert counts["COMPLETE"] + counts["PRUNED"] == wanted, f"{row}: {counts}"


def test_driver_killed_in_the_final_runs(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    launcher.run("--trials", "1", "--rows", "contrastive")
    final = ("--rows", "contrastive", "--best-only", "--runs", "3")
    (place,) = find_studies(launcher.run_root)
    for ended in (1, 6):
        process = launcher.start(*final)
        wait_until(
            lambda n=ended: len(list(place.folder.glob("finals/*/*/*/result.json"))) >= n  # type: ignore[misc]
        )
        kill_driver(process)
    done = {p: p.stat().st_mtime_ns for p in place.folder.glob("finals/*/*/*/result.json")}
    launcher.run(*final)
    (final_record,), _ = read_finals(place)
    assert len(final_record.with_state(COMPLETE)) == 3
    assert all(path.stat().st_mtime_ns == when for path, when in done.items()), "trained again"


def workers_of(launcher: Launcher) -> list[int]:
    """Return the processes that hold a trial's lock file open."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = [str(fd.readlink()) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            if any(str(launcher.run_root) in link and link.endswith("/lock") for link in links):
                found.append(int(entry.name))
    return found


def test_killed_trial_process_resumes(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    process = launcher.start(*ROWS, "--trials", "6")
    killed: list[int] = []

    def kill_one() -> bool:
        for pid in workers_of(launcher):
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)
            return True
        return process.poll() is not None

    wait_until(kill_one)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert len(killed) == 1
    records = launcher.trials()
    assert len(records) == 12
    assert all(r.state in ("complete", "pruned") for r in records)


def test_ctrl_c_ends_quickly_and_the_same_command_goes_on(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    process = launcher.start(*ROWS, "--trials", "8")
    wait_until(lambda: progress_of(launcher) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted; give the same command again to continue" in output
    assert "Traceback" not in output
    launcher.run(*ROWS, "--trials", "8")
    assert len(launcher.trials()) == 16
    assert not any("RUNNING" in s for s in study_states(launcher.run_root).values())


def test_second_launch_of_a_study_is_refused_at_once(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    process = launcher.start("--rows", "contrastive", "--trials", "12")
    wait_until(lambda: progress_of(launcher) >= 1)
    output = launcher.run("--rows", "contrastive", "--trials", "12", code=2)
    assert "study folder/smoke/contrastive is in use by process" in output
    launcher.run("--rows", "triplet", "--trials", "1")  # another study is nobody's business
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
