"""Real Optuna studies with invented learning curves: what is asked, reported, adopted, refused."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState as OptunaState

from tests.support.tiny import make_plan
from tests.support.trials import EPOCHS, curve, killed_launch, run_trial, states, stored_trials
from wpm.errors import LockedError, UserError
from wpm.jobs.work import Decision
from wpm.protocols import NO_STOPPING
from wpm.records import Outcome, TrainingFolder, TrialState, read_study, read_trials, write_study
from wpm.studies.journal import open_journal
from wpm.studies.plan import StudyPlan
from wpm.studies.samplers import SAMPLER_NAMES
from wpm.studies.seeds import MAX_SEARCHES, RUNS_PER_SEARCH, final_seed
from wpm.studies.study import Study


def points(study: Study) -> list[dict[str, Any]]:
    return [trial.params for trial in stored_trials(study.plan)]


def test_budget_is_used_up_and_states_are_recorded(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=6)
    with Study(plan) as study:
        while run_trial(study, lambda n: 0.9 - 0.1 * n) is not None:
            pass
        assert study.exhausted
        told = states(study)
        assert len(told) == 6
        assert told.count(OptunaState.PRUNED) == 5, "worse than the first at every rung"
        assert told[0] == OptunaState.COMPLETE
        assert study.best is not None and study.best[0] == 0
    records, problems = read_trials(plan.place)
    assert not problems
    assert [r.state for r in records] == ["complete", *["pruned"] * 5]


def test_values_are_reported_under_their_epoch(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path)) as study:
        run_trial(study, lambda n: 0.9)
        values = stored_trials(study.plan)[0].intermediate_values
    assert values == {r.epoch: r.best_map_at_r for r in curve(0.9)}


def test_values_of_folds_that_wait_are_reported_under_later_steps(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path, first_folds=1, max_epochs=EPOCHS)) as study:
        asked = study.ask()
        assert asked is not None
        first = curve(0.9, epochs=2)  # the patience of the first fold ran out after two epochs
        then = [dataclasses.replace(r, step=EPOCHS + r.epoch) for r in curve(0.5, epochs=3)]
        study.report(0, first)
        study.report(0, [*first, *then])
        values = stored_trials(study.plan)[0].intermediate_values
        stopped = study.record_stopped(0, [*first, *then])
    assert list(values) == [1, 2, 10, 11, 12]
    assert values[10] == then[0].best_map_at_r
    assert stopped.reason == "stopped at epoch 3 on the other 3 of 4 folds"
    assert stopped.epochs == 5


def test_stopped_trial_keeps_the_report_that_stopped_it(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path)) as study:
        run_trial(study, lambda n: 0.9)
        run_trial(study, lambda n: 0.1)
        stopped = stored_trials(study.plan)[1]
    assert stopped.state == OptunaState.PRUNED
    assert list(stopped.intermediate_values) == [1]
    assert stopped.user_attrs["reason"] == "stopped at epoch 1"


def test_without_early_stopping_every_trial_completes(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(tmp_path), stopping=NO_STOPPING)
    with Study(plan) as study:
        while run_trial(study, lambda n: 0.9 - 0.1 * n) is not None:
            pass
        assert set(states(study)) == {OptunaState.COMPLETE}


def test_orphans_are_adopted_first_with_their_own_parameters(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=3)
    with killed_launch(plan) as study:
        first, second = study.ask(), study.ask()
        assert first is not None and second is not None
    with Study(plan) as again:
        assert again.has_orphans
        assert again.ask() == first
        assert again.ask() == second
        third = again.ask()
        assert third is not None and third[0] == 2
        assert again.ask() is None


def test_history_that_the_study_missed_is_caught_up(tmp_path: Path) -> None:
    """An orphan's worker trained another epoch that its killed driver was never told."""
    plan = make_plan(tmp_path, trials=1)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        study.report(0, curve(0.9, epochs=2))
    with Study(plan) as again:
        again.ask()
        assert again.report(0, curve(0.9, epochs=4)) is Decision.CONTINUE
        assert list(stored_trials(again.plan)[0].intermediate_values) == [1, 2, 3, 4]


