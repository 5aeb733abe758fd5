"""Read the final runs of one study again and again."""

import os
from dataclasses import dataclass
from pathlib import Path

from wpm.errors import UserError
from wpm.live_page.trainings import Trainings, TrainingsReader
from wpm.records import FailedRun, read_run_result


@dataclass
class Finals:
    """What one look found of a study's final runs.

    Attributes:
        trainings: the trainings of each run, by its folder.
        tested: runs that were tested.
        failed: the reason of each run that failed, by its name.
        problems: one line for each damaged result of a run.
    """

    trainings: dict[str, Trainings]
    tested: int
    failed: dict[str, str]
    problems: list[str]


class FinalsReader:
    """Reads the final runs of a study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, TrainingsReader] = {}
        # Why a run failed, None where it was tested.
        self._results: dict[str, tuple[tuple[int, ...], str | None]] = {}

    def read(self) -> Finals:
        """Look at all final runs."""
        finals = Finals({}, 0, {}, [])
        runs = _runs_in(self._folder)
        for gone in self._readers.keys() - {str(run) for run in runs}:
            del self._readers[gone]
            self._results.pop(gone, None)
        for run in runs:
            reader = self._readers.setdefault(str(run), TrainingsReader(run))
            finals.trainings[str(run)] = reader.read()
            try:
                self._read_result(run, finals)
            except UserError as error:
                finals.problems.append(str(error))
        return finals

    def _read_result(self, run: Path, finals: Finals) -> None:
        """Count how a run ended, if it has."""
        try:
            status = (run / "result.json").stat()
        except FileNotFoundError:
            return
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        known = self._results.get(str(run))
        if known is None or known[0] != stamp:
            result = read_run_result(run)
            reason = result.reason if isinstance(result, FailedRun) else None
            known = self._results[str(run)] = stamp, reason
        if known[1] is None:
            finals.tested += 1
        else:
            finals.failed[f"final run, {run.name}"] = known[1]


def _runs_in(folder: Path) -> list[Path]:
    """Return the folders of all final runs, by name."""
    runs = []
    for configuration in _folders_in(folder):
        runs += [run for run in _folders_in(configuration) if run.name.startswith("seed-")]
    return runs


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return sorted(Path(entry.path) for entry in entries if entry.is_dir())
    except FileNotFoundError:
        return []
