"""No process of a real search loads the module that opens test images."""

from pathlib import Path

import pytest

from analysis.studies.fairness import describe_split
from analysis.studies.row_results import read_row
from tests.support.commands import Launcher
from wpm.data.pixels import Pixels
from wpm.records import find_studies, read_finals

DOOR = {
    "wpm.jobs.held_out", "wpm.jobs.scoring_job", "wpm.jobs.held_out_embeddings",
    "wpm.jobs.pipeline_check", "wpm.cli.check_pipeline",
}  # fmt: skip
# Python runs a module of this name at its start, if it finds one. Every import of ours is written
# down when it happens: Ray kills its processes in the end, without a chance to look at sys.modules.
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
"""


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(SITE)
    return folder


def launch(launcher: Launcher, recorded: Path, *more: str) -> tuple[set[str], list[set[str]]]:
    """Return the modules that the driver imported, and those of each worker that did a job."""
    launcher.environment["PYTHONPATH"] = str(recorded)
    for path in recorded.glob("*.imports"):
        path.unlink()
    launcher.run("--rows", "contrastive", *more)
    processes = [set(path.read_text().split()) for path in recorded.glob("*.imports")]
    (driver,) = [modules for modules in processes if "wpm.cli.commands" in modules]
    workers = [
        modules
        for modules in processes
        if modules is not driver and {"wpm.cluster.worker", "wpm.jobs.start"} <= modules
    ]
    assert workers, "no worker was recorded"
    return driver, workers


@pytest.mark.slow
def test_only_the_workers_of_final_runs_load_what_opens_test_images(
    tmp_path: Path, recorded: Path
) -> None:
    with Launcher(tmp_path) as launcher:
        driver, workers = launch(launcher, recorded, "--trials", "1")
        assert not DOOR & driver
        assert not any(DOOR & worker for worker in workers)
        driver, workers = launch(launcher, recorded, "--best-only", "--runs", "1")
        assert not DOOR & driver, "the driver only hands out the tests"
        assert any({"wpm.jobs.held_out", "wpm.jobs.scoring_job"} <= worker for worker in workers)


@pytest.mark.slow
def test_split_of_the_user_keeps_test_images_away_from_a_search_too(
    tmp_path: Path, recorded: Path
) -> None:
    """Same classes, other images: the cache of the search holds none of the test, by its labels."""
    with Launcher(tmp_path) as launcher:
        paths = sorted(launcher.images.glob("*/*.png"))
        rows = [
            f"{path.relative_to(launcher.images)},{'test' if path.stem in '23' else 'trainval'}"
            for path in paths
        ]
        split = tmp_path / "split.csv"
        split.write_text("\n".join(["image,part", *rows]))
        same = ("--split", str(split), "--same-classes")
        driver, workers = launch(launcher, recorded, "--trials", "1", *same)
        assert not any(DOOR & modules for modules in (driver, *workers))
        (cache,) = (launcher.work_root / "pixels").glob("folder-*/")
        assert len(Pixels(cache)) == len(paths) // 2
        driver, workers = launch(launcher, recorded, "--best-only", "--runs", "1", *same)
        assert not DOOR & driver
        refused = launcher.run("--rows", "contrastive", "--trials", "2", code=2)
        assert "was started with split.file = " in refused or "split = {" in refused
        (place,) = find_studies(launcher.run_root)
        (final,), _ = read_finals(place)
        (run,) = final.tested
        assert (run.test_images, run.test_classes) == (32, 16)
        row, _ = read_row(place)
        assert any("classes that were trained on (16 classes" in n for n in describe_split(row))
