"""Budgets of hours: what is counted, when work stops, what is announced."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

import launch
from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import fold_report
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision, Work, WorkSource
from wpm.records import StudyPlace, TrainingFolder, gpu_seconds, read_all_reports
from wpm.reports import Report
from wpm.rows import Row
from wpm.studies.budget import Budget, MeteredWork
from wpm.studies.search import SearchWork
from wpm.studies.study import Study


def make_work(name: str, study: str = "triplet") -> Work:
    return Work(name, study, {"folder": f"/{name}"})


class Endless:
    """An endless source of work that remembers its calls."""

    exhausted = False
    remaining = 1

    def __init__(self, decision: Decision = Decision.CONTINUE) -> None:
        self.calls: list[str] = []
        self.decision = decision

    def next_work(self) -> Work | None:
        return make_work("a")

    def on_step(self, work: Work, step: StepResult) -> Decision:
        self.calls.append("step")
        return self.decision

    def on_stopped(self, work: Work, step: StepResult) -> None:
        self.calls.append("stopped")

    def on_ended(self, work: Work, step: StepResult) -> None:
        self.calls.append("ended")

    def on_crashed(self, work: Work, reason: str) -> None:
        self.calls.append(reason)

    def on_suspended(self, work: Work) -> None:
        self.calls.append(f"suspended {work.key}")

    def stop_study(self, study: str) -> None:
        self.calls.append(f"stop {study}")

    def describe(self) -> str:
        return "endless"


def step(hours: float, gpus: float = 0.5) -> StepResult:
    fold = fold_report(training_seconds=hours * 3000, validation_seconds=hours * 600)
    return StepResult([Report(1, 0.5, (fold,), gpus)])


def test_gpu_hours_are_those_of_all_trainings_and_of_earlier_launches() -> None:
    metered = MeteredWork(
        Endless(Decision.STOP),
        Budget(gpu_hours=4.0),
        {"triplet": {"/a": 1800.0}, "margin": {"/b": 3600.0}},
    )
    work = metered.next_work()
    assert work is not None
    assert metered.on_step(work, step(5.9)) is Decision.STOP, "what the source decides is passed on"
    assert metered.limit_reached() == "", "(5.9 + 2) / 2 hours"
    metered.on_step(work, step(6.1))
    assert metered.limit_reached() == "4.05 of 4 GPU-hours (--max-gpu-hours)"
    assert metered.next_work() is None


def test_hours_on_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("wpm.studies.budget.time.monotonic", lambda: now)
    metered = MeteredWork(Endless(), Budget(hours=2.0), {})
    now += 2 * 3600 - 1
    assert metered.limit_reached() == ""
    now += 1
    assert metered.limit_reached() == "2 hours (--max-hours)"


def test_no_limit_is_never_reached() -> None:
    metered = MeteredWork(Endless(), Budget(), {"triplet": {"/b": 1e9}})
    assert metered.limit_reached() == ""


def test_everything_is_passed_on() -> None:
    source = Endless()
    metered = MeteredWork(source, Budget(gpu_hours=1.0), {})
    work = make_work("a")
    metered.on_step(work, StepResult())
    metered.on_stopped(work, step(0.1))
    metered.on_ended(work, step(0.2))
    metered.on_crashed(work, "killed")
    metered.on_suspended(work)
    metered.stop_study("margin")
    assert source.calls == ["step", "stopped", "ended", "killed", "suspended a", "stop margin"]
    assert (metered.describe(), metered.exhausted) == ("endless", False)


def test_spent_hours_of_a_study_end_its_work_and_no_other() -> None:
    source, told = Endless(), []
    metered = MeteredWork(
        source, Budget(study_gpu_hours=1.0), {}, announce=lambda *line: told.append(line)
    )
    spends, other, beside = make_work("a"), make_work("b", "margin"), make_work("c")
    assert metered.on_step(spends, step(1.9)) is Decision.CONTINUE
    assert metered.on_step(other, step(1.9)) is Decision.CONTINUE, "each study has its own hours"
    assert metered.on_step(spends, step(2.1)) is Decision.SUSPEND
    metered.on_suspended(spends)
    assert metered.on_step(beside, step(0.1)) is Decision.SUSPEND, (
        "what runs of the study ends at its next validation"
    )
    metered.on_suspended(beside)
    assert metered.on_step(other, step(1.9)) is Decision.CONTINUE
    assert source.calls == [
        "step", "step", "stop triplet", "step", "suspended a", "step", "suspended c", "step"
    ]  # fmt: skip
    assert told == [("triplet", "1.05 of 1 GPU-hours (--max-gpu-hours-per-study)")]
    assert metered.stopped_studies == {"triplet"}
    assert metered.limit_reached() == "", "the launch continues"


def test_a_studys_hours_on_the_clock_begin_with_its_first_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now, source, told = 100.0, Endless(), []
    monkeypatch.setattr("wpm.studies.budget.time.monotonic", lambda: now)
    metered = MeteredWork(
        source, Budget(study_hours=2.0), {}, announce=lambda *line: told.append(line)
    )
    now += 9 * 3600
    work, other = metered.next_work(), make_work("b", "margin")
    assert work is not None
    now += 2 * 3600 - 1
    assert metered.on_step(work, step(0.1)) is Decision.CONTINUE
    now += 1
    metered.next_work()
    assert told == [("triplet", "2 hours (--max-hours-per-study)")], "without a report"
    assert metered.on_step(work, step(0.1)) is Decision.SUSPEND
    metered.on_suspended(work)
    assert metered.on_step(other, step(0.1)) is Decision.CONTINUE, "its clock has not begun"
    assert source.calls == ["step", "stop triplet", "step", "suspended a", "step"]
    assert len(told) == 1
    assert metered.limit_reached() == "", "the launch continues"


def test_what_the_search_itself_stops_is_not_suspended() -> None:
    source = Endless(Decision.STOP)
    metered = MeteredWork(source, Budget(study_gpu_hours=1.0), {})
    assert metered.on_step(make_work("a"), step(2.1)) is Decision.STOP
    metered.on_stopped(make_work("a"), step(2.1))
    assert source.calls == ["stop triplet", "step", "stopped"]


def test_study_that_has_spent_its_hours_is_not_started() -> None:
    source = Endless()
    spent = {"triplet": {"/a": 3601.0}, "margin": {"/b": 3599.0}}
    MeteredWork(source, Budget(study_gpu_hours=1.0), spent)
    assert source.calls == ["stop triplet"]


def test_the_disks_cap_is_a_limit_like_others() -> None:
    metered = MeteredWork(Endless(), Budget(), {})
    assert metered.next_work() is not None
    metered.cap_disk(lambda: f"full with {metered.running} running" if metered.running else "")
    assert metered.limit_reached() == "full with 1 running"
    assert metered.next_work() is None
    metered.on_ended(make_work("a"), step(0.1))
    assert metered.limit_reached() == ""


def test_all_reports_are_read_and_counted_in_proportion(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", Row("triplet"))
    trial = place.trial_folder(3)
    fold = place.folder / "finals" / "0123" / "seed-1000" / "fold-2"
    for folder, hours, gpus in ((trial, 0.5, 1.0), (fold, 2.0, 0.25)):
        TrainingFolder(folder).write_progress(step(hours, gpus).reports, {"epoch": 1})
    TrainingFolder(place.trial_folder(4)).write_identity({})  # not begun
    found = {folder: gpu_seconds(reports) for folder, reports in read_all_reports(place).items()}
    assert found == {str(trial): 1800.0, str(fold): 1800.0}
    assert gpu_seconds([]) == gpu_seconds(step(0.5, gpus=0.0).reports) == 0.0, (
        "earlier records hold no share"
    )


def test_budget_that_ends_the_last_trials_is_announced(tmp_path: Path) -> None:
    """Handing out the last trial does not finish a study: what runs when the hours end remains."""
    plan = make_plan(tmp_path, trials=1)
    with Study(plan) as study:
        work = SearchWork([study], lambda line: None)
        assert work.next_work() is not None
        metered = MeteredWork(work, Budget(hours=0.0), {})
        assert metered.exhausted
        assert metered.limit_reached()
        assert metered.remaining == 1


def test_a_budget_stops_a_launch_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """`run_work` is given what stops it, and the suspended trial is recorded."""

    def leave_the_trial(source: WorkSource, *rest: Any) -> None:
        assert source.next_work() is not None
        now.append(now[-1] + 3601)
        assert rest[-1]() == "1 hours (--max-hours)"

    now = [0.0]
    monkeypatch.setattr("wpm.studies.budget.time.monotonic", lambda: now[-1])
    monkeypatch.setattr("wpm.cli.running.connect", lambda resources, note: nullcontext())
    monkeypatch.setattr("wpm.cli.running.run_work", leave_the_trial)
    images = make_image_folder(tmp_path / "images")
    code = launch.main(
        ["--dataset", "folder", "--data-root", str(images), "--protocol", "smoke",
         "--rows", "contrastive", "--trials", "1", "--max-hours", "1",
         "--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    )  # fmt: skip
    assert code == 0
    out = capfd.readouterr().out
    assert "stopped at 1 hours (--max-hours); run the command with a higher limit" in out
    assert "done; next" not in out


def test_trials_of_a_study_without_hours_are_adopted_by_the_next_launch(tmp_path: Path) -> None:
    plans = [make_plan(tmp_path, row, trials=2) for row in ("contrastive", "triplet")]
    lines: list[tuple[str, str]] = []
    with Study(plans[0]) as first, Study(plans[1]) as second:
        source = SearchWork([first, second], lambda line: None)
        metered = MeteredWork(
            source, Budget(study_gpu_hours=1.0), {}, announce=lambda *line: lines.append(line)
        )
        work = metered.next_work()
        assert work is not None and work.study == "folder/smoke/contrastive"
        assert metered.on_step(work, long_step(work)) is Decision.SUSPEND
        metered.on_suspended(work)
        others = [metered.next_work() for _ in range(3)]
        assert [w.study if w else None for w in others] == ["folder/smoke/triplet"] * 2 + [None]
        assert metered.exhausted, "what could be handed out was"
        assert metered.remaining == 4, "two that run, the one that was left, one not begun"
        assert "contrastive 0/2 (+0)" in metered.describe()
    with Study(plans[0]) as study:
        again = SearchWork([study], lambda line: None).next_work()
        assert again is not None
        assert again.key == work.key, "the trial that was left goes first"


def long_step(work: Work) -> StepResult:
    """Return a step of more than a GPU-hour that left a checkpoint."""
    fold = fold_report(training_seconds=4000.0, validation_seconds=0.0)
    reports = [Report(1, 0.5, (fold,), gpus=1.0)]
    TrainingFolder(Path(work.payload["folder"])).write_progress(reports, {"epoch": 1})
    return StepResult(reports)