def test_rungs_survive_a_kill(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    with killed_launch(plan) as study:
        run_trial(study, lambda n: 0.9)
    with Study(plan) as again:
        run_trial(again, lambda n: 0.1)
        assert states(again) == [OptunaState.COMPLETE, OptunaState.PRUNED]


def test_trial_that_ended_before_its_driver_recorded_it_is_not_run_again(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        folder = TrainingFolder(Path(asked[1]["folder"]))
        folder.write_progress(curve(0.9), {"epoch": EPOCHS})
        folder.write_result(Outcome.from_reports(TrialState.COMPLETE, curve(0.9)))
    with Study(plan) as again:
        asked = again.ask()
        assert asked is not None and asked[0] == 1
        assert states(again)[0] == OptunaState.COMPLETE
        assert stored_trials(again.plan)[0].value == pytest.approx(0.9)
        assert len(stored_trials(again.plan)[0].intermediate_values) == EPOCHS


def test_kill_between_asking_and_the_record_is_repaired(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1)
    with killed_launch(plan):
        # RUNNING in the study, no parameters, no trial.json
        storage = open_journal(plan.place.journal)
        optuna.load_study(study_name=plan.place.name, storage=storage).ask()
    with Study(plan) as again:
        asked = again.ask()
        assert asked is not None
        number, payload = asked
        assert number == 0
        assert set(payload["config"]["parameters"]) == {"pos_margin", "neg_margin"}
        assert (plan.place.trial_folder(0) / "trial.json").exists()


def test_next_launch_samples_new_points(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=4)
    with killed_launch(plan) as study:
        run_trial(study, lambda n: 0.5)
        run_trial(study, lambda n: 0.5)
    with Study(plan) as again:
        while run_trial(again, lambda n: 0.5) is not None:
            pass
        points = {tuple(t.params.items()) for t in stored_trials(again.plan)}
    assert len(points) == 4


@pytest.mark.parametrize("sampler", [name for name in SAMPLER_NAMES if name != "cmaes"])
def test_sampler_repeats_itself_but_not_after_a_kill(sampler: str, tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    plan = dataclasses.replace(make_plan(first, trials=14), sampler=sampler)
    same = dataclasses.replace(make_plan(second, trials=14), sampler=sampler)
    for each in (plan, same):
        with killed_launch(each) as study:
            for _ in range(12):
                run_trial(study, lambda n: 0.5 + 0.01 * n)
    with Study(plan) as again, Study(same) as twin:
        for study in (again, twin):
            while run_trial(study, lambda n: 0.5) is not None:
                pass
        assert points(again) == points(twin)
        assert len({tuple(p.items()) for p in points(again)}) == 14


def test_unknown_sampler_is_refused_with_the_choices(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(tmp_path), sampler="bayes")
    with pytest.raises(UserError, match=r"unknown sampler 'bayes'; choose from curves, tpe, gp, "):
        Study(plan)


def test_sampler_whose_package_is_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wpm.studies.samplers.find_spec", lambda name: None)
    plan = dataclasses.replace(make_plan(tmp_path), sampler="cmaes")
    with pytest.raises(UserError, match="sampler cmaes needs the package cmaes: python -m pip"):
        Study(plan)


def test_changed_sampler_is_refused(tmp_path: Path) -> None:
    start_study(make_plan(tmp_path))
    plan = dataclasses.replace(make_plan(tmp_path), sampler="random")
    with pytest.raises(UserError, match="sampler = 'curves', now 'random'"):
        Study(plan)


def test_study_from_before_samplers_could_be_chosen_continues_with_tpe(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    start_study(plan)
    content = read_study(plan.place)
    assert content is not None
    del content["identity"]["sampler"]
    write_study(plan.place, content)
    with Study(dataclasses.replace(plan, sampler="tpe")):
        pass
    with pytest.raises(UserError, match="sampler = 'tpe', now 'random'"):
        Study(dataclasses.replace(plan, sampler="random"))


def test_diverged_trial_scores_0_in_the_study_and_is_not_the_best(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=3)
    diverged = Outcome.from_reports(TrialState.DIVERGED, curve(0.9, 2), "loss of fold 1 is nan")
    with Study(plan) as study:
        first = study.ask()
        assert first is not None
        TrainingFolder(Path(first[1]["folder"])).write_result(diverged)
        study.record_ended(0, diverged, curve(0.9, 2))
        assert study.best is None
        assert study.ended == 1
        run_trial(study, lambda n: 0.2)
    trial = stored_trials(plan)[0]
    assert (trial.state, trial.value) == (OptunaState.COMPLETE, 0.0)
    assert trial.user_attrs["reason"] == "loss of fold 1 is nan"
    with Study(plan) as again:
        assert again.best is not None and again.best[0] == 1
        assert (again.started, again.ended) == (2, 2)


def test_divergence_that_a_killed_driver_missed_is_told(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=2)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        diverged = Outcome.from_reports(TrialState.DIVERGED, [], "loss of fold 0 is nan")
        TrainingFolder(Path(asked[1]["folder"])).write_result(diverged)
    with Study(plan) as again:
        asked = again.ask()
        assert asked is not None and asked[0] == 1
        assert stored_trials(plan)[0].value == 0.0
        assert again.best is None


def test_sampler_learns_where_trials_diverge(tmp_path: Path) -> None:
    """As the originals: 0 is a score like any other. The sampler did not see failed trials."""
    places = {}
    for state in (TrialState.DIVERGED, TrialState.FAILED):
        plan = make_plan(tmp_path / state, trials=40)
        ended = Outcome.from_reports(state, [], "loss of fold 0 is nan")
        with Study(plan) as study:
            while (asked := study.ask()) is not None:
                number, payload = asked
                margin = payload["config"]["parameters"]["neg_margin"]
                reports = curve(1.0 - abs(margin - 0.5), 1)
                result = Outcome.from_reports(TrialState.COMPLETE, reports)
                if number >= 10 and margin > 0.5:
                    reports, result = [], ended
                study.record_ended(number, result, reports)
        margins = [t.params["neg_margin"] for t in stored_trials(plan)[20:]]
        places[state] = sum(margin > 0.5 for margin in margins)
    assert places[TrialState.DIVERGED] < places[TrialState.FAILED]


def test_study_with_a_trial_that_diverged_before_it_scored_0_opens(tmp_path: Path) -> None:
    """Version 0.2 recorded it as failed, in its record and in the study's file."""
    plan = make_plan(tmp_path, trials=2)
    failed = Outcome.from_reports(TrialState.FAILED, [], "diverged: loss of fold 0 is nan")
    with Study(plan) as study:
        asked = study.ask()
        assert asked is not None
        TrainingFolder(Path(asked[1]["folder"])).write_result(failed)
        study.record_ended(0, failed, [])
    with Study(plan) as again:
        assert states(again) == [OptunaState.FAIL]
        assert again.best is None
        run_trial(again, lambda n: 0.5)
        assert again.exhausted


def test_trials_share_a_seed_unless_each_gets_a_new_one(tmp_path: Path) -> None:
    def seeds(plan: StudyPlan) -> list[int]:
        with killed_launch(plan) as study:
            asked = [study.ask() for _ in range(3)]
        return [payload["config"]["seed"] for _, payload in filter(None, asked)]

    plan = make_plan(tmp_path / "common", trials=3, seed=7)
    assert seeds(plan) == [7, 7, 7]
    new = dataclasses.replace(make_plan(tmp_path / "new", trials=3, seed=7), new_trial_seeds=True)
    drawn = seeds(new)
    assert len(set(drawn)) == 3
    assert min(drawn) > final_seed(MAX_SEARCHES, RUNS_PER_SEARCH - 1), (
        "no final run repeats a trial"
    )
    assert seeds(new) == drawn, "orphans keep theirs"
    with pytest.raises(UserError, match="trial_seeds = 'new', now 'common'"):
        Study(dataclasses.replace(new, new_trial_seeds=False))
    other = dataclasses.replace(make_plan(tmp_path / "other", trials=3), new_trial_seeds=True)
    assert not set(seeds(other)) & set(drawn)


def test_crashed_trial_is_failed_with_its_reason_and_counts(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1)
    with Study(plan) as study:
        assert study.ask() is not None
        study.record_crashed(0, "killed 3 times")
        assert states(study) == [OptunaState.FAIL]
        assert study.exhausted
    (record,) = read_trials(plan.place)[0]
    assert record.state == TrialState.FAILED
    assert record.result is not None and record.result.reason == "killed 3 times"


def test_first_point_of_a_mined_row_has_the_published_thresholds(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path, "contrastive+wpm")) as study:
        first, second = study.ask(), study.ask()
    assert first is not None and second is not None
    parameters = first[1]["config"]["parameters"]
    assert parameters["embedding_dropout"] == 0.05
    assert parameters["channel_dropout"] == 0.1
    assert parameters["sharpness"] == 32
    assert second[1]["config"]["parameters"]["sharpness"] != 32


def test_second_launch_is_refused_at_once(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with Study(plan), pytest.raises(LockedError, match=r"study folder/smoke/contrastive is in use"):
        Study(plan)
    Study(plan).__exit__()


def test_changed_protocol_is_refused_with_a_way_to_continue(tmp_path: Path) -> None:
    start_study(make_plan(tmp_path))
    with pytest.raises(UserError, match=r"protocol.max_epochs = 4, now 5; .*--run-root"):
        Study(make_plan(tmp_path, max_epochs=5))


def test_changed_seed_is_refused(tmp_path: Path) -> None:
    start_study(make_plan(tmp_path))
    with pytest.raises(UserError, match="seed = 0, now 1"):
        Study(make_plan(tmp_path, seed=1))


def test_study_without_a_trial_refuses_no_other_plan(tmp_path: Path) -> None:
    """A launch that was killed while Ray started leaves one, with its first points waiting."""
    plan = make_plan(tmp_path, row="contrastive+wpm")
    assert plan.first_points
    with Study(plan):
        pass
    assert read_study(plan.place) is not None
    with Study(dataclasses.replace(plan, seed=1, first_points=())) as study:
        assert study.started == 0
        number, payload = study.ask() or pytest.fail("nothing to do")
    assert number == 0, "the point that waited belonged to the other plan"
    assert payload["config"]["seed"] == 1


def test_study_with_final_runs_only_refuses_another_plan(tested_plan: StudyPlan) -> None:
    """`--best-only --published` makes one: it has no trial, but its final runs have its seed."""
    shutil.rmtree(tested_plan.place.folder / "trials")
    tested_plan.place.journal.unlink()
    with pytest.raises(UserError, match="seed = 0, now 1"):
        Study(dataclasses.replace(tested_plan, seed=1))


def test_larger_budget_continues_and_is_recorded(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path, trials=1)) as study:
        run_trial(study, lambda n: 0.5)
        assert study.exhausted
    plan = make_plan(tmp_path, trials=2)
    with Study(plan) as again:
        assert not again.exhausted
        again.record_budget()
    content = read_study(plan.place)
    assert content is not None and content["trials"] == 2


def start_study(plan: StudyPlan) -> None:
    """Leave a study with a trial that runs."""
    with Study(plan) as study:
        study.ask()


def refused_before_a_trial(plan: StudyPlan, error: type[BaseException]) -> None:
    with pytest.raises(error), Study(plan):
        raise error("no node has that many GPUs")


@pytest.mark.parametrize("error", [UserError, RuntimeError])
def test_failed_launch_leaves_no_study_behind(error: type[Exception], tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    refused_before_a_trial(plan, error)
    assert read_study(plan.place) is None
    with Study(dataclasses.replace(plan, seed=plan.seed + 1)) as other:  # nothing holds it back
        run_trial(other, lambda n: 0.5)


def test_refused_launch_does_not_raise_the_budget(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path, trials=1)) as study:
        run_trial(study, lambda n: 0.5)
    plan = make_plan(tmp_path, trials=2)
    refused_before_a_trial(plan, UserError)
    content = read_study(plan.place)
    assert content is not None and content["trials"] == 1


def test_interrupted_launch_keeps_its_study(tmp_path: Path) -> None:
    """--status shows which trials wait."""
    plan = make_plan(tmp_path)
    refused_before_a_trial(plan, KeyboardInterrupt)
    assert read_study(plan.place) is not None


def test_error_in_the_first_trial_keeps_the_study(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with pytest.raises(UserError), Study(plan) as study:
        study.ask()
        raise UserError("disk full")
    assert read_study(plan.place) is not None


@pytest.mark.parametrize("damage", [b'{"op_code": 4, "wor', b"\x00\xff{}\n{}\n"])
def test_damaged_study_file_is_refused_by_name(tmp_path: Path, damage: bytes) -> None:
    plan = make_plan(tmp_path)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    lines = plan.place.journal.read_bytes().splitlines(keepends=True)
    middle = len(lines) // 2
    lines[middle] = damage + b"\n"
    plan.place.journal.write_bytes(b"".join(lines))
    with pytest.raises(UserError, match=r"study.journal: study file is damaged .* restore"):
        Study(plan)


def test_study_file_cut_in_its_last_line_is_continued(tmp_path: Path) -> None:
    """A driver killed while it appends leaves half a line; only that write is lost."""
    plan = make_plan(tmp_path, trials=3)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    with plan.place.journal.open("ab") as file:
        file.write(b'{"op_code": 5, "worker_id": "x"')
    with Study(plan) as again:
        while run_trial(again, lambda n: 0.5) is not None:
            pass
    with Study(plan) as third:
        assert len(states(third)) == 3
        assert third.exhausted


def test_missing_study_json_beside_a_journal_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with Study(plan):
        pass
    (plan.place.folder / "study.json").unlink()
    with pytest.raises(UserError, match=r"study.journal but no study.json"):
        Study(plan)


def test_records_of_another_format_are_refused_with_their_version(tmp_path: Path) -> None:
    from wpm.files import read_json, write_json

    plan = make_plan(tmp_path)
    with Study(plan):
        pass
    path = plan.place.folder / "study.json"
    write_json(path, {**read_json(path), "format": 99})
    with pytest.raises(UserError, match=r"record format 99"):
        Study(plan)


@pytest.mark.parametrize("told", ["7.0", None])
def test_trial_of_another_format_is_refused_with_its_version(
    tmp_path: Path, told: str | None
) -> None:
    from wpm.files import read_json, write_json

    plan = make_plan(tmp_path)
    with killed_launch(plan) as study:
        study.ask()
    path = plan.place.trial_folder(0) / "trial.json"
    provenance = {} if told is None else {"wpm": told}
    write_json(path, {**read_json(path), "format": 99, "provenance": provenance})
    match = rf"trial\.json: written by wpm {told or 'another version'} in record format 99, this is"
    with pytest.raises(UserError, match=match):
        Study(plan)
    records, problems = read_trials(plan.place)
    assert records == []
    assert "record format 99" in problems[0]


def test_images_that_were_left_out_are_in_the_record(tmp_path: Path) -> None:
    plan = dataclasses.replace(make_plan(tmp_path), left_out=[("a/1.png", "truncated")])
    for trials in (4, 5):
        with Study(dataclasses.replace(plan, trials=trials)) as study:
            study.record_budget()
        content = read_study(plan.place)
        assert content is not None
        assert content["trials"] == trials
        assert content["provenance"]["left_out"] == [["a/1.png", "truncated"]]


def test_damaged_checkpoint_of_an_orphan_is_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with killed_launch(plan) as study:
        asked = study.ask()
        assert asked is not None
        TrainingFolder(Path(asked[1]["folder"])).write_progress(curve(0.5, 1), {"epoch": 1})
    (checkpoint,) = plan.place.trial_folder(0).glob("checkpoint-*")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-10])
    with pytest.raises(UserError, match="checkpoint is damaged"):
        Study(plan)


def test_stale_journal_lock_of_a_dead_writer_does_not_delay(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    with Study(plan):
        pass
    lock = plan.place.journal.with_name("study.journal.lock")
    lock.symlink_to(plan.place.journal)
    with Study(plan) as study:
        assert study.ask() is not None


def test_search_space_types_and_scales_reach_optuna(tmp_path: Path) -> None:
    with Study(make_plan(tmp_path, "contrastive+wpm")) as study:
        study.ask()
        distributions = stored_trials(study.plan)[0].distributions
    sharpness = distributions["sharpness"]
    assert isinstance(sharpness, optuna.distributions.FloatDistribution)
    assert sharpness.log
    assert (sharpness.low, sharpness.high) == (1, 256)
