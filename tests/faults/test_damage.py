"""Files with flipped bits, and files cut short, are refused by name or rebuilt, and never used.

`WPM_FAULT_SEED` changes which bits are flipped and where files are cut.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from analysis.export import main as export_models
from launch import main
from tests.support.final_runs import drain, final_plan
from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import killed_launch, run_trial
from wpm.data import pixel_cache, pixels
from wpm.data.pixel_cache import build_pixel_cache
from wpm.errors import UserError
from wpm.jobs.start import start_job
from wpm.model.exported import load_exported
from wpm.records import TrainingFolder
from wpm.studies.final_runs import FinalRunsWork

SEED = int(os.environ.get("WPM_FAULT_SEED", "0"))
FLIPS, CUTS = 6, 3  # how often each kind of file is damaged
STUDY = "runs/folder/smoke/contrastive"
CACHE = "work/pixels/folder-20px-*"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make images, a search with an interrupted trial, final runs, and exported models."""
    root = tmp_path_factory.mktemp("world")
    make_image_folder(root / "images")
    plan = make_plan(root, trials=2)
    with killed_launch(plan) as study:
        run_trial(study, lambda n: 0.3)
        run_trial(study, lambda n: 0.8)
    plan = replace(plan, trials=3)
    final = final_plan(plan, root, runs=1)
    with FinalRunsWork([final], lambda line: None) as work:
        drain(work)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        job = start_job(asked[1])
        job.step()
        job.close()
    out = ["--run-root", str(root / "runs"), "--out", str(root / "exported")]
    assert export_models(out) == 0
    return root


def run_launch(root: Path, *more: str) -> int:
    """Launch as a user does; return the exit code."""
    return main(
        ["--dataset", "folder", "--data-root", str(root / "images"), "--protocol", "smoke",
         "--rows", "contrastive", "--run-root", str(root / "runs"),
         "--work-root", str(root / "work"), *more]
    )  # fmt: skip


def search(root: Path) -> int:
    """Resume the search."""
    return run_launch(root, "--trials", "3")


def best_only(root: Path) -> int:
    """Continue the final runs: one of the two trials has its runs already."""
    return run_launch(root, "--best-only", "--allow-unfinished", "--runs", "1", "--top", "2")


def export(root: Path) -> int:
    """Export the models into a new folder."""
    shutil.rmtree(root / "again", ignore_errors=True)
    return export_models(["--run-root", str(root / "runs"), "--out", str(root / "again")])


@dataclass(frozen=True)
class Kind:
    """A kind of file, and the command that reads it."""

    path: str
    command: Callable[[Path], int]


REFUSED = {
    "study": Kind(f"{STUDY}/study.json", search),
    "journal": Kind(f"{STUDY}/study.journal", search),
    "trial": Kind(f"{STUDY}/trials/0001/trial.json", best_only),
    "result": Kind(f"{STUDY}/trials/0001/result.json", best_only),
    "orphan": Kind(f"{STUDY}/trials/0002/trial.json", search),
    "reports": Kind(f"{STUDY}/trials/0002/reports.json", search),
    "checkpoint": Kind(f"{STUDY}/trials/0002/checkpoint-1.pt", search),
    "final": Kind(f"{STUDY}/finals/*/final.json", best_only),
    "fold": Kind(f"{STUDY}/finals/*/seed-1000/fold-2/result.json", export),
    "tested": Kind(f"{STUDY}/finals/*/seed-1000/result.json", best_only),
    "model": Kind(f"{STUDY}/finals/*/seed-1000/fold-2/model-fold-2.safetensors", export),
    "pixels": Kind(f"{CACHE}/pixels.bin", search),
    "meta": Kind(f"{CACHE}/meta.json", search),
}


def damages(data: bytes, rng: random.Random) -> Sequence[bytes]:
    """Return damaged copies of a file's content: bits flipped, and cut short, at random places."""
    changed = []
    for _ in range(FLIPS):
        copy = bytearray(data)
        copy[rng.randrange(len(copy))] ^= 1 << rng.randrange(8)
        changed.append(bytes(copy))
    return [*changed, *(data[: rng.randrange(len(data) - 1)] for _ in range(CUTS)), b""]


def means_the_same(path: Path, damaged: bytes, data: bytes) -> bool:
    """Return whether the damage changes nothing that is read, such as a blank."""
    if path.suffix == ".journal" and data.startswith(damaged):
        # Every launch repeats the entry that creates the study; without it nothing is lost.
        lost = data[damaged.rfind(b"\n") + 1 :].splitlines()
        return all(json.loads(line)["op_code"] == 0 for line in lost)
    if path.suffix != ".json":
        return False
    try:
        return bool(json.loads(damaged) == json.loads(data))
    except ValueError:
        return False


def find(root: Path, pattern: str) -> Path:
    """Return the file of this kind; of the two pixel caches, that of the trainval images."""
    found = sorted(root.glob(pattern), key=lambda path: path.stat().st_mtime_ns)
    assert found, pattern
    return found[0]


