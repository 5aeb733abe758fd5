"""A study whose GPU-hours are spent stops, the other continues; --status shows both."""

import tempfile
from collections import Counter
from pathlib import Path

import pytest

from tests.support.commands import Launcher, study_states
from tests.support.ray_nodes import RayNodes
from tests.support.without_ray import run_here
from wpm.records import (
    StudyPlace,
    TrainingRecord,
    TrialState,
    gpu_seconds,
    read_all_reports,
    read_trials,
)
from wpm.rows import Row

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "triplet")


def hours_of(launcher: Launcher, row: str) -> float:
    place = StudyPlace(launcher.run_root, "folder", "smoke", Row.parse(row))
    return sum(map(gpu_seconds, read_all_reports(place).values())) / 3600


def test_a_study_stops_at_its_gpu_hours_and_the_other_continues(tmp_path: Path) -> None:
    launcher = Launcher(tmp_path)
    with (
        tempfile.TemporaryDirectory(prefix="wpm-", dir="/tmp") as folder,  # sockets: short paths
        RayNodes(Path(folder), 1, launcher.environment) as nodes,
    ):
        launcher.environment = nodes.environment
        nodes.add(gpus=1)  # only declared: the trials train on the CPU
        where = ("--address", nodes.address, "--gpus-per-trial", "0.5", "--no-early-stopping")
        # GPU-hours as an earlier launch leaves them. They are read from the records, so it needs
        # no cluster.
        early = ("--trials", "2", "--no-early-stopping")
        run_here(launcher, "--rows", "triplet", *early, gpus=0.5)
        # Half of what two trials took: five do not fit in, even where they run four times faster.
        limit = f"{0.5 * hours_of(launcher, 'triplet'):.9f}"
        command = (*ROWS, "--trials", "5", *where)
        output = launcher.run(*command, "--max-gpu-hours-per-study", limit)
        for row in ("triplet", "contrastive"):
            assert f"folder/smoke/{row} stopped at " in output
        assert "GPU-hours (--max-gpu-hours-per-study); run the command with a higher" in output
        assert "done; next" not in output
        counts = {row: len(trials_of(launcher, row)) for row in ("triplet", "contrastive")}
        assert counts["triplet"] == 2, "nothing more of what had spent its hours"
        assert 1 <= counts["contrastive"] < 5
        left = [t for t in trials_of(launcher, "contrastive") if t.state == TrialState.RUNNING]
        assert all(list(t.folder.glob("checkpoint-*.pt")) for t in left if t.reports)

        status = launcher.run("--status", "--address", nodes.address)
        assert "folder/smoke/triplet" in status
        assert "2/5" in status

        launcher.run(*command)
    assert not any(t.state == TrialState.RUNNING for t in trials_of(launcher, "contrastive"))
    for states in study_states(launcher.run_root).values():
        assert Counter(states) == {"COMPLETE": 5}


def trials_of(launcher: Launcher, row: str) -> list[TrainingRecord]:
    place = StudyPlace(launcher.run_root, "folder", "smoke", Row.parse(row))
    records, problems = read_trials(place, with_reports=True)
    assert not problems
    return records
