"""Budgets of hours: what is counted, when work stops, what is said."""

from pathlib import Path

import pytest

from wpm.budget import Budget, MeteredWork
from wpm.jobs import StepResult
from wpm.records import StudyPlace, TrainingFolder, spent_seconds
from wpm.work import Work


class Endless:
    """A source of work without end that remembers what it heard."""

    exhausted = False

    def __init__(self) -> None:
        self.heard: list[str] = []

    def next_work(self) -> Work | None:
        return Work("a", {"folder": "/a"})

    def on_step(self, work: Work, step: StepResult) -> bool:
        self.heard.append("step")
        return True

    def on_stopped(self, work: Work, step: StepResult) -> None:
        self.heard.append("stopped")

    def on_ended(self, work: Work, step: StepResult) -> None:
        self.heard.append("ended")

    def on_lost(self, work: Work, reason: str) -> None:
        self.heard.append(reason)

    def describe(self) -> str:
        return "endless"


def step(hours: float) -> StepResult:
    fold = {"training_seconds": hours * 3000, "validation_seconds": hours * 600}
    return StepResult([{"folds": [fold]}], None)


def test_gpu_hours_are_those_of_all_trainings_and_of_earlier_launches() -> None:
    metered = MeteredWork(Endless(), Budget(gpu_hours=4.0, gpus=0.5), {"/a": 3600.0, "/b": 7200.0})
    work = metered.next_work()
    assert work is not None
    assert metered.on_step(work, step(5.9)), "what the source decides is passed on"
    assert metered.over() == "", "(5.9 + 2) / 2 hours"
    metered.on_step(work, step(6.1))
    assert metered.over() == "4.05 of 4 GPU-hours (--max-gpu-hours)"
    assert metered.next_work() is None


def test_hours_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("wpm.budget.time.monotonic", lambda: now)
    metered = MeteredWork(Endless(), Budget(hours=2.0), {})
    now += 2 * 3600 - 1
    assert metered.over() == ""
    now += 1
    assert metered.over() == "2 hours (--max-hours)"


def test_no_limit_is_never_over() -> None:
    metered = MeteredWork(Endless(), Budget(gpus=1.0), {"/b": 1e9})
    assert metered.over() == ""


def test_everything_is_passed_on() -> None:
    source = Endless()
    metered = MeteredWork(source, Budget(gpu_hours=1.0, gpus=1.0), {})
    work = Work("a", {"folder": "/a"})
    metered.on_step(work, StepResult([], None))
    metered.on_stopped(work, step(0.1))
    metered.on_ended(work, step(0.2))
    metered.on_lost(work, "killed")
    assert source.heard == ["step", "stopped", "ended", "killed"]
    assert (metered.describe(), metered.exhausted) == ("endless", False)


def test_spent_seconds_are_read_from_search_and_final_runs(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", "triplet")
    trial = place.trial_folder(3)
    fold = place.folder / "finals" / "0123" / "seed-1000" / "fold-2"
    for folder, hours in ((trial, 0.5), (fold, 2.0)):
        TrainingFolder(folder).write_progress(step(hours).reports, {"epoch": 1})
    TrainingFolder(place.trial_folder(4)).write_identity({})  # not begun
    assert spent_seconds(place) == {str(trial): 1800.0, str(fold): 7200.0}
