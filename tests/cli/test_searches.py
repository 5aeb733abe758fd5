"""Several searches of a row: what a launch plans, searches, trains again and leaves out."""

from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.stored import write_search
from tests.support.tiny import make_image_folder, smoke_protocol
from tests.support.trials import curve
from wpm.cli.arguments import build_parser
from wpm.cli.launch_plan import LaunchPlan, locate_images, make_plan
from wpm.cli.notify import make_notifier
from wpm.cli.options import LaunchOptions
from wpm.cli.prepare import prepare_retraining, prepare_search
from wpm.errors import UserError
from wpm.jobs.job import StepResult
from wpm.records import Outcome, StudyPlace, TrainingFolder, TrialState, find_studies, read_study
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.study_end import ignore_study_end

TWINS = ("contrastive", "contrastive+wpm")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "images")


def plan_launch(tmp_path: Path, *more: str, rows: tuple[str, ...] = TWINS) -> LaunchPlan:
    arguments = ["--dataset", "folder", "--data-root", str(tmp_path / "images"), "--protocol",
                 "smoke", "--run-root", str(tmp_path / "runs"), "--work-root",
                 str(tmp_path / "work"), "--rows", *rows, "--weights", "random", *more]  # fmt: skip
    options = LaunchOptions.from_arguments(build_parser(None).parse_args(arguments))
    spaces = [load_space(Row.parse(row)) for row in rows]
    return make_plan(options, smoke_protocol(), locate_images(options), spaces, "random")


def quiet_console() -> Any:
    return SimpleNamespace(line=lambda text: None, live=lambda describe: None)


def search(plan: LaunchPlan) -> list[str]:
    """Run all trials of a launch without training; return the studies in the order of the work."""
    handed_out = []
    with ExitStack() as stack:
        prepared = prepare_search(plan, quiet_console(), stack, ignore_study_end)
        while prepared is not None and (work := prepared.work.next_work()) is not None:
            handed_out.append(work.study)
            reports = curve(0.5)
            result = Outcome.from_reports(TrialState.COMPLETE, reports)
            TrainingFolder(Path(work.payload["folder"])).write_result(result)
            prepared.work.on_ended(work, StepResult(reports=reports, result=result))
    return handed_out


def test_searches_of_which_the_same_is_true_share_a_line(tmp_path: Path, images: Path) -> None:
    lines: list[str] = []
    console: Any = SimpleNamespace(line=lines.append, live=lambda describe: None)
    plan = plan_launch(tmp_path, "--trials", "4", "--searches", "3")
    with ExitStack() as stack:
        prepare_search(plan, console, stack, ignore_study_end)
    first = "tried first: trial 0 published cub200"
    assert [line for line in lines if "tried" in line] == [
        f"folder/smoke/{row}, search 2, search 3: {first}" for row in TWINS
    ]


def test_every_search_of_a_row_is_a_study(tmp_path: Path) -> None:
    plan = plan_launch(tmp_path, "--searches", "3")
    assert [place.label for place in plan.places] == [
        "contrastive", "contrastive.search-2", "contrastive.search-3",
        "contrastive+wpm", "contrastive+wpm.search-2", "contrastive+wpm.search-3",
    ]  # fmt: skip
    assert [str(space.row) for space in plan.spaces.values()] == [
        *["contrastive"] * 3, *["contrastive+wpm"] * 3,
    ]  # fmt: skip


def test_row_without_training_is_there_once(tmp_path: Path) -> None:
    plan = plan_launch(tmp_path, "--searches", "3", rows=("pretrained", "triplet"))
    assert [place.label for place in plan.places] == [
        "pretrained", "triplet", "triplet.search-2", "triplet.search-3",
    ]  # fmt: skip


def test_more_final_runs_than_a_search_has_seeds_for_are_refused(tmp_path: Path) -> None:
    plan_launch(tmp_path, "--searches", "2", "--runs", "1000")
    plan_launch(tmp_path, "--runs", "1001")
    with pytest.raises(UserError, match=r"1001 final runs .* must be at most 1000"):
        plan_launch(tmp_path, "--searches", "2", "--runs", "1001")


