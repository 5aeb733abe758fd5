"""Real launches on a small disk that fills up, and on folders that become read-only."""

import ctypes
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from analysis.table import main as print_table
from tests.support.commands import Launcher, study_states, wait_until
from tests.support.without_ray import run_here
from wpm.records import Outcome, TrialState, find_studies, read_finals, read_study

pytestmark = pytest.mark.slow

ROWS = ("--rows", "contrastive", "contrastive+wpm")
FULL = "cannot be written (No space left on device); free space"
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a disk of 24 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(disk)],
        capture_output=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        pytest.skip("a disk can be mounted by root only")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def fill(disk: Path) -> Path:
    """Fill all free space with one file, and return it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


def progress_of(launcher: Launcher) -> int:
    return sum(len(record.reports) for record in launcher.trials())


def assert_one_line(output: str, reason: str) -> None:
    """Check that the output names the error, and shows no traceback."""
    (error,) = [line for line in output.splitlines() if "launch.py: error: " in line]
    assert reason in error, output
    assert output.splitlines()[-1] == error
    assert "Traceback" not in output


def assert_nothing_half_written(root: Path) -> None:
    assert [p for p in root.rglob(".*") if p.is_file()] == []
    assert list(root.glob(".ray-*")) == []


def stop_by(process: "subprocess.Popen[str]", reason: str, launcher: Launcher) -> None:
    """Wait for a launch to end with this reason. No file is half written, no trial has failed."""
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert_one_line(output, reason)
    assert_nothing_half_written(launcher.run_root)
    assert not [record.folder for record in launcher.trials() if record.state == "failed"]


def ended_of(launcher: Launcher) -> dict[Path, Outcome]:
    return {r.folder: r.result for r in launcher.trials() if r.result is not None}


def assert_searched(launcher: Launcher, trials: int, ended: dict[Path, Outcome]) -> None:
    """Check that every trial ran to its end, once and without a gap, also in the study."""
    records = launcher.trials()
    assert len(records) == trials
    for record in records:
        assert record.state not in (TrialState.RUNNING, TrialState.FAILED)
        assert ended.get(record.folder, record.result) == record.result, "run twice"
        epochs = [report.epoch for report in record.reports]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch was lost or repeated"
    for states in study_states(launcher.run_root).values():
        assert Counter(states).keys() <= {"COMPLETE", "PRUNED"}


def test_disk_that_fills_up_in_search_and_final_runs(launcher: Launcher, small_disk: Path) -> None:
    launcher.run_root = small_disk / "runs"
    search = (*ROWS, "--trials", "2")
    process = launcher.start(*search)
    wait_until(lambda: progress_of(launcher) >= 2)
    filler = fill(small_disk)
    stop_by(process, FULL, launcher)
    ended = ended_of(launcher)
    filler.unlink()
    launcher.run(*search)
    assert_searched(launcher, 4, ended)

    final = ("--rows", "contrastive", "--best-only", "--runs", "2")
    process = launcher.start(*final)
    models = f"{find_studies(launcher.run_root)[0].folder}/finals"
    wait_until(lambda: len(list(Path(models).glob("*/seed-*/fold-*/result.json"))) >= 2)
    filler = fill(small_disk)
    stop_by(process, FULL, launcher)
    done = {p: p.read_bytes() for p in Path(models).glob("*/seed-*/fold-*/result.json")}
    filler.unlink()
    launcher.run(*final)
    (record,), problems = read_finals(find_studies(launcher.run_root)[0])
    assert problems == []
    assert len(record.tested) == 2
    assert all(path.read_bytes() == before for path, before in done.items()), "trained again"


def obey_modes() -> None:
    """Drop root's right to ignore file modes, also in every process that is started later."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE)


def change_modes(root: Path, change: Callable[[int], int]) -> None:
    for path in [root, *root.rglob("*")]:
        path.chmod(change(path.stat().st_mode & 0o777))


def test_run_folder_that_becomes_read_only(launcher: Launcher) -> None:
    launcher.preexec = obey_modes
    search = (*ROWS, "--trials", "2")
    process = launcher.start(*search)
    wait_until(lambda: progress_of(launcher) >= 2)
    change_modes(launcher.run_root, lambda mode: mode & ~0o222)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 2, output
    assert_one_line(output, "cannot be written (Permission denied); free space, fix permissions")
    refused = launcher.run(*search, code=2)  # while the folder is read-only
    assert_one_line(refused, "runs: cannot be written")
    change_modes(launcher.run_root, lambda mode: mode | 0o200)
    ended = ended_of(launcher)
    launcher.run(*search)
    assert_searched(launcher, 4, ended)
    assert not list(launcher.run_root.rglob("*checkpoint-*")), "a half one stayed behind"


def test_unreadable_images_are_skipped_and_recorded_from_launch_to_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher = Launcher(tmp_path)
    # One is of the trainval half, one of the test half.
    for damaged in ("class_01/2.png", "class_12/0.png"):
        path = launcher.images / damaged
        path.write_bytes(path.read_bytes()[:60])
    Image.new("L", (20, 20)).save(launcher.images / "class_03/0.png")  # black everywhere
    search = ("--rows", "contrastive", "--trials", "1")
    refused = run_here(launcher, *search, code=2)
    assert_one_line(refused, "class_01/2.png (")
    assert "--skip-unreadable" in refused
    output = run_here(launcher, *search, "--skip-unreadable")
    assert "left out: 1 of 32 images to train and validate on cannot be read: class_01/2." in output
    assert (
        "warning: little can be seen in 1 of 32 images to train and validate on: "
        "1 show one colour everywhere: class_03/0.png"
    ) in " ".join(output.split())
    final = ("--rows", "contrastive", "--best-only", "--runs", "1")
    assert_one_line(run_here(launcher, *final, code=2), "class_01/2.png (")
    run_here(launcher, *final, "--skip-unreadable")
    (place,) = find_studies(launcher.run_root)
    study = read_study(place)
    assert study is not None
    assert study["provenance"]["findings"] == {"flat": 1}
    (record,), _ = read_finals(place)
    (result,) = record.tested
    ((left_out, _),) = result.left_out
    assert (left_out, result.test_images) == ("class_12/0.png", 31)
    assert print_table(["--run-root", str(launcher.run_root)]) == 0
    told = capsys.readouterr().out
    assert "contrastive: tested without 1 image that could not be read" in told
    # With another image left out it is another study.
    (launcher.images / "class_02" / "0.png").unlink()
    changed = run_here(launcher, *search, "--skip-unreadable", code=2)
    assert_one_line(changed, "was started with images.pixels = ")
