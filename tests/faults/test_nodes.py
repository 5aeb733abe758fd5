"""Nodes may vanish, join or be taken back during a search; the results stay complete."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.planted import plant
from tests.support.commands import ROOT, Launcher, study_states, wait_until, workers_of
from tests.support.metadata import NOTICE, MetadataService
from tests.support.ray_nodes import RayNodes, parent_of
from wpm.records import TrialState

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "contrastive+wpm")
# Trials last until the test has seen what it waits for, even on a busy machine.
PACE = """
import os, time
def fault(number, folder, fold):
    with open(folder / "steps", "a") as file:
        file.write(f"{fold.epoch} {fold.position} {fold.iteration}\\n")
    if not os.path.exists("GO"):
        time.sleep(0.2 if fold.epoch == 0 else 0.6)
"""
STEPS = 64  # optimiser steps of a trial, in 4 epochs
MIDWAY = range(4, 48)  # far enough from the end of a trial for an interruption


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Not below tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wpm-", dir="/tmp") as folder:
        yield Path(folder)


def training_on(launcher: Launcher, node: int) -> Path | None:
    """Return the folder of the trial that trains on a node, or None."""
    return next((f for w, f in workers_of(launcher).items() if parent_of(w) == node), None)


def steps_of(folder: Path) -> list[str]:
    file = folder / "steps"
    return file.read_text().splitlines() if file.exists() else []


def test_search_continues_when_nodes_die_join_and_are_taken_back(
    launcher: Launcher, tmp_path: Path, ray_folder: Path
) -> None:
    go = tmp_path / "go"
    plant(launcher, tmp_path / "site", PACE.replace("GO", str(go)))
    with RayNodes(ray_folder, 3, launcher.environment) as nodes, MetadataService() as metadata:
        launcher.environment = nodes.environment
        on_cluster = (*ROWS, "--address", nodes.address)
        process = launcher.start(*on_cluster, "--trials", "3", "--no-early-stopping")

        def wait(condition: Callable[[], bool]) -> None:
            wait_until(lambda: process.poll() is not None or condition(), seconds=200)
            assert process.poll() is None, process.communicate()[0]

        doomed = nodes.added[0]
        wait(
            lambda: (
                (f := training_on(launcher, doomed)) is not None and len(steps_of(f)) > STEPS // 4
            )
        )
        moved = training_on(launcher, doomed)
        assert moved is not None
        nodes.remove(doomed)
        done_before = len(steps_of(moved))
        joined = nodes.add()
        wait(lambda: training_on(launcher, joined) is not None)
        wait(lambda: len(steps_of(moved)) > done_before)

        spot = nodes.added[1]
        watcher = subprocess.Popen(
            [sys.executable, "clusters/spot_watch.py", "--raylet", str(spot),
             "--metadata", metadata.address],
            cwd=ROOT, env=nodes.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        wait(lambda: (f := training_on(launcher, spot)) is not None and len(steps_of(f)) in MIDWAY)
        warned = training_on(launcher, spot)
        assert warned is not None
        metadata.notice = NOTICE
        wait(lambda: training_on(launcher, spot) is None)
        saved = steps_of(warned)
        go.touch()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        launcher.run(*on_cluster, "--best-only", "--runs", "1")
    said, _ = watcher.communicate(timeout=60)  # the watcher ends when its node ends

    records = launcher.trials()
    assert {record.state for record in records} == {TrialState.COMPLETE}
    for record in records:
        assert [report.epoch for report in record.reports] == [1, 2, 3, 4], "lost or repeated"
    assert len(steps_of(moved)) - STEPS <= STEPS // 4, "more than an epoch was trained again"
    assert watcher.returncode == 0, said
    assert "the node is drained" in said
    assert said.count("asked trial process") == 1, "nothing new may start on a node that goes"
    later = steps_of(warned)[len(saved) :]
    assert not set(later) & set(saved), "a step was trained again after a warning"
    assert len({*saved, *later}) == STEPS, "a step was lost"
    assert study_states(launcher.run_root) == {row: ["COMPLETE"] * 3 for row in ROWS[1:]}
    table = subprocess.run(
        [sys.executable, "-m", "analysis.table", "--run-root", str(launcher.run_root)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "contrastive+wpm" in table.stdout
    token = b"0123456789abcdef" * 4
    files = [path for path in launcher.run_root.rglob("*") if path.is_file()]
    assert not [path for path in files if token in path.read_bytes()], "a secret was logged"