def test_searches_that_are_left_out_are_named(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        write_search(tmp_path / "runs", "contrastive", dataset="folder", protocol="smoke",
                     search=number)  # fmt: skip
    line = "folder/smoke/contrastive: left out searches 2, 3, which --searches 3 takes too"
    assert plan_launch(tmp_path).describe_further() == [line]
    (line,) = plan_launch(tmp_path, "--searches", "2").describe_further()
    assert line == "folder/smoke/contrastive: left out search 3, which --searches 3 takes too"
    assert plan_launch(tmp_path, "--searches", "3").describe_further() == []
    assert plan_launch(tmp_path, rows=("triplet",)).describe_further() == []


def test_searches_run_side_by_side_with_seeds_that_twins_share(
    tmp_path: Path, images: Path
) -> None:
    order = search(plan_launch(tmp_path, "--searches", "2", "--trials", "2", "--seed", "5"))
    names = [place.name for place in find_studies(tmp_path / "runs")]
    assert sorted(order[:4]) == sorted(order[4:]) == sorted(names)
    seeds = {place.label: _identity(place)["seed"] for place in find_studies(tmp_path / "runs")}
    assert seeds == {
        "contrastive": 5, "contrastive.search-2": 6,
        "contrastive+wpm": 5, "contrastive+wpm.search-2": 6,
    }  # fmt: skip


def test_second_search_tries_what_the_first_search_of_the_next_seed_tries(
    tmp_path: Path, images: Path
) -> None:
    rows = ("contrastive",)
    search(plan_launch(tmp_path, "--searches", "2", "--trials", "2", rows=rows))
    first, second = map(_parameters, find_studies(tmp_path / "runs"))
    assert first != second
    other = plan_launch(
        tmp_path, "--seed", "1", "--trials", "2", "--run-root", str(tmp_path / "other"), rows=rows
    )
    search(other)
    assert [_parameters(place) for place in other.places] == [second]


def test_later_launch_adds_searches_and_leaves_finished_ones(tmp_path: Path, images: Path) -> None:
    rows = ("contrastive",)
    assert search(plan_launch(tmp_path, "--trials", "1", rows=rows)) == ["folder/smoke/contrastive"]
    added = search(plan_launch(tmp_path, "--trials", "1", "--searches", "2", rows=rows))
    assert added == ["folder/smoke/contrastive.search-2"]
    again = search(plan_launch(tmp_path, "--trials", "2", rows=rows))
    assert again == ["folder/smoke/contrastive"], "search 2 keeps its budget"


def test_best_of_every_search_is_trained_again_with_seeds_of_its_own(
    tmp_path: Path, images: Path
) -> None:
    flags = ("--searches", "2", "--trials", "1")
    search(plan_launch(tmp_path, *flags))
    plan = plan_launch(tmp_path, *flags, "--best-only", "--runs", "2")
    trained = set()
    with ExitStack() as stack:
        prepared = prepare_retraining(plan, quiet_console(), stack, ignore_study_end)
        assert prepared is not None
        while (work := prepared.work.next_work()) is not None:
            trained.add((work.study, work.payload["config"]["seed"]))
    where = "folder/smoke/contrastive"
    assert trained == {
        (f"{where}", 1000), (f"{where}", 1001),
        (f"{where}.search-2", 2000), (f"{where}.search-2", 2001),
        (f"{where}+wpm", 1000), (f"{where}+wpm", 1001),
        (f"{where}+wpm.search-2", 2000), (f"{where}+wpm.search-2", 2001),
    }  # fmt: skip


def test_search_that_is_missing_or_unfinished_is_refused_by_name(
    tmp_path: Path, images: Path
) -> None:
    rows = ("contrastive",)
    search(plan_launch(tmp_path, "--trials", "1", rows=rows))
    plan = plan_launch(tmp_path, "--searches", "2", "--best-only", rows=rows)
    with ExitStack() as stack, pytest.raises(UserError, match=r"no study .*contrastive\.search-2"):
        prepare_retraining(plan, quiet_console(), stack, ignore_study_end)
    write_search(tmp_path / "runs", "contrastive", budget=9, dataset="folder", protocol="smoke",
                 search=2)  # fmt: skip
    with (
        ExitStack() as stack,
        pytest.raises(
            UserError, match=r"contrastive\.search-2 is unfinished: 4 of 9 .*--allow-unfinished"
        ),
    ):
        prepare_retraining(plan, quiet_console(), stack, ignore_study_end)


def test_command_is_told_the_names_of_all_searches(tmp_path: Path) -> None:
    plan = plan_launch(tmp_path, "--searches", "2", "--notify", "true",
                       rows=("pretrained", "triplet"))  # fmt: skip
    notifier = make_notifier(plan.options)
    assert notifier._always["WPM_STUDIES"] == (
        "folder/pretrained folder/triplet folder/triplet.search-2"
    )


def _identity(place: StudyPlace) -> dict[str, Any]:
    study = read_study(place)
    assert study is not None
    identity: dict[str, Any] = study["identity"]
    return identity


def _parameters(place: StudyPlace) -> list[dict[str, float]]:
    return [
        TrainingFolder(place.trial_folder(number)).read_identity()["parameters"]
        for number in range(2)
    ]