@pytest.mark.parametrize("kind", REFUSED.values(), ids=REFUSED)
def test_damaged_file_is_refused_by_name_with_exit_code_2(
    kind: Kind,
    world: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # After its checks a launch would train.
    monkeypatch.setattr("wpm.cli.commands.run_on_ray", lambda *arguments: True)
    root = tmp_path / "world"
    shutil.copytree(world, root)
    assert kind.command(root) == 0, capfd.readouterr().err
    capfd.readouterr()
    path = find(root, kind.path)
    data = path.read_bytes()
    rng = random.Random(f"{SEED} {path.name}")
    refused = 0
    for damaged in damages(data, rng):
        path.write_bytes(damaged)
        code = kind.command(root)
        error = capfd.readouterr().err
        if means_the_same(path, damaged, data):
            continue
        assert code == 2, f"seed {SEED}: used with {len(damaged)} of {len(data)} bytes"
        said = {line.split(" error: ")[-1].removeprefix("note: ") for line in error.splitlines()}
        assert len(said) == 1, error
        assert (path.parent.name if kind.path.startswith(CACHE) else path.name) in error
        kept = path.read_bytes()
        assert damaged.startswith(kept), "the evidence was touched"
        assert b"\n" not in damaged[len(kept) :], "more than a half last line was cut off"
        refused += 1
    assert refused >= FLIPS + CUTS - 1
    path.write_bytes(data)
    assert kind.command(root) == 0, capfd.readouterr().err


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_damaged_export_is_refused_by_name(world: Path, tmp_path: Path, suffix: str) -> None:
    root = tmp_path / "exported"
    shutil.copytree(world / "exported", root)
    path = root / f"fold-1{suffix}"
    data = path.read_bytes()
    rng = random.Random(f"{SEED} {path.name}")
    for damaged in damages(data, rng):
        path.write_bytes(damaged)
        if not means_the_same(path, damaged, data):
            with pytest.raises(UserError, match=rf"fold-1\{suffix}"):
                load_exported(root)
    path.write_bytes(data)
    load_exported(root)


@pytest.mark.parametrize("memory", ["digests", "unreadable"])
def test_damaged_memory_is_rebuilt(tmp_path: Path, memory: str) -> None:
    """What these files remember can be found out again, so the cache keeps its name."""
    from wpm.data.class_folders import index_class_folders

    images = make_image_folder(tmp_path / "images", classes=3)
    (images / "class_01" / "1.png").write_bytes(b"")
    index = index_class_folders("folder", images, channels=1)
    folder = build_pixel_cache(index, 20, tmp_path / "work", skip_unreadable=True)
    (path,) = (tmp_path / "work" / "pixels").glob(f"{memory}-*.json")
    data = path.read_bytes()
    for damaged in damages(data, random.Random(f"{SEED} {memory}")):
        path.write_bytes(damaged)
        assert build_pixel_cache(index, 20, tmp_path / "work", skip_unreadable=True) == folder
        assert json.loads(path.read_bytes()) == json.loads(data)


def test_damaged_list_of_parts_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Decoded parts are kept only if their checksums match."""
    from wpm.data.class_folders import index_class_folders

    for module in (pixels, pixel_cache):
        monkeypatch.setattr(module, "PART_IMAGES", 8)
    index = index_class_folders("folder", make_image_folder(tmp_path / "images"), channels=1)
    whole = build_pixel_cache(index, 20, tmp_path / "whole")
    rng = random.Random(f"{SEED} parts.jsonl")

    def stop(done: int, total: int) -> None:
        if done >= 40:
            raise KeyboardInterrupt

    for number in range(FLIPS + CUTS + 1):
        work = tmp_path / str(number)
        with pytest.raises(KeyboardInterrupt):
            build_pixel_cache(index, 20, work, stop)
        (path,) = work.glob("pixels/.partial-*/parts.jsonl")
        path.write_bytes(damages(path.read_bytes(), rng)[number])
        folder = build_pixel_cache(index, 20, work)
        for name in ("meta.json", "pixels.bin"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_status_names_damaged_reports_of_an_ended_trial(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Search and final runs do not read these reports, but --status does."""
    root = tmp_path / "world"
    shutil.copytree(world, root)
    path = root / STUDY / "trials" / "0000" / "reports.json"
    data = path.read_bytes()
    for damaged in damages(data, random.Random(f"{SEED} ended")):
        path.write_bytes(damaged)
        assert main(["--status", "--run-root", str(root / "runs")]) == 0
        told = capfd.readouterr().out
        assert ("0000/reports.json: damaged" in told) != means_the_same(path, damaged, data)


def test_checkpoint_is_checked_again_before_it_is_resumed(world: Path, tmp_path: Path) -> None:
    """It may be damaged while a launch runs: after the launch's own check, before a restart."""
    shutil.copytree(world, tmp_path / "world")
    folder = TrainingFolder(tmp_path / "world" / STUDY / "trials" / "0002")
    path = folder.folder / "checkpoint-1.pt"
    data = path.read_bytes()
    for damaged in damages(data, random.Random(f"{SEED} checkpoint")):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"checkpoint-1\.pt: checkpoint is damaged"):
            folder.read_progress()
