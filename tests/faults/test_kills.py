"""Kill everything that can be killed; the same command finishes, nothing lost or repeated."""

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.commands import Launcher, study_states, wait_until
from wpm.files import read_json
from wpm.records import TrialState, find_studies, read_finals

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "contrastive+wpm")


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=60)


class Ledger:
    """Remembers what was on disk: nothing of it may be lost, changed or done again."""

    def __init__(self) -> None:
        self.written: dict[Path, int] = {}
        self.scores: dict[Path, list[float]] = {}
        self.kills = 0

    def look(self, launcher: Launcher) -> None:
        for path in launcher.run_root.glob("folder/**/result.json"):  # Ray's files come and go
            written = path.stat().st_mtime_ns
            assert self.written.setdefault(path, written) == written, f"{path}: done twice"
        for path in launcher.run_root.glob("folder/**/reports.json"):
            reports = read_json(path)["reports"]
            epochs = [report["epoch"] for report in reports]
            assert epochs == list(range(1, len(epochs) + 1)), f"{path}: {epochs}"
            scores = [report["best_map_at_r"] for report in reports]
            before = self.scores.get(path, [])
            assert scores[: len(before)] == before, f"{path}: a validation was lost"
            self.scores[path] = scores

    def progress(self, launcher: Launcher) -> int:
        """Count validations and ends on disk: the number only grows while a launch lives."""
        self.look(launcher)
        return len(self.written) + sum(len(scores) for scores in self.scores.values())

    def kill_when(self, launcher: Launcher, command: tuple[str, ...], more: int) -> None:
        """Launch, and kill the driver once so much more is on disk, or let it end before."""
        goal = self.progress(launcher) + more
        process = launcher.start(*command)
        wait_until(lambda: self.progress(launcher) >= goal or process.poll() is not None, 200)
        self.kills += process.poll() is None
        kill_driver(process)


def random_kills(default: int) -> tuple[int, random.Random]:
    """Return how many kills are asked for, and what draws their moments."""
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    kills = int(os.environ.get("WPM_FAULT_KILLS", str(default)))
    print(f"seed {seed}, {kills} kills")
    return kills, random.Random(seed)


def test_driver_killed_at_random_moments_of_a_search(launcher: Launcher) -> None:
    kills, rng = random_kills(default=2)
    ledger = Ledger()
    wanted = max(8, 2 * kills)
    search = (*ROWS, "--trials", str(wanted))
    for _ in range(kills):
        ledger.kill_when(launcher, search, rng.randint(1, 10))
    launcher.run(*search)
    ledger.look(launcher)
    records = launcher.trials()
    assert len(records) == 2 * wanted
    assert not any(r.state == TrialState.RUNNING for r in records)
    for row, states in study_states(launcher.run_root).items():
        counts = Counter(states)
        assert counts["COMPLETE"] + counts["PRUNED"] == wanted, f"{row}: {counts}"
    print(f"{ledger.kills} kills, {len(records)} trials, lost 0, run twice 0, left running 0")


def test_driver_killed_at_random_moments_of_the_final_runs(launcher: Launcher) -> None:
    kills, rng = random_kills(default=2)
    ledger = Ledger()
    launcher.run("--trials", "1", "--rows", "contrastive")
    runs = max(3, kills // 2)
    final = ("--rows", "contrastive", "--best-only", "--runs", str(runs))
    (place,) = find_studies(launcher.run_root)
    for _ in range(kills):
        ledger.kill_when(launcher, final, rng.randint(1, 10))
    launcher.run(*final)
    ledger.look(launcher)
    (final_record,), _ = read_finals(place)
    assert len(final_record.tested) == runs
    tests = (place.folder / "test_access.jsonl").read_text().splitlines()
    print(f"{ledger.kills} kills, {runs} runs, lost 0, trained twice 0; {len(tests)} tests begun")


def test_ctrl_c_ends_quickly_and_the_same_command_resumes(launcher: Launcher) -> None:
    process = launcher.start(*ROWS, "--trials", "5")
    wait_until(lambda: Ledger().progress(launcher) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted; give the same command again to continue" in output
    assert "Traceback" not in output
    launcher.run(*ROWS, "--trials", "5")
    assert len(launcher.trials()) == 10
    assert not any("RUNNING" in s for s in study_states(launcher.run_root).values())


def test_second_launch_of_a_study_is_refused_at_once(launcher: Launcher) -> None:
    process = launcher.start("--rows", "contrastive", "--trials", "12")
    wait_until(lambda: Ledger().progress(launcher) >= 1)
    output = launcher.run("--rows", "contrastive", "--trials", "12", code=2)
    assert "study folder/smoke/contrastive is in use by process" in output
    launcher.run("--rows", "triplet", "--trials", "1")  # another study is nobody's business
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
