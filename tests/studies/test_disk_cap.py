"""The size of a run folder, and when its cap would be exceeded."""

from pathlib import Path

import pytest

from tests.support.tiny import make_plan
from tests.support.trials import outcome
from wpm.records import TrainingFolder, TrialState
from wpm.studies.disk_cap import INTERVAL_S, DiskCap, FolderSize
from wpm.studies.study import Study

KIB = 1024


def write(path: Path, size: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def test_files_count_as_the_disk_counts_them(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "large", 100 * KIB)
    assert 100 * KIB <= FolderSize(tmp_path).measure() <= 120 * KIB
    assert FolderSize(tmp_path / "nowhere").measure() == 0


def test_ended_trials_are_measured_once_and_running_ones_anew(tmp_path: Path) -> None:
    ended, running = tmp_path / "s" / "trials" / "0000", tmp_path / "s" / "trials" / "0001"
    write(ended / "reports.json", 40 * KIB)
    write(ended / "result.json", KIB)
    write(running / "checkpoint-1.pt", 80 * KIB)
    size = FolderSize(tmp_path)
    before = size.measure()
    assert 80 * KIB <= size.checkpoints < 90 * KIB
    write(ended / "more", 400 * KIB)  # never happens: an ended trial is not written to
    write(running / "checkpoint-2.pt", 80 * KIB)
    assert 80 * KIB <= size.measure() - before < 90 * KIB
    assert size.checkpoints >= 160 * KIB
    assert 80 * KIB <= size.largest_checkpoint < 90 * KIB


def test_a_trial_that_ended_but_holds_its_checkpoint_is_measured_again(tmp_path: Path) -> None:
    trial = tmp_path / "trials" / "0000"
    write(trial / "result.json", KIB)
    write(trial / "checkpoint-1.pt", 80 * KIB)
    size = FolderSize(tmp_path)
    before = size.measure()
    (trial / "checkpoint-1.pt").unlink()
    assert size.measure() <= before - 80 * KIB


def test_cap_leaves_room_for_the_next_checkpoint_of_all_that_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("wpm.studies.disk_cap.time.monotonic", lambda: now)
    running = 2
    write(tmp_path / "reports.json", 100 * KIB)
    cap = DiskCap(tmp_path, 500 * KIB, 100 * KIB, lambda: running)
    said = cap.limit_reached()
    assert "(--max-disk)" in said, "100 there, and two of 100 each may come twice"
    running = 1
    assert cap.limit_reached() == ""
    write(tmp_path / "trials" / "0" / "checkpoint-3.pt", 300 * KIB)
    assert cap.limit_reached() == "", "looked a moment ago"
    now += INTERVAL_S
    assert "GiB, and what runs may write" in cap.limit_reached(), (
        "larger than estimated: 400 there, 300 come"
    )


def test_whatever_ends_a_trial_its_checkpoints_go(tmp_path: Path) -> None:
    """Half-written files of a killed writer are removed, too."""
    for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAILED):
        folder = TrainingFolder(tmp_path / state)
        folder.write_progress([], {"epoch": 3})
        write(folder.folder / ".checkpoint-4.pt.123.456", KIB)
        folder.write_result(outcome(0.5, state))
        assert sorted(p.name for p in folder.folder.iterdir()) == ["reports.json", "result.json"]


def test_checkpoint_that_outlived_its_result_is_removed(
    tmp_path: Path,
) -> None:
    """After a kill between the two, the next launch adopts the trial and records how it ended."""
    plan = make_plan(tmp_path, trials=1)
    with Study(plan) as study:
        study.ask()
    folder = TrainingFolder(plan.place.trial_folder(0))
    folder.write_result(outcome(None, TrialState.FAILED, reason="diverged"))
    write(folder.folder / "checkpoint-1.pt", KIB)
    with Study(plan) as study:
        assert study.ask() is None
        assert study.ended == 1
    assert not list(folder.folder.glob("checkpoint-*"))
