"""Run launch.py as a user does, on tiny images, and read what it wrote."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tests.support.tiny import make_image_folder
from wpm.records import TrainingRecord, find_studies, read_trials

ROOT = Path(__file__).resolve().parents[2]


class Launcher:
    """Starts launch.py on one tiny image folder and one run folder."""

    def __init__(self, tmp_path: Path, classes: int = 16) -> None:
        self.images = make_image_folder(tmp_path / "images", classes=classes)
        self.run_root = tmp_path / "runs"
        self.work_root = tmp_path / "work"
        self.environment = dict(os.environ)
        self.preexec: Callable[[], None] | None = None  # called in the new process, before Python
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> "Launcher":
        return self

    def __exit__(self, *_: object) -> None:
        """Kill the launches of a failed test. Ray on this machine ends with its driver."""
        for process in self._started:
            with process:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)

    def flags(self, *more: str) -> list[str]:
        return [
            "--dataset", "folder", "--data-root", str(self.images), "--protocol", "smoke",
            "--run-root", str(self.run_root), "--work-root", str(self.work_root), *more,
        ]  # fmt: skip

    def arguments(self, *more: str) -> list[str]:
        return [sys.executable, "launch.py", *self.flags(*more)]

    def start(self, *more: str) -> subprocess.Popen[str]:
        """Start a launch in its own process group, as a shell does."""
        process = subprocess.Popen(
            self.arguments(*more), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, env=self.environment, start_new_session=True, preexec_fn=self.preexec,
        )  # fmt: skip
        self._started.append(process)
        return process

    def run(self, *more: str, code: int = 0) -> str:
        process = self.start(*more)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output
        return output

    def trials(self) -> list[TrainingRecord]:
        """Return the records of all trials. All must be readable."""
        records = []
        for place in find_studies(self.run_root):
            found, problems = read_trials(place, with_reports=True)
            assert not problems
            records += found
        return records


def wait_until(
    condition: Callable[[], bool],
    seconds: float = 90,
    *,
    what: str = "the condition",
    every: float = 0.05,
) -> None:
    """Wait until a condition holds; fail after some seconds.

    Args:
        condition: is asked again and again.
        seconds: to wait.
        what: is waited for, for the message.
        every: seconds between two looks; more where a look costs what others need.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not hold within {seconds:g} s"
        time.sleep(every)


def workers_of(launcher: Launcher) -> dict[int, Path]:
    """Return the processes that hold a training's lock file open, and the training's folder."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                links = [str(fd.readlink()) for fd in (entry / "fd").iterdir()]
            except OSError:
                continue
            for link in links:
                if str(launcher.run_root) in link and link.endswith("/lock"):
                    found[int(entry.name)] = Path(link).parent
    return found


def study_states(run_root: Path) -> dict[str, list[str]]:
    """Return the states of all trials in Optuna's storage, by row and search."""
    states = {}
    for place in find_studies(run_root):
        storage = JournalStorage(JournalFileBackend(str(place.journal)))
        (name,) = optuna.get_all_study_names(storage)
        trials = optuna.load_study(study_name=name, storage=storage).trials
        states[place.label] = [trial.state.name for trial in trials]
    return states
