"""Read one study again and again, and say what the page shows of it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.live_page.trainings import EndedTraining, OpenTraining, Trainings, TrainingsReader
from wpm.procedure import PROCEDURE, describe_procedure
from wpm.records import (
    FailedRun,
    StudyPlace,
    TrialState,
    is_running,
    read_run_result,
    read_study,
    validation_order,
)

SHOWN_FAILURES = 3  # of a study, the latest
_FAILED = (TrialState.FAILED, TrialState.DIVERGED)
# A training is silent that has reported nothing for this many times its usual interval, and for
# this many seconds: checkpoints, a busy disk and the first validation take their time, too.
_SILENT_INTERVALS, _SILENT_S = 5.0, 300.0
_SILENT_BEFORE_FIRST_S = 1800.0


class Stage(StrEnum):
    """Where a study is."""

    RUNNING = "running"  # a launch works on it
    FINISHED = "finished"  # its budget of trials is used up
    INTERRUPTED = "interrupted"  # no launch works on it, and it has trials left
    UNREADABLE = "unreadable"  # study.json is damaged, or of another version


@dataclass(frozen=True)
class Best:
    """The best complete trial of a study; `score` is its validation MAP@R, a fraction."""

    number: int
    score: float
    parameters: Mapping[str, float]


@dataclass(frozen=True)
class Failure:
    """A trial that failed or diverged, or a final run that failed."""

    name: str
    state: str
    reason: str
    ended: str
    log: Sequence[str] = ()


@dataclass(frozen=True)
class Running:
    """A training that has not ended, with a name for people."""

    title: str
    training: OpenTraining


@dataclass(frozen=True)
class StudyView:
    """What the page shows of a study.

    Attributes:
        place: where its records are.
        stage: where it is.
        budget: trials that it may have, however they end.
        trials: those that have ended, in the order in which they ended.
        running: trainings that have not ended, of trials and of final runs.
        best: the best complete trial.
        failures: how many trials and final runs failed or diverged, and the latest of them.
        failed_runs: how many final runs failed.
        tested: final runs that were tested.
        seconds: what workers have used, final runs included.
        gpu_seconds: the same times their shares of a GPU; 0 without GPUs.
        expected_end: when all trials will have ended at the speed of this launch, in seconds since
            1970; None where no launch works on trials, or none has ended since it began.
        max_epochs: of a fold; None where the study does not say.
        folds: of a trial; None where the study does not say.
        max_steps: of a trial, whose folds may train in two turns; None as above.
        problems: one line for each damaged record.
        notes: what else a reader should know.
    """

    place: StudyPlace
    stage: Stage
    budget: int = 0
    trials: Sequence[EndedTraining] = ()
    running: Sequence[Running] = ()
    best: Best | None = None
    failures: tuple[int, Sequence[Failure]] = (0, ())
    failed_runs: int = 0
    tested: int = 0
    seconds: float = 0.0
    gpu_seconds: float = 0.0
    expected_end: float | None = None
    max_epochs: int | None = None
    folds: int | None = None
    max_steps: int | None = None
    problems: Sequence[str] = ()
    notes: Sequence[str] = ()

    def count(self, state: TrialState) -> int:
        """Return how many trials ended in a state."""
        return sum(trial.state is state for trial in self.trials)

    @property
    def at_work(self) -> list[Running]:
        """Trainings that a worker has, or will have soon; none where no launch works."""
        is_alive = self.stage is Stage.RUNNING
        return [running for running in self.running if is_alive and not running.training.waits]

    def silent(self, now: float) -> list[Running]:
        """Return the trainings at work that should have reported by now.

        Args:
            now: in seconds since 1970.
        """
        return [r for r in self.at_work if now - r.training.changed_at > _patience(r.training)]


def _patience(training: OpenTraining) -> float:
    if training.report_seconds is None:
        return _SILENT_BEFORE_FIRST_S
    return max(_SILENT_S, _SILENT_INTERVALS * training.report_seconds)


class StudyReader:
    """Reads a study; a look at one that has not changed reads no file of it."""

    def __init__(self, place: StudyPlace) -> None:
        self.place = place
        self._trials = TrainingsReader(place.folder / "trials")
        self._finals = _FinalsReader(place.folder / "finals")
        self._study: tuple[tuple[int, ...], Mapping[str, Any]] | None = None
        self._parameters: tuple[str, dict[str, float]] = ("", {})
        self._logs: dict[str, list[str]] = {}

    def read(self) -> StudyView:
        """Look at the study. Damaged records are named in the view and raise nothing."""
        try:
            return self._read()
        except UserError as error:
            problem = str(error)
        except (OSError, KeyError, TypeError, ValueError) as error:
            # For example a folder without permission, or a study.json that lacks a value.
            problem = f"{self.place.folder}: not shown ({type(error).__name__}: {error})"
        return StudyView(self.place, Stage.UNREADABLE, problems=(problem,))

    def _read(self) -> StudyView:
        study = self._read_plan()
        budget, identity = int(study["trials"]), study["identity"]
        protocol = identity["protocol"]
        max_epochs = protocol.get("max_epochs")
        turns = 2 if protocol.get("first_folds") else 1
        found, finals = self._trials.read(), self._finals.read()
        found.ended = {name: t for name, t in found.ended.items() if name.isdigit()}
        trials = sorted(found.ended.values(), key=lambda trial: (trial.ended, trial.name))
        alive = is_running(self.place)
        ended_stage = Stage.FINISHED if len(trials) >= budget else Stage.INTERRUPTED
        everything = [found, *finals.trainings.values()]
        best = self._find_best(trials)
        return StudyView(
            place=self.place,
            stage=Stage.RUNNING if alive else ended_stage,
            budget=budget,
            trials=trials,
            running=[*_name_trials(found), *_name_folds(finals.trainings)],
            best=best,
            failures=self._find_failures(trials, finals),
            failed_runs=len(finals.failed),
            tested=finals.tested,
            seconds=_add_up(everything, "seconds"),
            gpu_seconds=_add_up(everything, "gpu_seconds"),
            expected_end=self._expect_end(trials, budget) if alive else None,
            max_epochs=max_epochs,
            folds=protocol.get("folds"),
            max_steps=None if max_epochs is None else turns * max_epochs,
            problems=[*(problem for t in everything for problem in t.problems), *finals.problems],
            notes=_describe_age(self.place, identity),
        )

    def _read_plan(self) -> Mapping[str, Any]:
        """Return study.json; read everything again where it has changed.

        A launch changes it when the budget grows. Another study in the same place has another one.
        """
        status = (self.place.folder / "study.json").stat()
        stamp = (status.st_ino, status.st_mtime_ns, status.st_size)
        if self._study is None or self._study[0] != stamp:
            study = read_study(self.place)
            if study is None:
                raise UserError(f"{self.place.folder / 'study.json'}: the file was removed")
            self._study = stamp, study
            self._trials = TrainingsReader(self.place.folder / "trials")
            self._finals = _FinalsReader(self.place.folder / "finals")
            self._logs = {}
        return self._study[1]

    def _find_best(self, trials: Sequence[EndedTraining]) -> Best | None:
        complete = [
            (validation_order(trial.score, int(trial.name)), trial, trial.score)
            for trial in trials
            if trial.state is TrialState.COMPLETE and trial.score is not None
        ]
        if not complete:
            return None
        _, best, score = min(complete, key=lambda entry: entry[0])
        if self._parameters[0] != best.name:
            self._parameters = best.name, self._trials.read_parameters(best.name)
        return Best(int(best.name), score, self._parameters[1])

    def _find_failures(
        self, trials: Sequence[EndedTraining], finals: "_Finals"
    ) -> tuple[int, Sequence[Failure]]:
        failed = [trial for trial in trials if trial.state in _FAILED]
        shown = failed[-SHOWN_FAILURES:]
        for trial in shown:
            if trial.name not in self._logs:
                self._logs[trial.name] = self._trials.read_log(trial.name)
        logs = self._logs = {trial.name: self._logs[trial.name] for trial in shown}
        failures = [
            Failure(f"trial {int(t.name)}", t.state.for_people, t.reason, t.ended, logs[t.name])
            for t in reversed(shown)
        ]
        of_runs = [Failure(name, "failed", why, "") for name, why in finals.failed.items()]
        return len(failed) + len(of_runs), [*of_runs[-SHOWN_FAILURES:], *failures]

    def _expect_end(self, trials: Sequence[EndedTraining], budget: int) -> float | None:
        """Return when the budget will be used up, at the speed since this launch began."""
        remaining = budget - len(trials)
        # The launch writes its name into the lock when it begins.
        begun = self.place.lock.stat().st_mtime
        ends = [end for end in (_seconds_since_1970(t.ended) for t in trials) if end > begun]
        if remaining <= 0 or not ends:
            return None
        return round(max(ends) + (max(ends) - begun) / len(ends) * remaining)


def _seconds_since_1970(text: str) -> float:
    """Return a time of a record; 0 where it has none."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _add_up(found: Sequence[Trainings], name: str) -> float:
    trainings = (t for f in found for t in (*f.ended.values(), *f.open.values()))
    return float(sum(getattr(training, name) for training in trainings))


def _describe_age(place: StudyPlace, identity: Mapping[str, Any]) -> list[str]:
    number = identity["procedure"]
    if number == PROCEDURE or not place.row.is_trained:
        return []
    return [f"can be read and not continued: {describe_procedure(number)}"]


def _name_trials(found: Trainings) -> Iterator[Running]:
    for name, training in found.open.items():
        yield Running(f"trial {int(name) if name.isdigit() else name}", training)


def _name_folds(trainings: Mapping[str, Trainings]) -> Iterator[Running]:
    for run, found in trainings.items():
        for name, training in found.open.items():
            yield Running(f"final run, {Path(run).name}, {name}", training)


@dataclass
class _Finals:
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


class _FinalsReader:
    """Reads the final runs of a study."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._readers: dict[str, TrainingsReader] = {}
        # Why a run failed, None where it was tested.
        self._results: dict[str, tuple[tuple[int, ...], str | None]] = {}

    def read(self) -> _Finals:
        """Look at all final runs."""
        finals = _Finals({}, 0, {}, [])
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

    def _read_result(self, run: Path, finals: _Finals) -> None:
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
