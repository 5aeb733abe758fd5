"""A study whose trials wait at rungs: they are handed out again, survive kills, and end in time."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from optuna.trial import TrialState as OptunaState

from tests.support.tiny import make_plan
from tests.support.trials import curve, fold_report, killed_launch, states, stored_trials
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision
from wpm.protocols import PAUSING
from wpm.records import FirstPoint, Outcome, TrainingFolder, TrialState, read_trials
from wpm.reports import Report
from wpm.studies.plan import StudyPlan
from wpm.studies.search import SearchWork
from wpm.studies.study import Study

EPOCHS = 9


def plan_pausing(root: Path, trials: int = 6) -> StudyPlan:
    """Return a plan with rungs at epochs 1 and 3 of 9."""
    plan = make_plan(root, trials=trials, max_epochs=EPOCHS, grace_epochs=1, reduction_factor=3)
    return dataclasses.replace(plan, stopping=PAUSING)


class Worker:
    """Trains trials one after another, with invented curves."""

    def __init__(self, study: Study, quality: Callable[[int], float]) -> None:
        self.study, self.quality = study, quality
        self.handed_out: list[int] = []

    def work(self, rounds: int = 1000) -> None:
        """Train until the study has nothing to hand out, or so many pieces of work."""
        for _ in range(rounds):
            asked = self.study.ask()
            if asked is None:
                return
            number, payload = asked
            self.handed_out.append(number)
            folder = TrainingFolder(Path(payload["folder"]))
            done = len(folder.read_reports())
            for epoch in range(done + 1, EPOCHS + 1):
                reports: list[Report] = curve(self.quality(number), epoch)
                folder.write_progress(reports, {"epoch": epoch})
                if epoch == EPOCHS:
                    result = Outcome.from_reports(TrialState.COMPLETE, reports)
                    folder.write_result(result)
                    self.study.record_ended(number, result, reports)
                elif self.study.report(number, reports) is Decision.SUSPEND:
                    self.study.suspend(number)
                    break


def record_states(plan: StudyPlan) -> list[str]:
    return [record.state.value for record in read_trials(plan.place)[0]]


def test_best_train_on_and_the_others_are_stopped_at_the_end(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path)
    with Study(plan) as study:
        worker = Worker(study, lambda n: 0.1 * (n + 1))
        worker.work()
        assert study.ask() is None
        stopped = study.stop_waiting()
        assert study.exhausted
        assert [number for number, _ in stopped] == [0, 1, 2, 3]
        assert {outcome.reason for _, outcome in stopped} == {
            "stopped at epoch 1", "stopped at epoch 3",
        }  # fmt: skip
        assert study.best is not None and study.best[0] == 5
    assert record_states(plan) == ["pruned"] * 4 + ["complete"] * 2
    assert [trial.state for trial in stored_trials(plan)].count(OptunaState.PRUNED) == 4


def test_trial_that_came_too_early_is_handed_out_again(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path)
    with Study(plan) as study:
        worker = Worker(study, lambda n: 0.9 - 0.1 * n)  # the first is the best
        worker.work(1)
        assert record_states(plan) == ["waiting"]
        assert (study.waiting, study.started, study.ended) == (1, 1, 0)
        assert not study.exhausted
        worker.work()
        assert worker.handed_out == [0, 1, 2, 0, 3, 4, 5, 1, 0]
        study.stop_waiting()
        assert study.best == (0, curve(0.9)[-1].best_map_at_r)


def test_kill_loses_neither_the_rungs_nor_who_waits(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path)
    with killed_launch(plan) as study:
        Worker(study, lambda n: 0.9 - 0.1 * n).work(2)
    assert record_states(plan) == ["waiting", "waiting"]
    with Study(plan) as again:
        assert not again.has_orphans
        assert again.waiting == 2
        worker = Worker(again, lambda n: 0.9 - 0.1 * n)
        worker.work()
        assert worker.handed_out == [2, 0, 3, 4, 5, 1, 0]


def test_killed_launch_that_could_not_note_who_waits_is_repaired(tmp_path: Path) -> None:
    """Killed between the report to Optuna and the note."""
    plan = plan_pausing(tmp_path)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        TrainingFolder(Path(asked[1]["folder"])).write_progress(curve(0.5, 1), {"epoch": 1})
        assert study.report(0, curve(0.5, 1)) is Decision.SUSPEND
    assert record_states(plan) == ["running"]
    with Study(plan) as again:
        assert (again.waiting, again.has_orphans) == (1, False)
        assert record_states(plan) == ["waiting"]


def test_trial_whose_worker_went_on_past_its_rung_is_adopted(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        study.report(0, curve(0.5, 1))
        TrainingFolder(Path(asked[1]["folder"])).write_progress(curve(0.5, 2), {"epoch": 2})
    with Study(plan) as again:
        assert (again.waiting, again.has_orphans) == (0, True)


def test_larger_budget_lets_waiting_trials_train_on(tmp_path: Path) -> None:
    with Study(plan_pausing(tmp_path, trials=2)) as study:
        Worker(study, lambda n: 0.9 - 0.1 * n).work(2)
    plan = plan_pausing(tmp_path, trials=6)
    with Study(plan) as again:
        worker = Worker(again, lambda n: 0.9 - 0.1 * n)
        worker.work()
        again.stop_waiting()
        assert again.best == (0, curve(0.9)[-1].best_map_at_r)
    assert record_states(plan).count("complete") == 1


def test_single_trial_is_completed(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path, trials=1)
    with Study(plan) as study:
        worker = Worker(study, lambda n: 0.5)
        worker.work()
        assert worker.handed_out == [0, 0, 0]
        assert study.exhausted
    assert states_of(plan) == [OptunaState.COMPLETE]


def states_of(plan: StudyPlan) -> list[OptunaState]:
    return [trial.state for trial in stored_trials(plan)]


def test_nobody_is_stopped_while_another_trial_trains(tmp_path: Path) -> None:
    plan = plan_pausing(tmp_path, trials=2)
    with Study(plan) as study:
        Worker(study, lambda n: 0.5).work(1)
        running = study.ask()
        assert running is not None and running[0] == 1
        assert study.ask() is None, "the other trial may yet move what waits"
        assert study.stop_waiting() == []
        assert not study.exhausted


def test_known_configuration_passes_the_early_rungs_unless_it_was_sampled_in_part(
    tmp_path: Path,
) -> None:
    whole = FirstPoint({"pos_margin": 0.1, "neg_margin": 0.9}, "published cub200")
    part = FirstPoint({"pos_margin": 0.1}, "published thresholds")
    plan = dataclasses.replace(plan_pausing(tmp_path), first_points=(whole, part))
    with Study(plan) as study:
        for expected in (Decision.CONTINUE, Decision.SUSPEND):
            number, _ = study.ask() or pytest.fail("nothing to do")
            assert study.report(number, curve(0.1, 1)) is expected
        assert study.report(0, curve(0.1, 3)) is Decision.SUSPEND, "the last rung is for all"


def test_search_announces_what_waits_and_what_waited_in_vain(tmp_path: Path) -> None:
    lines: list[str] = []
    with Study(plan_pausing(tmp_path, trials=2)) as study:
        source = SearchWork([study], lines.append)
        for value in (0.5, 0.1):
            work = source.next_work()
            assert work is not None
            number = int(work.key.rsplit("/", 1)[1])
            folder = TrainingFolder(study.plan.place.trial_folder(number))
            folder.write_progress(curve(value, 1), {"epoch": 1})
            assert source.on_step(work, StepResult(curve(value, 1))) is Decision.SUSPEND
            source.on_suspended(work)
        assert "0/2 (+0, 2 wait)" in source.describe()
        work = source.next_work()
        assert work is not None and work.key.endswith("/0")
        reports = curve(0.5)
        source.on_ended(
            work, StepResult(reports, Outcome.from_reports(TrialState.COMPLETE, reports))
        )
        assert source.next_work() is None
        assert source.exhausted
        assert states(study) == [OptunaState.COMPLETE, OptunaState.PRUNED]
    assert [line.split()[3] for line in lines] == ["waits", "waits", "complete", "stopped"]
    assert lines[0].endswith("waits     MAP@R 0.0556  at epoch 1")
    assert lines[3].endswith("at epoch 1")


@pytest.mark.parametrize(
    ("stopped", "folds", "step", "compared_at"),
    [
        ((False,), 4, 5, 5),
        ((True,), 4, 5, 20),
        ((True, True), 4, 5, 20),
        ((True, False), 4, 5, 5),
        ((True, True, True, True), 4, 5, 5),
        ((True, False, False, True), 4, 25, 25),
    ],
)
def test_end_of_the_first_folds_is_compared_at_their_last_step(
    stopped: tuple[bool, ...], folds: int, step: int, compared_at: int
) -> None:
    reports = tuple(fold_report(fold, stopped=over) for fold, over in enumerate(stopped))
    report = Report(epoch=5, best_map_at_r=0.5, folds=reports, step=step)
    assert report.compared_at(folds, max_epochs=20) == compared_at
