"""Follow the trainings in a folder: read those that have ended once, others as they change.

A search of some days writes thousands of records, of which a look finds only a few changed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.records import Outcome, TrainingFolder, TrialState, gpu_seconds, worker_seconds
from wpm.records.training_log import last_lines
from wpm.reports import Report

_RESULT, _IDENTITY = "result.json", "trial.json"
_REPORTS, _WAITING = "reports.json", "waiting.json"
_MOST_POINTS = 60  # of a curve; more than a small picture can show
# Records of earlier trials that one look checks: the first look shall not wait for all of them.
_CHECKED_PER_LOOK = 20
# Inode, time of change and size: another file, or other content, has others.
_Stamp = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class EndedTraining:
    """What the page shows of a training that has ended.

    Attributes:
        name: of its folder.
        state: how it ended.
        score: validation MAP@R, a fraction; None without a validation.
        reason: why it diverged, failed or was stopped.
        ended: time in UTC; "" in records of the first versions.
        seconds: of its worker.
        gpu_seconds: the same times its share of a GPU.
    """

    name: str
    state: TrialState
    score: float | None
    reason: str
    ended: str
    seconds: float
    gpu_seconds: float

    @classmethod
    def from_outcome(cls, name: str, outcome: Outcome) -> "EndedTraining":
        """Keep the part of a result that the page shows."""
        seconds = outcome.training_seconds + outcome.validation_seconds
        return cls(
            name,
            outcome.state,
            outcome.score,
            outcome.reason,
            outcome.ended or "",
            seconds,
            seconds * outcome.gpus,
        )


@dataclass(frozen=True, slots=True)
class OpenTraining:
    """What the page shows of a training that has not ended.

    Attributes:
        name: of its folder.
        parameters: of the configuration, by name.
        origin: where the configuration was known from before the search; "" if it was sampled.
        waits: whether it waits at a rung, so that nothing is to be heard of it.
        epoch: epochs trained by the folds that train now; 0 before the first validation.
        folds: how many folds train or have trained.
        score: best validation MAP@R so far, a fraction; None before the first validation.
        curve: (step, mean validation MAP@R of the folds) of validations, thinned out.
        changed_at: when its records changed last, in seconds since 1970 by the disk's clock.
        seconds: of its worker.
        gpu_seconds: the same times its share of a GPU.
        report_seconds: mean seconds from one validation to the next; None before the first.
    """

    name: str
    parameters: dict[str, float]
    origin: str
    waits: bool
    epoch: int
    folds: int
    score: float | None
    curve: tuple[tuple[int, float], ...]
    changed_at: float
    seconds: float
    gpu_seconds: float
    report_seconds: float | None


@dataclass(slots=True)
class Trainings:
    """What one look found.

    Attributes:
        ended: trainings that have ended, by name.
        open: trainings that have not.
        problems: one line for each damaged record.
    """

    ended: dict[str, EndedTraining] = field(default_factory=dict)
    open: dict[str, OpenTraining] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class TrainingsReader:
    """Reads all trainings of one folder, and remembers those that cannot change any more."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._root = folder, str(folder)
        self._ended: dict[str, tuple[_Stamp, EndedTraining]] = {}
        self._open: dict[str, tuple[tuple[_Stamp | None, ...], OpenTraining | None, str]] = {}
        self._unchecked: list[str] = []
        self._damaged: dict[str, str] = {}
        self._listed_at: int | None = None  # when the folder had changed last at the look before

    def read(self) -> Trainings:
        """Look at the folder; where it does not exist there are no trainings."""
        found = Trainings()
        names, changed_at = _list_folders(self._folder)
        # A training that was deleted and begun anew has changed the list of folders meanwhile.
        is_same_list, self._listed_at = changed_at == self._listed_at, changed_at
        for gone in self._ended.keys() - names:
            del self._ended[gone]
            self._damaged.pop(gone, None)
        for gone in self._open.keys() - names:
            del self._open[gone]
        for name in sorted(names):
            if not (is_same_list and name in self._ended):
                self._look_at(name)
            if name in self._ended:
                found.ended[name] = self._ended[name][1]
            elif name in self._open:
                _, training, problem = self._open[name]
                if training is not None:
                    found.open[name] = training
                found.problems += [problem] if problem else []
        self._check_some()
        found.problems += self._damaged.values()
        return found

    def _look_at(self, name: str) -> None:
        """Read a training if its records have changed since the last look."""
        result = _stamp(self._root, name, _RESULT)
        if name in self._ended and self._ended[name][0] == result:
            return
        self._ended.pop(name, None)
        self._damaged.pop(name, None)
        known = self._open.get(name)
        # Most are ended trainings at the first look, of which nothing else is read: it shall be
        # quick.
        others = (_IDENTITY, _REPORTS, _WAITING) if result is None or known else ()
        stamps = (result, *(_stamp(self._root, name, file) for file in others))
        if known is not None and known[0] == stamps:
            return
        folder = self._folder / name
        self._open.pop(name, None)
        try:
            outcome = None if result is None else TrainingFolder(folder).read_result()
            if outcome is not None and result is not None:
                self._ended[name] = result, EndedTraining.from_outcome(name, outcome)
                self._unchecked += [name] if known is None else []
            elif _stamp(self._root, name, _IDENTITY) is not None:
                self._open[name] = stamps, _read_open(folder), ""
            # Else a process was killed between making the folder and writing into it.
        except UserError as error:
            self._open[name] = stamps, None, str(error)

    def _check_some(self) -> None:
        """Compare records with their checksums that the page does not need and so has not read."""
        for _ in range(min(_CHECKED_PER_LOOK, len(self._unchecked))):
            name = self._unchecked.pop()
            if name in self._ended:
                try:
                    TrainingFolder(self._folder / name).read_identity()
                except UserError as error:
                    self._damaged[name] = str(error)

    def read_parameters(self, name: str) -> dict[str, float]:
        """Return the parameters of a training; none where its record is damaged."""
        try:
            return _parameters(TrainingFolder(self._folder / name).read_identity())
        except UserError as error:
            self._damaged[name] = str(error)
            return {}

    def read_log(self, name: str) -> list[str]:
        """Return the last lines of a training's log."""
        return last_lines(self._folder / name)


