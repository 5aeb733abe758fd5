"""Whatever is killed, the same command finishes the search, and no work is lost or repeated."""

import os
import random
import signal
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.faults.planted import plant, steps_in
from tests.support.commands import Launcher, study_states, wait_until
from tests.support.without_ray import run_here
from wpm.files import read_json, write_bytes
from wpm.records import TrialState, find_studies, read_finals

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "contrastive+wpm")


def kill_driver(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate(timeout=60)


class Ledger:
    """The results seen on disk so far. None may be lost, changed or made again."""

    def __init__(self) -> None:
        self.written: dict[Path, int] = {}
        self.scores: dict[Path, list[float]] = {}
        self.kills = 0

    def look(self, launcher: Launcher) -> None:
        # Only the study's folder: Ray's files beside it come and go.
        for path in launcher.run_root.glob("folder/**/result.json"):
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
        """Count validations and results on disk. The number only grows while a launch runs."""
        self.look(launcher)
        return len(self.written) + sum(len(scores) for scores in self.scores.values())

    def kill_when(self, launcher: Launcher, command: tuple[str, ...], more: int) -> None:
        """Launch, and kill the driver once this much more is on disk, unless it ends before."""
        goal = self.progress(launcher) + more
        process = launcher.start(*command)
        wait_until(lambda: self.progress(launcher) >= goal or process.poll() is not None, 200)
        self.kills += process.poll() is None
        kill_driver(process)


def random_kills(default: int) -> tuple[int, random.Random]:
    """Return the number of kills, and the generator that draws their moments."""
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    kills = int(os.environ.get("WPM_FAULT_KILLS", str(default)))
    print(f"seed {seed}, {kills} kills")
    return kills, random.Random(seed)


def test_driver_killed_at_random_moments_of_a_search(launcher: Launcher) -> None:
    kills, rng = random_kills(default=2)
    ledger = Ledger()
    wanted = max(5, 2 * kills)
    search = (*ROWS, "--trials", str(wanted))
    for _ in range(kills):
        ledger.kill_when(launcher, search, rng.randint(1, 10))
    launcher.run(*search)
    ledger.look(launcher)
    records = launcher.trials()
    assert len(records) == 2 * wanted
    assert ledger.kills, "it ended before the first kill"
    assert not any(r.state == TrialState.RUNNING for r in records)
    for row, states in study_states(launcher.run_root).items():
        counts = Counter(states)
        assert counts["COMPLETE"] + counts["PRUNED"] == wanted, f"{row}: {counts}"
    print(f"{ledger.kills} kills, {len(records)} trials, lost 0, run twice 0, left running 0")


def test_driver_killed_at_random_moments_of_the_final_runs(launcher: Launcher) -> None:
    kills, rng = random_kills(default=2)
    ledger = Ledger()
    run_here(launcher, "--trials", "1", "--rows", "contrastive")
    runs = max(2, kills // 2)
    final = ("--rows", "contrastive", "--best-only", "--runs", str(runs))
    (place,) = find_studies(launcher.run_root)
    for _ in range(kills):
        ledger.kill_when(launcher, final, rng.randint(1, 10))
    launcher.run(*final)
    ledger.look(launcher)
    (final_record,), _ = read_finals(place)
    assert len(final_record.tested) == runs
    assert ledger.kills, "they ended before the first kill"
    tests = (place.folder / "test_access.jsonl").read_text().splitlines()
    print(f"{ledger.kills} kills, {runs} runs, lost 0, trained twice 0; {len(tests)} tests begun")


# How long an optimiser step of a row takes is in a file, if there is one: a trial has 64 steps.
PACE = """
import time
from pathlib import Path
def fault(number, folder, fold):
    note_step(folder, fold)
    pace = Path(PACES) / folder.parent.parent.name
    if pace.exists():
        time.sleep(float(pace.read_text()))
"""
STEPS = 64  # in 4 epochs


class Paces:
    """Decides how long the optimiser steps of a launcher's trials take."""

    def __init__(self, launcher: Launcher, tmp_path: Path) -> None:
        self._folder = tmp_path / "paces"
        self._folder.mkdir()
        plant(launcher, tmp_path / "site", PACE.replace("PACES", repr(str(self._folder))))

    def set(self, seconds: float, *rows: str) -> None:
        for row in rows:
            write_bytes(self._folder / row, str(seconds).encode())


def test_sigterm_and_ctrl_c_end_quickly_and_the_same_command_resumes(
    launcher: Launcher, tmp_path: Path
) -> None:
    """At most the optimiser step in progress is lost, and that one is not: it is waited for."""
    paces = Paces(launcher, tmp_path)
    search = (*ROWS, "--trials", "2", "--no-early-stopping")
    trials = launcher.run_root / "folder/smoke/contrastive/trials"

    paces.set(1.0, *ROWS[1:])  # an epoch takes 16 s
    process = launcher.start(*search)
    wait_until(lambda: len(steps_in(trials / "0000")) >= 3)
    os.kill(process.pid, signal.SIGTERM)
    assert_interrupted(process)
    (checkpoint,) = (trials / "0000").glob("checkpoint-*.pt")
    assert checkpoint.name.startswith("checkpoint-0-"), "in the midst of the first epoch"

    paces.set(0.1, *ROWS[1:])
    process = launcher.start(*search)
    wait_until(lambda: Ledger().progress(launcher) >= 2)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the process group
    assert_interrupted(process)

    paces.set(0.0, *ROWS[1:])
    launcher.run(*search)
    records = launcher.trials()
    assert len(records) == 4
    for record in records:
        assert record.state == TrialState.COMPLETE
        assert [report.epoch for report in record.reports] == [1, 2, 3, 4]
        steps = steps_in(record.folder)
        assert len(steps) == len(set(steps)) == STEPS, "a step was repeated"
    assert not any("RUNNING" in s for s in study_states(launcher.run_root).values())


def assert_interrupted(process: "subprocess.Popen[str]") -> None:
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 130, output
    assert "interrupted; give the same command again to continue" in output
    assert "Traceback" not in output


def test_second_launch_of_a_study_is_refused_at_once(launcher: Launcher, tmp_path: Path) -> None:
    paces = Paces(launcher, tmp_path)
    paces.set(2.0, "contrastive")
    search = ("--rows", "contrastive", "--trials", "1")
    process = launcher.start(*search)
    folder = launcher.run_root / "folder/smoke/contrastive/trials/0000"
    wait_until(lambda: len(steps_in(folder)) >= 1)
    output = run_here(launcher, *search, code=2)
    assert "study folder/smoke/contrastive is in use by process" in output
    launcher.run("--rows", "triplet", "--trials", "1")  # another study may run beside it
    assert process.poll() is None, "the first launch ended before the other study did"
    paces.set(0.0, "contrastive")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    assert len(steps_in(folder)) == STEPS, "the first launch was disturbed"
