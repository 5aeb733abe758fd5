"""No process of a real search loads the module that opens test images."""

from pathlib import Path

import pytest

from tests.support.commands import Launcher

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