def _list_folders(folder: Path) -> tuple[set[str], int | None]:
    """Return the names of the folders in a folder, and when that list changed last."""
    try:
        changed_at = folder.stat().st_mtime_ns
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries if entry.is_dir()}, changed_at
    except FileNotFoundError:
        return set(), None


def _stamp(folder: str, training: str, file: str) -> _Stamp | None:
    try:
        status = os.stat(f"{folder}/{training}/{file}")  # noqa: PTH116 - Path is slow in thousands
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_open(folder: Path) -> OpenTraining:
    """Read a training that has not ended.

    Raises:
        UserError: a record is damaged.
    """
    record = TrainingFolder(folder).read()
    reports = record.reports
    seconds = worker_seconds(reports)
    files = (_IDENTITY, _REPORTS, _WAITING)
    changed = [_stamp(str(folder.parent), folder.name, file) for file in files]
    return OpenTraining(
        name=folder.name,
        parameters=_parameters(record.identity),
        origin=record.origin,
        waits=record.waits,
        epoch=reports[-1].epoch if reports else 0,
        folds=len(reports[-1].folds) if reports else 0,
        score=reports[-1].best_map_at_r if reports else None,
        curve=_thin_out([_point(report) for report in reports if report.folds]),
        changed_at=max((stamp[1] / 1e9 for stamp in changed if stamp), default=0.0),
        seconds=seconds,
        gpu_seconds=gpu_seconds(reports),
        report_seconds=seconds / len(reports) if reports else None,
    )


def _parameters(identity: Mapping[str, Any]) -> dict[str, float]:
    parameters = identity.get("parameters")
    return dict(parameters) if isinstance(parameters, dict) else {}


def _point(report: Report) -> tuple[int, float]:
    mean = sum(fold.map_at_r for fold in report.folds) / len(report.folds)
    return report.step, round(mean, 5)


def _thin_out(points: Sequence[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """Keep as many points as a picture shows, evenly, the last among them."""
    step = -(-len(points) // _MOST_POINTS)
    return tuple(points[::-step][::-1]) if points else ()
