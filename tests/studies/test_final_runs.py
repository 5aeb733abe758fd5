"""Final runs: which configuration is trained, in which order, and what is not repeated."""

import dataclasses
from pathlib import Path

import pytest

from tests.support.final_runs import drain, final_plan, finish_work
from tests.support.tiny import make_plan, smoke_protocol
from tests.support.trials import EPOCHS, curve, run_trial
from wpm.errors import UserError
from wpm.files import read_json, write_json
from wpm.jobs.held_out_embeddings import embed_test_images
from wpm.jobs.job import StepResult
from wpm.records import Chosen, Outcome, TrainingFolder, TrialState, read_finals
from wpm.studies.best_trials import check_same_study, choose_best_trials
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study
from wpm.studies.study_end import STUDY_FAILED, STUDY_FINISHED, StudyEnd


def test_best_complete_trial_is_chosen(study_plan: StudyPlan) -> None:
    (best,) = choose_best_trials(study_plan.place, allow_unfinished=False)
    assert best.number == 1


def test_trial_that_was_stopped_on_its_first_folds_is_never_chosen(tmp_path: Path) -> None:
    """Its mean over fold 0 alone is higher than the complete trial's over all folds."""
    plan = make_plan(tmp_path, trials=2, first_folds=1, max_epochs=EPOCHS)
    with Study(plan) as study:
        for number, state in enumerate((TrialState.PRUNED, TrialState.COMPLETE)):
            asked = study.ask()
            assert asked is not None
            first = curve(0.9 if number == 0 else 0.5)
            if state is TrialState.PRUNED:
                study.record_stopped(number, first)
                continue
            then = [dataclasses.replace(r, step=EPOCHS + r.epoch) for r in curve(0.4)]
            reports = [*first, *then]
            result = Outcome.from_reports(state, reports)
            TrainingFolder(Path(asked[1]["folder"])).write_result(result)
            study.record_ended(number, result, reports)
        assert study.best == (1, 0.4)
    (best,) = choose_best_trials(plan.place, count=2, allow_unfinished=False)
    assert best.number == 1


def test_unfinished_study_is_refused_unless_allowed(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    with pytest.raises(UserError, match=r"unfinished: 1 of 2 trials ended; .*--allow-unfinished"):
        choose_best_trials(plan.place, allow_unfinished=False)
    (best,) = choose_best_trials(plan.place, allow_unfinished=True)
    assert best.number == 0


def test_study_without_a_complete_trial_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1)
    with Study(plan) as study:
        study.ask()
        study.record_crashed(0, "killed")
    with pytest.raises(UserError, match="no complete trial among its 1"):
        choose_best_trials(plan.place, allow_unfinished=False)


def test_missing_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no study folder/smoke/contrastive .* run the search"):
        choose_best_trials(make_plan(tmp_path).place, allow_unfinished=False)


def test_other_protocol_or_images_are_refused(study_plan: StudyPlan) -> None:
    check_same_study(study_plan.place, study_plan.protocol, study_plan.pixel_cache, "random")
    with pytest.raises(
        UserError, match=r"was searched with protocol\.max_epochs = 4, now 9; put it"
    ):
        check_same_study(
            study_plan.place, smoke_protocol(max_epochs=9), study_plan.pixel_cache, "random"
        )
    with pytest.raises(UserError, match="other images"):
        check_same_study(study_plan.place, study_plan.protocol, Path("folder-20px-0123"), "random")


