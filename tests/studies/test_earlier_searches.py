"""What earlier searches of a run folder know, and how a study keeps what it began with."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support.stored import training_result
from tests.support.tiny import make_plan
from tests.support.trials import killed_launch, run_trial, stored_trials
from wpm.errors import UserError
from wpm.protocols import NO_STOPPING
from wpm.records import (
    FirstPoint,
    SearchCost,
    StudyPlace,
    TrainingFolder,
    TrialState,
    count_known,
    read_first_points,
    read_study,
    read_trials,
    read_twin_cost,
    write_study,
)
from wpm.spaces import SPACES_FOLDER
from wpm.studies.earlier_searches import add_first_points, describe_first_points
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.study import Study
from wpm.studies.warm_start import WarmStart

AUTO, NONE, STUDIES, TWIN = WarmStart.AUTO, WarmStart.NONE, WarmStart.STUDIES, WarmStart.TWIN
MINED = {"embedding_dropout": 0.1, "channel_dropout": 0.2, "sharpness": 64.0}


def write_trials(
    place: StudyPlace, trials: Sequence[tuple[float, float, TrialState]], **identity: Any
) -> StudyPlace:
    """Write a study whose trials have these positive margins and scores; each took an hour."""
    write_study(place, {"identity": identity, "trials": len(trials), "provenance": {}})
    for number, (margin, score, state) in enumerate(trials):
        folder = TrainingFolder(place.trial_folder(number))
        parameters = {"pos_margin": margin, "neg_margin": 1.0, **(MINED if place.row.miner else {})}
        folder.write_identity({"number": number, "parameters": parameters})
        folder.write_result(training_result(score, state=state))
    return place


def elsewhere(plan: StudyPlan, dataset: str, protocol: str = "small") -> StudyPlace:
    return dataclasses.replace(plan.place, dataset=dataset, protocol=protocol)


def start(
    plan: StudyPlan, choice: WarmStart = AUTO, folder: Path = SPACES_FOLDER
) -> tuple[StudyPlan, list[str]]:
    return add_first_points(dataclasses.replace(plan, first_points=()), choice, folder)


def origins(plan: StudyPlan) -> list[str]:
    return [point.origin for point in plan.first_points]


# Studies elsewhere


def test_best_complete_trial_of_each_study_elsewhere_is_tried(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=50)
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    write_trials(elsewhere(plan, "omniglot"),
                 [(0.5, 0.3, complete), (0.9, 0.4, complete), (1.4, 0.6, pruned)])  # fmt: skip
    write_trials(elsewhere(plan, "folder"), [(1.8, 0.2, complete)])
    write_trials(elsewhere(plan, "cub200"), [(0.0, 0.9, TrialState.DIVERGED)])
    planned, notes = start(plan, STUDIES)
    assert origins(planned) == ["folder/small trial 0", "omniglot/small trial 1"]
    assert planned.first_points[1].parameters == {"pos_margin": 0.9, "neg_margin": 1.0}
    assert notes == []
    planned, _ = start(plan, AUTO)
    assert origins(planned) == [
        "published cub200", "published cars196", "folder/small trial 0", "omniglot/small trial 1",
    ]  # fmt: skip
    mined, _ = start(make_plan(tmp_path, "contrastive+wpm", trials=50), STUDIES)
    assert origins(mined) == [
        "folder/small trial 0 + thresholds", "omniglot/small trial 1 + thresholds",
    ]  # fmt: skip
    assert mined.first_points[0].parameters["sharpness"] == 32


def test_order_does_not_depend_on_which_study_was_written_first(tmp_path: Path) -> None:
    names = ["omniglot", "cub200", "sop"]
    found = []
    for order in (names, names[::-1]):
        plan = make_plan(tmp_path / order[0], trials=50)
        for name in order:
            margin = 0.5 * (1 + names.index(name))
            write_trials(elsewhere(plan, name), [(margin, 0.5, TrialState.COMPLETE)])
        found.append(start(plan, STUDIES)[0].first_points)
    assert found[0] == found[1]
    assert len(found[0]) == 3


def test_own_study_and_other_splits_of_the_same_images_tell_nothing(tmp_path: Path) -> None:
    """Under another split, a trial may have been chosen on what are test images here."""
    plan = make_plan(tmp_path, trials=50)
    write_trials(elsewhere(plan, "folder"), [(1.8, 0.2, TrialState.COMPLETE)],
                 split={"file": "mine.csv"})  # fmt: skip
    assert (
        start(plan, AUTO)[0].first_points
        == start(make_plan(tmp_path / "empty", trials=50), AUTO)[0].first_points
    )
    with pytest.raises(UserError, match="has no complete trial of contrastive on another data set"):
        start(plan, STUDIES)
    with pytest.raises(UserError, match=r"contrastive\+wpm or contrastive on another data set"):
        start(make_plan(tmp_path, "contrastive+wpm"), STUDIES)


def test_damaged_study_elsewhere_is_named_and_stops_nothing(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=50)
    place = write_trials(elsewhere(plan, "omniglot"), [(1.0, 0.5, TrialState.COMPLETE)])
    (place.trial_folder(0) / "result.json").write_text("{}")
    planned, notes = start(plan)
    assert origins(planned) == ["published cub200", "published cars196"]
    assert len(notes) == 1
    assert notes[0].startswith("nothing is tried first of omniglot/small/contrastive: ")


def test_loss_without_a_readable_miner_has_one_row(tmp_path: Path) -> None:
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "contrastive.toml").write_text((SPACES_FOLDER / "contrastive.toml").read_text())
    planned, notes = start(make_plan(tmp_path, trials=50), AUTO, rows)
    assert (len(planned.first_points), notes) == (2, [])


# Twins that begin at different times


def test_row_tries_no_more_than_its_twin_began_with(tmp_path: Path) -> None:
    plain, mined = (make_plan(tmp_path, row, trials=50) for row in ("contrastive",
                                                                    "contrastive+wpm"))  # fmt: skip
    first, _ = start(plain)
    with Study(first) as study:
        run_trial(study, lambda n: 0.5)
    write_trials(elsewhere(plain, "omniglot"), [(1.5, 0.5, TrialState.COMPLETE)])
    alone, _ = start(make_plan(tmp_path / "alone", "contrastive+wpm", trials=50))
    second, notes = start(mined)
    assert len(second.first_points) == len(first.first_points) == len(alone.first_points) == 2
    assert notes == ["tries 2 of 4 known configurations first, as many as folder/smoke/contrastive"]


@pytest.mark.parametrize("version", ["none", "earlier"])
def test_twin_of_a_row_that_began_with_nothing_knows_the_thresholds_only(
    version: str, tmp_path: Path
) -> None:
    plain = start(make_plan(tmp_path, trials=50), NONE)[0]
    with Study(plain) as study:
        run_trial(study, lambda n: 0.5)
    if version == "earlier":
        forget_start(plain)
    mined, notes = start(make_plan(tmp_path, "contrastive+wpm", trials=50))
    assert origins(mined) == ["published thresholds"]
    assert notes == ["tries 0 of 3 known configurations first, as many as folder/smoke/contrastive"]
    # Little as it is, that is what is known of this loss anyway.
    circle = start(make_plan(tmp_path, "circle", trials=8))[0]
    record_plan(circle, trials=8)
    mined, notes = start(make_plan(tmp_path, "circle+wpm", trials=8))
    assert (origins(mined), notes) == (["published thresholds"], [])


# What a study keeps


def forget_start(plan: StudyPlan) -> None:
    """Write the study as versions did that recorded no choice."""
    study = read_study(plan.place)
    assert study is not None
    identity = {k: v for k, v in study["identity"].items() if k != "warm_start"}
    content = {"trials": study["trials"], "provenance": study["provenance"], "identity": identity}
    write_study(plan.place, content)


def test_points_and_origins_are_in_the_records_and_in_the_optuna_study(tmp_path: Path) -> None:
    plan, _ = start(make_plan(tmp_path, "contrastive+wpm", trials=8))
    assert describe_first_points(plan) == (
        "tried first: trial 0 published cub200, trial 1 published cars196"
    )
    with Study(plan) as study:
        for _ in range(3):
            run_trial(study, lambda n: 0.5)
        assert [study.origin_of(n) for n in range(3)] == [*origins(plan), ""]
    content = read_study(plan.place)
    assert content is not None
    assert read_first_points(content) == plan.first_points
    assert content["identity"]["warm_start"] == "auto"
    assert (count_known(content), read_twin_cost(content)) == (2, None)
    records, _ = read_trials(plan.place)
    assert [record.origin for record in records] == [*origins(plan), ""]
    assert "origin" not in records[2].identity
    assert records[0].parameters == {**plan.space.fixed, **plan.first_points[0].parameters}
    attributes = [trial.user_attrs.get("origin") for trial in stored_trials(plan)]
    assert attributes == [*origins(plan), None]


def test_killed_study_continues_with_the_points_that_it_began_with(tmp_path: Path) -> None:
    """Another study ends in between, so that the same command would find other points now."""
    plan = start(make_plan(tmp_path, trials=16), AUTO)[0]
    with killed_launch(plan) as study:
        study.record_budget()
        assert study.ask() is not None
    write_trials(elsewhere(plan, "folder"), [(1.8, 0.9, TrialState.COMPLETE)])
    again, _ = start(make_plan(tmp_path, trials=20), AUTO)
    assert again.first_points == (), "nothing is looked for: the study has begun"
    with Study(again) as study:
        study.record_budget()
        for _ in range(3):
            run_trial(study, lambda n: 0.5)
    content = read_study(plan.place)
    assert content is not None and content["trials"] == 20
    assert read_first_points(content) == plan.first_points
    assert [r.origin for r in read_trials(plan.place)[0]] == [*origins(plan), ""]


def test_study_that_was_killed_before_its_first_trial_keeps_its_points(tmp_path: Path) -> None:
    plan = start(make_plan(tmp_path, trials=16), AUTO)[0]
    with killed_launch(plan):
        pass
    write_trials(elsewhere(plan, "folder"), [(1.8, 0.9, TrialState.COMPLETE)])
    again = start(make_plan(tmp_path, trials=16), AUTO)[0]
    assert len(again.first_points) == 3, "the run folder knows more now"
    with Study(again) as study:
        assert study.plan.first_points == plan.first_points
        waiting = stored_trials(plan)
    assert [trial.user_attrs["origin"] for trial in waiting] == origins(plan)
    with Study(start(make_plan(tmp_path, trials=16), NONE)[0]) as study:
        assert study.plan.first_points == ()
        assert stored_trials(plan) == []


def test_other_choice_under_a_study_that_has_begun_is_refused_by_name(tmp_path: Path) -> None:
    with Study(start(make_plan(tmp_path), AUTO)[0]) as study:
        run_trial(study, lambda n: 0.5)
    plan = start(make_plan(tmp_path), NONE)[0]
    with pytest.raises(UserError) as caught:
        Study(plan)
    assert str(caught.value).startswith(
        "study folder/smoke/contrastive was started with warm_start = 'auto', now 'none'; give "
        "--warm-start auto to continue it; or start a new one with another --run-root"
    )
    assert "\n" not in str(caught.value)
    record_plan(plan, trials=0)  # the test of a configuration begins no search


@pytest.mark.parametrize("choice", [AUTO, NONE, WarmStart.PUBLISHED])
def test_study_of_an_earlier_version_continues_with_what_it_had(
    choice: WarmStart, tmp_path: Path
) -> None:
    plan = make_plan(tmp_path, "contrastive+wpm", trials=8)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    forget_start(plan)
    with Study(start(dataclasses.replace(plan, trials=12), choice)[0]) as study:
        study.record_budget()
        run_trial(study, lambda n: 0.5)
    content = read_study(plan.place)
    assert content is not None and content["trials"] == 12
    assert content["identity"]["warm_start"] == "unrecorded"
    assert read_first_points(content) is None
    assert "first_points" not in content


def test_search_after_final_runs_of_a_published_configuration_may_choose(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    record_plan(plan, trials=0)
    (plan.place.folder / "finals" / "0123").mkdir(parents=True)
    with killed_launch(start(plan, AUTO)[0]) as study:
        assert len(stored_trials(study.plan)) == 1
    with Study(start(plan, NONE)[0]) as study:
        assert stored_trials(study.plan) == [], "points of the other launch do not wait any more"
        study.record_budget()
        run_trial(study, lambda n: 0.5)
    content = read_study(plan.place)
    assert content is not None
    assert content["identity"]["warm_start"] == "none"
    assert read_first_points(content) == ()


# The plain twin's best trials


def search_twin(tmp_path: Path, scores: Sequence[float] = (0.2, 0.8, 0.5)) -> StudyPlan:
    plan = start(make_plan(tmp_path, trials=len(scores)), NONE)[0]
    plan = dataclasses.replace(plan, stopping=NO_STOPPING)
    with Study(plan) as study:
        for _ in scores:
            run_trial(study, lambda n: scores[n])
    return plan


def test_twin_begins_with_the_best_trials_of_the_plain_row(tmp_path: Path) -> None:
    plain = search_twin(tmp_path)
    plan, notes = start(make_plan(tmp_path, "contrastive+wpm", trials=8), TWIN)
    assert notes == []
    assert origins(plan) == ["twin trial 1 + thresholds", "twin trial 2 + thresholds"]
    best = read_trials(plain.place)[0][1].parameters
    point = plan.first_points[0].parameters
    assert {name: point[name] for name in best} == best
    assert point["sharpness"] == 32
    assert plan.twin_cost is not None and plan.twin_cost.trials == 3
    assert plan.twin_cost.epochs == 27
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    content = read_study(plan.place)
    assert content is not None
    assert read_twin_cost(content) == plan.twin_cost
    json.dumps(content)
    kept, _ = start(make_plan(tmp_path, "contrastive", trials=8), TWIN)
    assert kept.warm_start == "none", "the plain row continues as it began"


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda plan: None, "no study folder/smoke/contrastive under"),
        (
            lambda plan: write_trials(
                plan.place, [(1.0, 0.5, TrialState.PRUNED)], procedure=2, images={}, weights=""
            ),
            "study folder/smoke/contrastive has no complete trial among its 1",
        ),
    ],
)
def test_twin_without_a_complete_trial_is_refused_in_one_line(
    prepare: Callable[[StudyPlan], object], message: str, tmp_path: Path
) -> None:
    prepare(make_plan(tmp_path))
    with pytest.raises(UserError, match=message) as caught:
        start(make_plan(tmp_path, "contrastive+wpm"), TWIN)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs" / "folder" / "smoke" / "contrastive+wpm").exists()


def test_twin_under_another_protocol_or_outside_of_the_ranges_is_refused(tmp_path: Path) -> None:
    search_twin(tmp_path)
    with pytest.raises(UserError, match=r"contrastive was searched with protocol.max_epochs = "):
        start(make_plan(tmp_path, "contrastive+wpm", max_epochs=7), TWIN)
    plan = make_plan(tmp_path, "contrastive+wpm")
    far = dataclasses.replace(plan.space.searched["pos_margin"], low=5.0, high=6.0)
    space = dataclasses.replace(plan.space, searched={**plan.space.searched, "pos_margin": far})
    message = r"contrastive\+wpm: no trial of folder/smoke/contrastive can be tried here: twin"
    with pytest.raises(UserError, match=message) as caught:
        start(dataclasses.replace(plan, space=space), TWIN)
    assert "\n" not in str(caught.value)


def test_costs_add_up() -> None:
    assert SearchCost(1, 2, 0.5) + SearchCost(3, 4, 0.25) == SearchCost(4, 6, 0.75)


def test_point_with_sampled_parameters_is_no_known_configuration(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, "contrastive+wpm")
    assert plan.first_points == (FirstPoint(plan.space.thresholds, "published thresholds"),)
    record_plan(plan, trials=4)
    content = read_study(plan.place)
    assert content is not None and count_known(content) == 0
