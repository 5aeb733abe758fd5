"""A study under a split that the user gives: its test, its footnotes, and what is refused."""

import dataclasses
import shutil
from pathlib import Path

import pytest

from analysis.embed import main as embed
from analysis.studies.fairness import describe_split
from analysis.studies.row_results import read_row
from tests.support.final_runs import drain, final_plan
from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import run_trial
from wpm.data.datasets import load_index
from wpm.data.halves import divide_images
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.errors import UserError
from wpm.records import read_finals
from wpm.studies.best_trials import check_same_study
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan, record_plan
from wpm.studies.study import Study


def write_split(tmp_path: Path, of_test: str = "23") -> None:
    paths = sorted((tmp_path / "images").glob("*/*.png"))
    rows = [
        f"{path.relative_to(tmp_path / 'images')},{'test' if path.stem in of_test else 'trainval'}"
        for path in paths
    ]
    (tmp_path / "split.csv").write_text("\n".join(["image,part", *rows]))


def source(tmp_path: Path) -> DataSource:
    return DataSource(
        "folder", tmp_path / "images", tmp_path / "work",
        split=str(tmp_path / "split.csv"), same_classes=True,
    )  # fmt: skip


def own_plan(tmp_path: Path) -> StudyPlan:
    plan = make_plan(tmp_path, trials=1)
    halves = divide_images(load_index(source(tmp_path)), source(tmp_path), plan.protocol.folds)
    cache = build_pixel_cache(halves.trainval, plan.protocol.resize, tmp_path / "work")
    return dataclasses.replace(
        plan, pixel_cache=cache, images={"pixels": cache.name}, split=halves.split
    )


@pytest.fixture
def searched(tmp_path: Path) -> StudyPlan:
    """A study of one trial, on images of which one to train on is in the test again."""
    root = make_image_folder(tmp_path / "images")
    shutil.copy(root / "class_00" / "0.png", root / "class_05" / "3.png")
    write_split(tmp_path)
    plan = own_plan(tmp_path)
    with Study(plan) as study:
        run_trial(study, lambda n: 0.5)
    return plan


def test_run_is_tested_on_the_other_images_and_the_table_says_so(
    searched: StudyPlan, tmp_path: Path
) -> None:
    final = dataclasses.replace(final_plan(searched, tmp_path, runs=1), source=source(tmp_path))
    with FinalRunsWork([final], lambda line: None) as work:
        drain(work)
    (record,), problems = read_finals(searched.place)
    assert problems == []
    (run,) = record.tested
    assert (run.test_images, run.test_classes) == (32, 16)
    assert run.duplicates["across"] == [["class_00/0.png", "class_05/3.png"]]
    row, _ = read_row(searched.place)
    assert describe_split(row) == [
        "contrastive: tested on other images of classes that were trained on (16 classes, split "
        "split.csv)",
        "contrastive: tested with 1 image to train or validate on too",
    ]
    where = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    data = ["--data-root", str(tmp_path / "images"), "--out", str(tmp_path / "embeddings")]
    assert embed([*where, *data]) == 2
    assert embed([*where, *data, "--split", str(tmp_path / "split.csv")]) == 0


def test_changed_split_is_refused_by_name(searched: StudyPlan, tmp_path: Path) -> None:
    write_split(tmp_path, of_test="01")
    changed = own_plan(tmp_path)
    with pytest.raises(UserError, match=r"was started with split\.sha256 = '.*give --split as"):
        record_plan(changed, trials=1)
    with pytest.raises(UserError, match=r"was searched with split\.sha256 = "):
        check_same_study(
            changed.place, changed.protocol, changed.pixel_cache, "random", changed.split
        )
    final = dataclasses.replace(final_plan(searched, tmp_path, runs=1), source=source(tmp_path))
    with (
        FinalRunsWork([final], lambda line: None) as work,
        pytest.raises(UserError, match="was searched with split"),
    ):
        drain(work)


def test_study_without_a_split_has_the_identity_of_before(study_plan: StudyPlan) -> None:
    assert "split" not in study_plan.identity()
    record_plan(study_plan, trials=3)
