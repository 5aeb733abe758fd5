"""A search hands out the trials of several studies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.tiny import make_plan
from tests.support.trials import curve
from wpm.errors import UserError
from wpm.jobs.job import Job, StepResult
from wpm.jobs.start import start_job
from wpm.jobs.work import Decision, Work
from wpm.records import Outcome, TrialState, read_study, read_trials
from wpm.records.training_log import LOG_NAME
from wpm.studies.best_trials import choose_best_trials
from wpm.studies.search import MAX_FIRST_FAILURES, SearchWork
from wpm.studies.study import Study
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd


@pytest.fixture
def studies(tmp_path: Path) -> Iterator[list[Study]]:
    rows = ("contrastive", "contrastive+wpm")
    opened = [Study(make_plan(tmp_path, row, trials=3)) for row in rows]
    yield opened
    for study in opened:
        study.__exit__()


def end(
    source: SearchWork, work: Work, state: TrialState = TrialState.COMPLETE, reason: str = ""
) -> None:
    reports = curve(0.5)
    source.on_ended(work, StepResult(reports, Outcome.from_reports(state, reports, reason)))


def test_studies_take_turns_and_every_budget_is_used(studies: list[Study]) -> None:
    lines: list[str] = []
    source = SearchWork(studies, lines.append)
    order = []
    while (work := source.next_work()) is not None:
        order.append(work.key.rsplit("/", 1)[0].split("/")[-1])
        end(source, work)
    assert order == ["contrastive", "contrastive+wpm"] * 3
    assert source.exhausted
    assert source.remaining == 0
    assert len(lines) == 6
    assert "trial   0 complete  MAP@R 0.5000" in lines[0]


def test_line_of_a_known_configuration_says_where_it_comes_from(tmp_path: Path) -> None:
    lines: list[str] = []
    with Study(make_plan(tmp_path, "contrastive+wpm", trials=2)) as study:
        source = SearchWork([study], lines.append)
        while (work := source.next_work()) is not None:
            end(source, work)
    assert lines[0].endswith(" epochs  (published thresholds)")
    assert lines[1].endswith(" epochs")


def test_trials_that_start_on_one_fold_are_stopped_there_or_earn_the_others(
    tmp_path: Path,
) -> None:
    """Real trainings under successive halving, two at a time."""
    lines: list[str] = []
    with Study(make_plan(tmp_path, trials=5, first_folds=1)) as study:
        source = SearchWork([study], lines.append)
        running: list[tuple[Work, Job]] = []
        while True:
            while len(running) < 2 and (work := source.next_work()) is not None:
                running.append((work, start_job(work.payload)))
            if not running:
                break
            work, job = running.pop(0)
            step = job.step()
            if step.result is not None:
                source.on_ended(work, step)
            elif source.on_step(work, step) is Decision.STOP:
                source.on_stopped(work, step)
            else:
                running.append((work, job))
                continue
            job.close()
        best = study.best
    records, problems = read_trials(study.plan.place, with_reports=True)
    assert not problems
    assert {record.state for record in records} == {TrialState.COMPLETE, TrialState.PRUNED}
    for record in records:
        last, outcome = record.reports[-1], record.outcome
        assert len(outcome.fold_scores) == len(last.folds) == (1 if last.step <= 4 else 4)
        if record.state is TrialState.COMPLETE:
            assert (last.step, last.epoch, outcome.epochs) == (8, 4, 8)
        else:
            assert last.step in (1, 2, 4), "the rungs; 8 is the end"
            assert outcome.reason.removeprefix("stopped ") in "".join(lines)
    (chosen,) = choose_best_trials(study.plan.place, allow_unfinished=False)
    assert best is not None
    assert (chosen.number, len(chosen.outcome.fold_scores)) == (best[0], 4)


def test_work_that_starts_records_the_budgets_of_all_studies(tmp_path: Path) -> None:
    """Otherwise a study whose turn never came would count as finished."""
    rows = ("contrastive", "triplet")
    for row in rows:
        with Study(make_plan(tmp_path, row, trials=1)):
            pass
    plans = [make_plan(tmp_path, row, trials=3) for row in rows]
    with Study(plans[0]) as first, Study(plans[1]) as second:
        SearchWork([first, second], print).next_work()
    recorded = [read_study(plan.place) for plan in plans]
    assert [study and study["trials"] for study in recorded] == [3, 3]


def test_orphans_go_first(tmp_path: Path) -> None:
    plans = [make_plan(tmp_path, row, trials=3) for row in ("contrastive", "triplet")]
    with Study(plans[1]) as study:
        study.ask()
    with Study(plans[0]) as first, Study(plans[1]) as second:
        work = SearchWork([first, second], print).next_work()
        assert work is not None
        assert work.key == "folder/smoke/triplet/0"


def test_stop_is_decided_and_recorded(studies: list[Study]) -> None:
    source = SearchWork(studies[:1], lambda line: None)
    good, bad = source.next_work(), source.next_work()
    assert good is not None and bad is not None
    assert source.on_step(good, StepResult(curve(0.9, 1))) is Decision.CONTINUE
    step = StepResult(curve(0.1, 1))
    assert source.on_step(bad, step) is Decision.STOP
    source.on_stopped(bad, step)
    assert "1/3 (+1)" in source.describe()


def test_a_run_of_failures_from_the_start_stops_the_launch(studies: list[Study]) -> None:
    source = SearchWork(studies[:1], lambda line: None)
    for i in range(MAX_FIRST_FAILURES):
        work = source.next_work()
        assert work is not None
        if i < MAX_FIRST_FAILURES - 1:
            end(source, work, TrialState.FAILED, "MemoryError: of the loss")
        else:
            with pytest.raises(UserError, match=r"first 3 trials .* the last: MemoryError"):
                end(source, work, TrialState.FAILED, "MemoryError: of the loss")


def test_diverged_trials_are_results_and_do_not_stop_the_launch(studies: list[Study]) -> None:
    lines: list[str] = []
    ends: list[StudyEnd] = []
    source = SearchWork(studies[:1], lines.append, ends.append)
    while (work := source.next_work()) is not None:
        end(source, work, TrialState.DIVERGED, "loss of fold 0 is nan in epoch 1")
    assert len(lines) == 3
    assert lines[0].endswith("trial   0 diverged  MAP@R 0.0000  loss of fold 0 is nan in epoch 1")
    assert [(e.event, e.message) for e in ends] == [
        (STUDY_FAILED, "none of its 3 trials is complete")
    ]


def test_failures_after_a_success_do_not_stop_the_launch(studies: list[Study]) -> None:
    source = SearchWork(studies[:1], lambda line: None)
    for state in (TrialState.COMPLETE, TrialState.FAILED, TrialState.FAILED):
        work = source.next_work()
        assert work is not None
        end(source, work, state, "MemoryError")
    assert source.exhausted


def test_crashed_work_is_announced_with_its_reason(studies: list[Study]) -> None:
    lines: list[str] = []
    source = SearchWork(studies[:1], lines.append)
    work = source.next_work()
    assert work is not None
    source.on_crashed(work, "its process died 3 times")
    assert "failed" in lines[0]
    assert "its process died 3 times" in lines[0]


def test_end_of_every_study_is_announced_once(studies: list[Study]) -> None:
    ends: list[StudyEnd] = []
    source = SearchWork(studies, lambda line: None, ends.append)
    while (work := source.next_work()) is not None:
        assert not [e for e in ends if e.study == work.study]
        good = work.study.endswith("+wpm")
        end(
            source,
            work,
            TrialState.COMPLETE if good or work.key.endswith("/1") else TrialState.FAILED,
            "MemoryError",
        )
        if work.key.endswith("/1"):
            assert not ends
    assert [(e.study, e.event, e.best_trial) for e in ends] == [
        ("folder/smoke/contrastive", STUDY_FINISHED, 1),
        ("folder/smoke/contrastive+wpm", STUDY_FINISHED, 0),
    ]
    assert ends[0].best == 0.5
    assert "3 trials, the best is 1 with validation MAP@R 0.5000" in ends[0].message
    again: list[StudyEnd] = []
    assert SearchWork(studies, lambda line: None, again.append).next_work() is None
    assert again == [], "studies that had ended before are no news"


def test_a_study_without_a_complete_trial_has_failed(tmp_path: Path) -> None:
    ends: list[StudyEnd] = []
    with Study(make_plan(tmp_path, trials=1)) as study:
        source = SearchWork([study], lambda line: None, ends.append)
        work = source.next_work()
        assert work is not None
        source.on_crashed(work, "killed")
    assert [(e.event, e.best, e.message) for e in ends] == [
        (STUDY_FAILED, None, "none of its 1 trials is complete")
    ]


def test_last_log_lines_of_a_failed_trial_are_shown(studies: list[Study]) -> None:
    lines: list[str] = []
    source = SearchWork(studies[:1], lines.append)
    work = source.next_work()
    assert work is not None
    log = Path(work.payload["folder"]) / LOG_NAME
    log.write_text("one\ntwo\nthree\nfour\n")
    end(source, work, TrialState.FAILED, "MemoryError")
    assert lines[1:] == ["    | two", "    | three", "    | four"]