def test_final_runs_of_every_search_have_seeds_of_their_own(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    plan = final_plan(study_plan, tmp_path)
    further = dataclasses.replace(plan, place=dataclasses.replace(plan.place, search=3))
    assert [plan.seed_of(run) for run in range(3)] == [1000, 1001, 1002]
    assert [further.seed_of(run) for run in range(3)] == [3000, 3001, 3002]
    assert further.run_folder(1).name == "seed-3001"


def test_every_seed_is_trained_on_every_fold_then_tested(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    with FinalRunsWork([final_plan(study_plan, tmp_path)], lambda line: None) as source:
        payloads = drain(source)
        assert source.exhausted
        assert source.remaining == 0
    assert [p["kind"] for p in payloads] == (["train"] * 4 + ["test"]) * 2
    assert [p["config"]["seed"] for p in payloads if p["kind"] == "train"] == [1000] * 4 + [
        1001
    ] * 4
    (final,), _ = read_finals(study_plan.place)
    results = final.tested
    assert final.chosen.trial == 1
    assert [r.seed for r in results] == [1000, 1001]
    for result in results:
        assert result.test_images == 32
        assert result.test_classes == 8
        for scores in (result.separated, result.concatenated):
            assert 0 <= scores["map_at_r"] <= scores["precision_at_1"] <= 1


def test_test_images_leave_a_line_in_the_record(study_plan: StudyPlan, tmp_path: Path) -> None:
    log = study_plan.place.folder / "test_access.jsonl"
    assert not log.exists()
    with FinalRunsWork([final_plan(study_plan, tmp_path, runs=1)], lambda line: None) as source:
        for _ in range(4):
            work = source.next_work()
            assert work is not None
            finish_work(source, work)
        assert not log.exists(), "training opened test images"
        drain(source)
    assert len(log.read_text().splitlines()) == 1


def test_unreadable_test_images_are_named_or_left_out(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    (tmp_path / "images" / "class_09" / "1.png").write_bytes(b"")
    plan = final_plan(study_plan, tmp_path, runs=1)
    match = r"1 of 32 images .*class_09/1.png .*--skip-unreadable"
    with FinalRunsWork([plan], lambda line: None) as source, pytest.raises(UserError, match=match):
        drain(source)
    skipping = dataclasses.replace(
        plan, source=dataclasses.replace(plan.source, skip_unreadable=True)
    )
    with FinalRunsWork([skipping], lambda line: None) as again:
        assert [p["kind"] for p in drain(again)] == ["test"], "the folds were trained already"
    (final,), _ = read_finals(study_plan.place)
    (result,) = final.tested
    assert result.test_images == 31
    assert [path for path, _ in result.left_out] == ["class_09/1.png"]
    embedded = embed_test_images(plan.place, plan.source, plan.protocol, plan.run_folder(0), result)
    assert len(embedded.labels) == 31


def test_final_record_of_another_format_is_refused_with_its_version(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    plan = final_plan(study_plan, tmp_path)
    with FinalRunsWork([plan], lambda line: None):
        pass
    path = plan.folder / "final.json"
    write_json(path, {**read_json(path), "format": 99, "provenance": {"wpm": "7.0"}})
    with pytest.raises(UserError, match=r"final\.json: written by wpm 7\.0 in record format 99"):
        FinalRunsWork([plan], lambda line: None)
    assert read_finals(study_plan.place)[0] == []
    assert "wpm 7.0" in read_finals(study_plan.place)[1][0]


def test_finished_work_is_not_repeated(study_plan: StudyPlan, tmp_path: Path) -> None:
    plan = final_plan(study_plan, tmp_path, runs=1)
    with FinalRunsWork([plan], lambda line: None) as source:
        for _ in range(2):  # two of four folds, then the launch is killed
            work = source.next_work()
            assert work is not None
            finish_work(source, work)
    with FinalRunsWork([plan], lambda line: None) as again:
        assert [p["kind"] for p in drain(again)] == ["train", "train", "test"]
    with FinalRunsWork([plan], lambda line: None) as third:
        assert third.exhausted
    with FinalRunsWork([final_plan(study_plan, tmp_path, runs=2)], lambda line: None) as more:
        assert [p["kind"] for p in drain(more)] == ["train"] * 4 + ["test"]


def test_same_seed_gives_the_same_scores(study_plan: StudyPlan, tmp_path: Path) -> None:
    import shutil

    scores = []
    for _ in range(2):
        with FinalRunsWork([final_plan(study_plan, tmp_path, 1)], lambda line: None) as source:
            drain(source)
        (final,), _ = read_finals(study_plan.place)
        (result,) = final.tested
        scores.append((result.separated, result.concatenated))
        shutil.rmtree(study_plan.place.folder / "finals")
    assert scores[0] == scores[1]


def test_failed_fold_fails_its_run_and_others_continue(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    lines: list[str] = []
    with FinalRunsWork([final_plan(study_plan, tmp_path)], lines.append) as source:
        work = source.next_work()
        assert work is not None
        result = Outcome.from_reports(TrialState.FAILED, [], "diverged: loss of fold 0 is nan")
        TrainingFolder(Path(work.payload["folder"])).write_result(result)
        source.on_ended(work, StepResult([], result))
        kinds = [p["kind"] for p in drain(source)]
    assert kinds == ["train"] * 4 + ["test"], "the other folds of the failed run are not trained"
    assert lines[0].endswith("run 1/2 failed: fold 0: diverged: loss of fold 0 is nan")
    states = [
        read_json(path)["state"]
        for path in sorted(study_plan.place.folder.glob("finals/*/seed-*/result.json"))
    ]
    assert states == [TrialState.FAILED, TrialState.COMPLETE]


def test_diverged_fold_fails_its_run(study_plan: StudyPlan, tmp_path: Path) -> None:
    lines: list[str] = []
    plan = final_plan(study_plan, tmp_path)
    diverged = Outcome.from_reports(TrialState.DIVERGED, [], "loss of fold 0 is nan in epoch 1")
    with FinalRunsWork([plan], lines.append) as source:
        first, other = source.next_work(), source.next_work()
        assert first is not None and other is not None
        TrainingFolder(Path(first.payload["folder"])).write_result(diverged)
        source.on_ended(first, StepResult([], diverged))
    assert lines[0].endswith("run 1/2 failed: fold 0 diverged: loss of fold 0 is nan in epoch 1")
    (plan.run_folder(0) / "result.json").unlink()  # its driver was killed before it wrote this
    lines.clear()
    with FinalRunsWork([plan], lines.append):
        pass
    assert lines[0].endswith("run 1/2 failed: a fold failed in an earlier launch")


def test_second_launch_is_refused(study_plan: StudyPlan, tmp_path: Path) -> None:
    plan = final_plan(study_plan, tmp_path)
    with (
        FinalRunsWork([plan], lambda line: None),
        pytest.raises(UserError, match="in use by process"),
    ):
        FinalRunsWork([plan], lambda line: None)


def test_top_configurations_come_best_first_and_none_twice(study_plan: StudyPlan) -> None:
    best = choose_best_trials(study_plan.place, 9, allow_unfinished=False)
    scores = [record.outcome.score or 0.0 for record in best]
    assert len(scores) > 1
    assert scores == sorted(scores, reverse=True)
    twin = TrainingFolder(study_plan.place.trial_folder(77))
    twin.write_identity(best[1].identity)
    twin.write_result(best[1].outcome)
    assert choose_best_trials(study_plan.place, 9, allow_unfinished=True) == best


def test_several_configurations_of_a_study_share_its_lock(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    plan = final_plan(study_plan, tmp_path, runs=1)
    other = dataclasses.replace(plan, parameters={"pos_margin": 0.1, "neg_margin": 0.7})
    with FinalRunsWork([plan, other], lambda line: None) as source:
        kinds = [p["kind"] for p in drain(source)]
    assert kinds.count("test") == 2
    finals, _ = read_finals(study_plan.place)
    assert len(finals) == 2


def other_plan(plan: FinalPlan, score: float = 0.3) -> FinalPlan:
    parameters = {"pos_margin": 0.1, "neg_margin": 0.7}
    return dataclasses.replace(plan, parameters=parameters, chosen=Chosen(2, score))


def models_under(plan: FinalPlan) -> int:
    return len(list(plan.folder.glob("seed-*/fold-*/*.safetensors")))


def test_only_the_best_tested_configuration_keeps_its_models(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    loser = other_plan(final_plan(study_plan, tmp_path, runs=1))
    with FinalRunsWork([loser], lambda line: None) as source:
        drain(source)
    assert models_under(loser) == 4, "it is the best while nothing else is tested"
    best = final_plan(study_plan, tmp_path, runs=1)
    published = dataclasses.replace(
        best, parameters={"pos_margin": 0.2, "neg_margin": 0.5},
        chosen=Chosen(source="somewhere"),
    )  # fmt: skip
    with FinalRunsWork([published, best], lambda line: None) as source:
        drain(source)
    assert [models_under(plan) for plan in (loser, best, published)] == [0, 4, 4]
    finals, problems = read_finals(study_plan.place)
    assert not problems
    assert [len(final.tested) for final in finals] == [1, 1, 1], "scores stay"


def test_a_failed_run_keeps_no_models(study_plan: StudyPlan, tmp_path: Path) -> None:
    plan = final_plan(study_plan, tmp_path, runs=1)
    with FinalRunsWork([plan], lambda line: None) as source:
        first, second, third = (source.next_work() for _ in range(3))
        assert first and second and third
        finish_work(source, first)
        assert models_under(plan) == 1
        source.on_crashed(second, "killed")
        assert models_under(plan) == 0
        finish_work(source, third)  # it was running when its run failed
        assert models_under(plan) == 0


def test_a_stopped_study_is_left_for_a_later_launch(study_plan: StudyPlan, tmp_path: Path) -> None:
    plan = final_plan(study_plan, tmp_path, runs=1)
    with FinalRunsWork([plan], lambda line: None) as source:
        works = [source.next_work() for _ in range(3)]
        assert works[0] and works[1]
        finish_work(source, works[0])
        source.stop_study(plan.place.name)
        source.on_suspended(works[1])
        assert source.next_work() is None
        assert source.remaining == 4, "one that runs, one that was left, one not begun, the test"
        assert not source.exhausted
    with FinalRunsWork([plan], lambda line: None) as again:
        assert [p["kind"] for p in drain(again)] == ["train"] * 3 + ["test"]


def test_the_last_fold_of_a_stopped_study_is_not_tested(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    plan = final_plan(study_plan, tmp_path, runs=1)
    with FinalRunsWork([plan], lambda line: None) as source:
        works = [source.next_work() for _ in range(4)]
        source.stop_study(plan.place.name)
        for work in works:
            assert work is not None
            finish_work(source, work)
        assert source.exhausted
        assert source.remaining == 1
    with FinalRunsWork([plan], lambda line: None) as again:
        assert [p["kind"] for p in drain(again)] == ["test"]


def test_end_of_a_studys_final_runs_is_announced_once(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    ends: list[StudyEnd] = []
    plan = final_plan(study_plan, tmp_path, runs=2)
    with FinalRunsWork([plan], lambda line: None, ends.append) as source:
        drain(source)
    (end,) = ends
    assert (end.study, end.event, end.best, end.best_trial) == (
        plan.place.name, STUDY_FINISHED, 0.8, 1
    )  # fmt: skip
    assert "final runs: 2 tested, mean test MAP@R concatenated" in end.message
    with FinalRunsWork([plan], lambda line: None, ends.append) as again:
        drain(again)
    assert len(ends) == 1


def test_final_runs_that_all_fail_are_announced(study_plan: StudyPlan, tmp_path: Path) -> None:
    ends: list[StudyEnd] = []
    plan = final_plan(study_plan, tmp_path, runs=1)
    with FinalRunsWork([plan], lambda line: None, ends.append) as source:
        work = source.next_work()
        assert work is not None
        source.on_crashed(work, "killed")
    assert [(end.event, end.message) for end in ends] == [(STUDY_FAILED, "no final run was tested")]
