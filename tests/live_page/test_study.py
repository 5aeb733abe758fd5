"""What the page says of one study: its stage, its best trial, its failures and its end."""

import dataclasses
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.support.live_page import end_trial_at, launch_on, set_budget, write_unfinished
from tests.support.searches import draw_parameters, write_course, write_searched
from tests.support.stored import write_final, write_run
from wpm.live_page.study import StudyReader
from wpm.live_page.study_view import Stage
from wpm.records import TrainingFolder, TrialState

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC).timestamp()
PARAMETERS = draw_parameters(1)[0]


def at(seconds: float) -> str:
    return datetime.fromtimestamp(NOON + seconds, UTC).isoformat()


def test_stage_follows_lock_and_budget(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    reader = StudyReader(place)
    assert reader.read().stage is Stage.INTERRUPTED
    with launch_on(place, NOON):
        assert reader.read().stage is Stage.RUNNING
    set_budget(place, 6)
    view = reader.read()
    assert (view.stage, view.budget, len(view.trials)) == (Stage.FINISHED, 6, 6)


def test_best_is_the_complete_trial_of_the_highest_score_with_its_parameters(
    tmp_path: Path,
) -> None:
    place = write_unfinished(tmp_path)
    scores = {n: TrainingFolder(place.trial_folder(n)).read_result() for n in (0, 1, 3, 5)}
    best = max(scores, key=lambda n: scores[n].score)  # type: ignore[union-attr,arg-type,return-value]
    reader = StudyReader(place)
    view = reader.read()
    assert view.best is not None
    assert view.best.number == best
    identity = TrainingFolder(place.trial_folder(best)).read_identity()
    assert view.best.parameters == identity["parameters"]
    write_course(place, 6, {"margin": 9.0}, 0.99)
    write_course(place, 7, {"margin": 8.0}, 0.999, TrialState.PRUNED)  # stopped, so not complete
    better = reader.read().best
    assert better is not None
    assert (better.number, better.score, better.parameters) == (6, 0.99, {"margin": 9.0})


def test_study_without_a_complete_trial_has_no_best(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=2, failed={0: "a", 1: "b"})
    assert StudyReader(place).read().best is None


def test_trials_stand_in_the_order_of_their_end(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    for number, ended in enumerate((60, 20, 50, 10, 40, 30)):
        end_trial_at(place, number, at(ended))
    names = [int(trial.name) for trial in StudyReader(place).read().trials]
    assert names == [3, 1, 5, 4, 2, 0]


def test_end_is_expected_at_the_speed_of_this_launch(tmp_path: Path) -> None:
    """Four of six trials have ended since the launch began, the last after 400 s: 100 s each."""
    place = write_unfinished(tmp_path, budget=10)
    for number, ended in enumerate((-9000, -8000, 100, 150, 200, 400)):
        end_trial_at(place, number, at(ended))
    reader = StudyReader(place)
    assert reader.read().expected_end is None, "no launch works"
    with launch_on(place, NOON):
        assert reader.read().expected_end == NOON + 800
    with launch_on(place, NOON + 500):
        assert reader.read().expected_end is None, "nothing ended since"
    set_budget(place, 6)
    with launch_on(place, NOON):
        assert reader.read().expected_end is None, "no trial is left"


def test_latest_failures_come_with_reason_and_log(tmp_path: Path) -> None:
    failed = {n: f"reason {n}" for n in range(4)}
    place = write_searched(tmp_path, trials=6, failed=failed)
    write_course(place, 6, PARAMETERS, 0.0, TrialState.DIVERGED, reason="loss is nan")
    for number in range(7):
        end_trial_at(place, number, at(number))
    (place.trial_folder(3) / "train.log").write_text("epoch 1\n")
    count, failures = StudyReader(place).read().failures
    assert count == 5
    assert [(f.name, f.state, f.reason, f.log) for f in failures] == [
        ("trial 6", "diverged", "loss is nan", []),
        ("trial 3", "failed", "reason 3", ["epoch 1"]),
        ("trial 2", "failed", "reason 2", []),
    ]


def test_final_runs_are_counted_and_those_at_work_are_shown(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    folder = write_final(place, "aa", 0, 0.5)
    write_run(folder, 1000, 0.6, 0.5, [0.5, 0.5])  # half an hour a fold
    write_run(folder, 1001, None)
    training = TrainingFolder(folder / "seed-1002" / "fold-1")
    training.write_identity({"number": 1, "parameters": PARAMETERS})
    reader = StudyReader(place)
    view = reader.read()
    assert view.tested == 1
    assert view.failures[0] == 2  # with a trial
    assert (view.failures[1][0].name, view.failures[1][0].reason) == (
        "final run, seed-1001", "fold 1: diverged",
    )  # fmt: skip
    assert [running.title for running in view.running] == ["final run, seed-1002, fold-1"]
    assert view.seconds == pytest.approx(6 * 60 + 2 * 1800)
    write_run(folder, 1002, 0.7, 0.6)
    shutil.rmtree(folder / "seed-1000")
    assert reader.read().tested == 1


def test_gpu_time_counts_the_share_of_a_gpu(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    folder = TrainingFolder(place.trial_folder(0))
    result = folder.read_result()
    assert result is not None
    folder.write_result(type(result)(**{**vars(result), "gpus": 0.25}))
    view = StudyReader(place).read()
    assert (view.seconds, view.gpu_seconds) == (360.0, 15.0)


@pytest.mark.parametrize(
    ("epochs", "quiet_for", "is_silent"),
    [(3, 200, False), (3, 400, True), (None, 1000, False), (None, 2000, True)],
)
def test_training_that_stopped_reporting_is_silent(
    tmp_path: Path, epochs: int | None, quiet_for: float, is_silent: bool
) -> None:
    place = write_unfinished(tmp_path)
    score = None if epochs is None else 0.4
    write_course(place, 6, PARAMETERS, score, None, epochs=epochs or 1)
    for path in place.trial_folder(6).iterdir():
        os.utime(path, (NOON, NOON))
    with launch_on(place, NOON):
        view = StudyReader(place).read()
    assert bool(view.silent(NOON + quiet_for)) is is_silent
    assert StudyReader(place).read().silent(NOON + quiet_for) == [], "no launch works on it"


def test_trial_that_waits_at_its_rung_is_not_at_work_and_not_silent(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    write_course(place, 6, PARAMETERS, 0.4, None, epochs=3)
    reader = StudyReader(place)
    with launch_on(place, NOON):
        assert [running.title for running in reader.read().at_work] == ["trial 6"]
        TrainingFolder(place.trial_folder(6)).write_waiting(True)
        view = reader.read()
        assert [running.training.waits for running in view.running] == [True]
        assert (view.at_work, view.silent(NOON + 1e9)) == ([], [])
        TrainingFolder(place.trial_folder(6)).write_waiting(False)
        assert len(reader.read().at_work) == 1


def test_curve_of_folds_that_train_in_two_turns_goes_on(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    write_course(place, 6, PARAMETERS, 0.4, None, epochs=3)
    folder = TrainingFolder(place.trial_folder(6))
    reports = folder.read_reports()
    second = dataclasses.replace(reports[-1], epoch=1, step=21)
    folder.progress.write_reports((*reports, second))
    (running,) = StudyReader(place).read().running
    assert [step for step, _ in running.training.curve] == [1, 2, 3, 21]
    assert running.training.epoch == 1


@pytest.mark.parametrize("content", ["", "{}", '{"sha256": "0", "content": {}}'])
def test_damaged_study_is_named_and_read_again_once_it_is_repaired(
    tmp_path: Path, content: str
) -> None:
    place = write_unfinished(tmp_path)
    path = place.folder / "study.json"
    intact = path.read_text()
    path.write_text(content)
    reader = StudyReader(place)
    view = reader.read()
    assert view.stage is Stage.UNREADABLE
    assert str(path) in view.problems[0]
    path.write_text(intact)
    assert reader.read().stage is Stage.INTERRUPTED


def test_other_study_in_the_same_place_is_read_anew(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path)
    reader = StudyReader(place)
    assert len(reader.read().trials) == 6
    shutil.rmtree(place.folder)
    assert reader.read().stage is Stage.UNREADABLE
    write_searched(tmp_path, "contrastive", 2)
    assert len(reader.read().trials) == 2


def test_study_of_an_older_procedure_says_so(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=2, procedure=1)
    (note,) = StudyReader(place).read().notes
    assert note.startswith("can be read and not continued: procedure 1 of wpm 0.2")
