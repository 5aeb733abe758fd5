"""A loss of the user's own: work carries it, so a worker needs neither its file nor its row's."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from tests.support.tiny import make_plan
from wpm.data.index import DataSource
from wpm.jobs.start import start_job
from wpm.records import Chosen, Outcome, StudyPlace, TrialState, read_trials
from wpm.rows import Row
from wpm.spaces import load_space
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study

OWN = """
from pytorch_metric_learning.losses import ContrastiveLoss

class Heavier(ContrastiveLoss):
    def __init__(self, weight, **options):
        super().__init__(**options)
        self.weight = weight

    def compute_loss(self, *args):
        loss = super().compute_loss(*args)
        loss["pos_loss"]["losses"] = loss["pos_loss"]["losses"] * self.weight
        return loss
"""
ROW = """
loss = "heavier:Heavier"
[search.weight]
low = 1
high = 3
[fixed]
neg_margin = 1.0
"""


@pytest.fixture(params=["mine", "mine+wpm"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> StudyPlan:
    """A study whose row and loss are in a folder that is gone once it is planned."""
    rows = tmp_path / "rows"
    shutil.copytree("search_spaces", rows)
    (rows / "heavier.py").write_text(OWN)
    (rows / "mine.toml").write_text(ROW)
    space = load_space(Row.parse(request.param), rows)
    shutil.rmtree(rows)
    place = StudyPlace(tmp_path / "runs", "folder", "smoke", space.row)
    return dataclasses.replace(
        make_plan(tmp_path, max_epochs=1, iterations_per_epoch=1), space=space, place=place
    )


def test_trial_trains_without_the_files_of_its_row_and_loss(plan: StudyPlan) -> None:
    with Study(plan) as study:
        asked = study.ask()
        assert asked is not None
        job = start_job(json.loads(json.dumps(asked[1])))
        step = job.step()
        job.close()
    assert isinstance(step.result, Outcome)
    assert step.result.state is TrialState.COMPLETE, step.result.reason
    ((record,), problems) = read_trials(plan.place)
    assert not problems
    described = record.identity["config"]["loss"]
    assert described["class"] == "heavier:Heavier"
    assert described["modules"]["heavier"].keys() == {"sha256"}


def test_final_run_carries_the_loss_too(plan: StudyPlan, tmp_path: Path) -> None:
    final = FinalPlan(
        place=plan.place,
        protocol=plan.protocol,
        parameters=plan.space.lowest(),
        chosen=Chosen(trial=0, score=0.5),
        source=DataSource("folder", tmp_path / "images", tmp_path / "work"),
        pixel_cache=plan.pixel_cache,
        runs=1,
        loss=plan.space.loss,
    )
    with FinalRunsWork([final], lambda line: None) as work:
        handed = work.next_work()
        assert handed is not None
        job = start_job(json.loads(json.dumps(handed.payload)))
        step = job.step()
        job.close()
    assert isinstance(step.result, Outcome)
    assert step.result.state is TrialState.COMPLETE, step.result.reason
