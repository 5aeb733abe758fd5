"""A search opens no test image, and none of its processes loads the module that could."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from analysis.studies.fairness import describe_split
from analysis.studies.row_results import read_row
from tests.support.commands import ROOT, Launcher
from tests.support.without_ray import run_here
from wpm.data.pixels import Pixels
from wpm.records import find_studies, read_finals

DOOR = {
    "wpm.jobs.held_out", "wpm.jobs.scoring_job", "wpm.jobs.held_out_embeddings",
    "wpm.jobs.pipeline_check", "wpm.cli.check_pipeline",
}  # fmt: skip
# Python runs a module of this name at its start, if it finds one. Every import of ours, and every
# file that is opened below some folders, is written down when it happens: Ray kills its processes
# in the end, without a chance to look at sys.modules.
SITE = """
import os, sys
from pathlib import Path

class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "wpm":
            with Path(__file__).with_name(f"{os.getpid()}.imports").open("a") as file:
                file.write(name + "\\n")
        return None

sys.meta_path.insert(0, Recorder())

_log = os.open(Path(__file__).with_name("opened"), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
_watched = os.environ["TRACE_FOLDERS"].split(":")

def _hook(event, args):
    if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
        name = os.path.realpath(os.fsdecode(args[0]))
        if any(name.startswith(folder) for folder in _watched):
            os.write(_log, (name + "\\n").encode())

sys.addaudithook(_hook)
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


def launch(launcher: Launcher, recorded: Path, *more: str) -> tuple[set[str], list[set[str]]]:
    """Return the modules that the driver imported, and those of each worker that did a job."""
    launcher.environment |= {
        "PYTHONPATH": str(recorded),
        "TRACE_FOLDERS": f"{launcher.images.resolve()}:{launcher.work_root.resolve()}",
    }
    for path in recorded.glob("*.imports"):
        path.unlink()
    (recorded / "opened").write_text("")
    launcher.run("--rows", "contrastive+wpm", *more)
    processes = [set(path.read_text().split()) for path in recorded.glob("*.imports")]
    (driver,) = [modules for modules in processes if "wpm.cli.commands" in modules]
    workers = [
        modules
        for modules in processes
        if modules is not driver and {"wpm.cluster.worker", "wpm.jobs.start"} <= modules
    ]
    assert workers, "no worker was recorded"
    return driver, workers


def opened_in(recorded: Path, name: str) -> list[Path]:
    """Return the files of a name or pattern that were opened, as often as they were."""
    paths = map(Path, (recorded / "opened").read_text().splitlines())
    return [path for path in paths if path.match(name)]


@pytest.mark.slow
def test_only_the_workers_of_final_runs_load_what_opens_test_images_and_open_them(
    tmp_path: Path, recorded: Path
) -> None:
    with Launcher(tmp_path) as launcher:
        driver, workers = launch(launcher, recorded, "--trials", "2")
        assert not DOOR & driver
        assert not any(DOOR & worker for worker in workers)
        classes = {image.parent.name for image in opened_in(recorded, "*.png")}
        assert classes == {f"class_{k:02d}" for k in range(8)}, "trainval images, and only those"
        caches = {pixels.parent.name for pixels in opened_in(recorded, "pixels.bin")}
        assert len({cache for cache in caches if not cache.startswith(".")}) <= 1
        assert len(opened_in(recorded, "meta.json")) >= 3, "the workers were not traced"

        driver, workers = launch(launcher, recorded, "--best-only", "--runs", "1")
        assert not DOOR & driver, "the driver only hands out the tests"
        assert any({"wpm.jobs.held_out", "wpm.jobs.scoring_job"} <= worker for worker in workers)
        classes = {image.parent.name for image in opened_in(recorded, "*.png")}
        tested = {f"class_{k:02d}" for k in range(8, 16)}
        assert tested <= classes, "the recorder sees test images"
        (place,) = find_studies(launcher.run_root)
        (line,) = (place.folder / "test_access.jsonl").read_text().splitlines()
        assert "seed-1000" in json.loads(line)["reason"]


# Without Ray: what the process has loaded before the work is the driver's, the rest a worker's.
IN_ONE_PROCESS = """
import json, sys
from unittest import mock

import launch
from tests.support.without_ray import do_all_work

def run_on_ray(plan, prepared, *_):
    driver = set(sys.modules)
    do_all_work(prepared.work)
    print(json.dumps([sorted(driver), sorted(set(sys.modules) - driver)]), file=sys.stderr)
    return True

with mock.patch("wpm.cli.commands.run_on_ray", run_on_ray):
    sys.exit(launch.main(sys.argv[1:]))
"""


def launch_in_one_process(launcher: Launcher, *more: str) -> tuple[set[str], set[str]]:
    """Return the modules that the driver's part of a launch imported, and those of its work."""
    answer = subprocess.run(
        [sys.executable, "-c", IN_ONE_PROCESS, *launcher.flags("--rows", "contrastive", *more)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    driver, worker = json.loads(answer.stderr.splitlines()[-1])
    return set(driver), set(worker)


@pytest.mark.slow
def test_split_of_the_user_keeps_test_images_away_from_a_search_too(tmp_path: Path) -> None:
    """Same classes, other images: the cache of the search holds none of the test, by its labels."""
    launcher = Launcher(tmp_path)
    paths = sorted(launcher.images.glob("*/*.png"))
    rows = [
        f"{path.relative_to(launcher.images)},{'test' if path.stem in '23' else 'trainval'}"
        for path in paths
    ]
    split = tmp_path / "split.csv"
    split.write_text("\n".join(["image,part", *rows]))
    same = ("--split", str(split), "--same-classes")
    driver, worker = launch_in_one_process(launcher, "--trials", "1", *same)
    assert not DOOR & (driver | worker)
    (cache,) = (launcher.work_root / "pixels").glob("folder-*/")
    assert len(Pixels(cache)) == len(paths) // 2
    driver, worker = launch_in_one_process(launcher, "--best-only", "--runs", "1", *same)
    assert not DOOR & driver
    assert {"wpm.jobs.held_out", "wpm.jobs.scoring_job"} <= worker, "the work is seen"
    refused = run_here(launcher, "--rows", "contrastive", "--trials", "2", code=2)
    assert "was started with split.file = " in refused or "split = {" in refused
    (place,) = find_studies(launcher.run_root)
    (final,), _ = read_finals(place)
    (run,) = final.tested
    assert (run.test_images, run.test_classes) == (32, 16)
    row, _ = read_row(place)
    assert any("classes that were trained on (16 classes" in n for n in describe_split(row))
