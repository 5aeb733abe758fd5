"""Read one study again and again, and say what the page shows of it."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.live_page.finals import Finals, FinalsReader
from wpm.live_page.study_view import Best, Failure, Running, Stage, StudyView
from wpm.live_page.trainings import EndedTraining, Trainings, TrainingsReader
from wpm.procedure import PROCEDURE, describe_procedure
from wpm.records import (
    StudyPlace,
    TrialState,
    is_running,
    read_study,
    validation_order,
)

SHOWN_FAILURES = 3  # of a study, the latest
_FAILED = (TrialState.FAILED, TrialState.DIVERGED)


class StudyReader:
    """Reads a study; a look at one that has not changed reads no file of it."""

    def __init__(self, place: StudyPlace) -> None:
        self.place = place
        self._trials = TrainingsReader(place.folder / "trials")
        self._finals = FinalsReader(place.folder / "finals")
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
            self._finals = FinalsReader(self.place.folder / "finals")
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
        self, trials: Sequence[EndedTraining], finals: Finals
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
