"""A training is saved while it continues: seldom enough, often enough, and exactly."""

import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.training_jobs import finish, make_job, outcome_of, scores
from wpm.errors import StorageError
from wpm.files import read_json, write_json
from wpm.jobs import saving
from wpm.jobs.job import InterruptedJobError
from wpm.jobs.saving import LEAST_S, MOST_LOST_S, SHARE, find_interval
from wpm.jobs.train_job import TrainJob
from wpm.records import Outcome, TrainingFolder, TrialState, model_file, saving_share
from wpm.records.progress import Progress
from wpm.training.fold import FoldTraining


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Save before every optimiser step, unless the last checkpoint is still being written."""
    monkeypatch.setattr(saving, "LEAST_S", 0.0)
    monkeypatch.setattr(saving, "MOST_LOST_S", 0.0)


def resume_copy(folder: Path, tmp_path: Path, name: str, export: bool = False) -> TrainJob:
    """Return a job that resumes what is on disk now, as after a kill; the other job lives on."""
    target = tmp_path / name / "training"
    shutil.copytree(folder, target)
    for path in ("images", "work"):
        (tmp_path / name / path).symlink_to(folder.parent / path)
    return make_job(tmp_path / name, export=export)


def wait_for_writer() -> None:
    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()


def checkpoints_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*checkpoint-*"))


# When


@pytest.mark.parametrize(
    ("cost_s", "write_s", "interval_s"),
    [
        (0.001, 0.01, LEAST_S),
        (3.0, 5.0, 3.0 / SHARE),
        (1.0, 60.0, 120.0),
        (29.0, 22.0, MOST_LOST_S - 22.0),
        (100.0, 0.0, MOST_LOST_S),
        (1.0, 700.0, LEAST_S),
    ],
    ids=["cheap", "costly", "slow_disk", "nearly_too_long", "too_costly", "endless"],
)
def test_interval_follows_from_the_cost(cost_s: float, write_s: float, interval_s: float) -> None:
    assert find_interval(cost_s, write_s) == pytest.approx(interval_s)
    if cost_s / SHARE <= MOST_LOST_S - write_s:
        assert cost_s / (cost_s + interval_s) <= SHARE
    if write_s <= MOST_LOST_S - LEAST_S:
        assert interval_s + write_s <= MOST_LOST_S, "what a kill loses"


def test_short_training_writes_no_checkpoint_and_records_what_saving_took(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Progress, "write_checkpoint", None)
    steps = finish(make_job(tmp_path))
    spent = [report.saving_seconds for report in steps[-1].reports]
    assert all(s is not None for s in spent)
    assert spent == sorted(spent)  # type: ignore[type-var]
    assert outcome_of(steps[-1]).saving_seconds == spent[-1]
    share = saving_share([steps[-1].reports])
    assert share is not None
    assert 0 < share < 1
    assert saving_share([[]]) is None


@pytest.mark.usefixtures("often")
def test_position_is_saved_once_and_in_the_middle_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = []
    write = Progress.write_checkpoint

    def note(self: Progress, state: Mapping[str, Any], *args: Any, **options: Any) -> None:
        saved.append((state["epoch"], state["iteration"]))
        write(self, state, *args, **options)

    monkeypatch.setattr(Progress, "write_checkpoint", note)
    assert len(finish(make_job(tmp_path))[-1].reports) == 4
    assert saved == sorted(set(saved)), "one name for two checkpoints"
    assert any(iteration for _, iteration in saved)
    assert (0, 0) not in saved, "there was nothing to save"


# What a kill leaves


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_the_thread_wrote_is_resumed_exactly(tmp_path: Path, steps: int) -> None:
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "cut")
    for _ in range(steps):
        job.step()
    wait_for_writer()
    resumed = resume_copy(tmp_path / "cut" / "training", tmp_path, "killed")
    job.close()
    first = resumed.step()
    assert first.is_history
    assert len(first.reports) == steps
    training = resumed._training
    assert training is not None
    assert training.position > (0, 0), "from the start"
    assert scores(finish(resumed)[-1]) == scores(whole[-1])


def test_history_ahead_of_the_checkpoint_is_kept(tmp_path: Path) -> None:
    """Trained again, epochs may end in other last digits on a GPU: what was reported counts."""
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "cut")
    job.step()
    job.step()
    folder = tmp_path / "cut" / "training"
    assert checkpoints_in(folder) == []
    reports = read_json(folder / "reports.json")
    reports["reports"][1]["best_map_at_r"] += 1e-9
    write_json(folder / "reports.json", reports)
    resumed = resume_copy(folder, tmp_path, "killed")
    job.close()
    steps = finish(resumed)
    assert [len(step.reports) for step in steps] == [2, 3, 4]
    assert [step.is_history for step in steps] == [True, False, False]
    (first, second, *rest) = scores(steps[-1])
    assert second == (2, reports["reports"][1]["best_map_at_r"])
    assert [first, *rest] == [scores(whole[-1])[k] for k in (0, 2, 3)]


def test_kill_between_the_last_report_and_the_result_ends_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "cut")

    class KilledError(BaseException):
        pass

    def kill(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(TrainingFolder, "write_result", kill)
        finish(job)
    resumed = resume_copy(tmp_path / "cut" / "training", tmp_path, "killed")
    job.close()
    (only,) = finish(resumed)
    assert outcome_of(only).state == TrialState.COMPLETE, "no driver may stop it for that report"
    assert scores(only) == scores(whole[-1])


@pytest.mark.usefixtures("often")
def test_best_models_survive_a_kill(tmp_path: Path) -> None:
    whole = outcome_of(finish(make_job(tmp_path / "whole", export=True))[-1])
    job = make_job(tmp_path / "cut", export=True)
    for _ in range(3):
        job.step()
    wait_for_writer()
    folder = tmp_path / "cut" / "training"
    assert [name for name in checkpoints_in(folder) if "model" in name]
    resumed = resume_copy(folder, tmp_path, "killed", export=True)
    job.close()
    result = outcome_of(finish(resumed)[-1])
    assert result.models == whole.models
    assert set(result.models) == {model_file(k) for k in range(4)}


# What is written


def test_model_is_written_only_when_it_changed(tmp_path: Path) -> None:
    progress = Progress(tmp_path)
    state = {"epoch": 1, "iteration": 0, "folds": []}
    progress.write_checkpoint({**state, "models": {"0-1": {"w": 1}, "1-1": {"w": 2}}})
    written = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("checkpoint-model-*")}
    assert set(written) == {"checkpoint-model-0-1.pt", "checkpoint-model-1-1.pt"}
    state["epoch"] = 2
    progress.write_checkpoint({**state, "models": {"0-1": {"w": 1}, "1-2": {"w": 3}}})
    again = {p.name: p.stat().st_mtime_ns for p in tmp_path.glob("checkpoint-model-*")}
    assert set(again) == {"checkpoint-model-0-1.pt", "checkpoint-model-1-2.pt"}
    assert again["checkpoint-model-0-1.pt"] == written["checkpoint-model-0-1.pt"]
    _, read = Progress(tmp_path).read()
    assert read is not None
    assert read["models"] == {"0-1": {"w": 1}, "1-2": {"w": 3}}
    assert checkpoints_in(tmp_path) == ["checkpoint-2.pt", *sorted(again)]


def test_trials_of_a_search_keep_no_models(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    training = job._training
    assert training is not None
    assert training.state_dict()["models"] == {}
    job.close()
    assert checkpoints_in(tmp_path / "training") == ["checkpoint-1.pt"]


# The driver's decision


def stop_as_driver(folder: Path) -> int:
    """Write the result as successive halving does; return when."""
    records = TrainingFolder(folder)
    records.write_result(Outcome.from_reports(TrialState.PRUNED, records.read_reports()))
    return (folder / "result.json").stat().st_mtime_ns


@pytest.mark.usefixtures("often")
def test_nothing_is_begun_for_a_trial_that_a_validation_stops(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    job.step()
    wait_for_writer()
    folder = tmp_path / "training"
    position = read_json(folder / "reports.json")["checkpoint"]["file"]
    assert position != "checkpoint-1.pt", "saved after the validation"
    monkeypatch.setattr(Progress, "write_checkpoint", None)
    written = stop_as_driver(folder)
    job.close()
    assert checkpoints_in(folder) == []
    assert (folder / "result.json").stat().st_mtime_ns == written, "ended twice"
    assert read_json(folder / "reports.json")["checkpoint"] is None


class SlowWriter:
    """Lets a thread wait before it writes, until it is released."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.release = threading.Event()
        self.begun: list[tuple[int, int]] = []
        write = Progress._save

        def wait(
            progress: Progress, name: str, content: Any, is_cancelled: Callable[[], bool]
        ) -> dict[str, str]:
            self.begun.append((content["epoch"], content["iteration"]))
            if threading.current_thread() is not threading.main_thread():
                while not self.release.wait(0.01) and not is_cancelled():
                    pass
            return write(progress, name, content, is_cancelled)

        monkeypatch.setattr(Progress, "_save", wait)


@pytest.mark.usefixtures("often")
def test_trial_stopped_while_a_checkpoint_is_written_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWriter(monkeypatch)
    job = make_job(tmp_path)
    job.step()
    assert len(slow.begun) == 1, "while one is being written there is no other"
    written = stop_as_driver(tmp_path / "training")
    job.close()
    assert checkpoints_in(tmp_path / "training") == []
    assert (tmp_path / "training" / "result.json").stat().st_mtime_ns == written


@pytest.mark.usefixtures("often")
def test_checkpoint_that_is_complete_after_the_driver_stopped_the_trial_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = SlowWriter(monkeypatch)
    job = make_job(tmp_path)
    job.step()
    stop_as_driver(tmp_path / "training")
    slow.release.set()
    wait_for_writer()
    job.close()
    folder = TrainingFolder(tmp_path / "training")
    assert checkpoints_in(folder.folder) == []
    assert len(folder.read_reports()) == 1
    folder.check_progress()


def test_suspended_training_is_saved(tmp_path: Path) -> None:
    """A budget is used up: the driver ends the worker, and writes no result."""
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "cut")
    job.step()
    job.step()
    job.close()
    assert checkpoints_in(tmp_path / "cut" / "training") == ["checkpoint-2.pt"]
    resumed = finish(make_job(tmp_path / "cut"))
    assert scores(resumed[-1]) == scores(whole[-1])


def test_suspended_training_on_a_full_disk_keeps_its_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = make_job(tmp_path)
    job.step()

    def refuse(*_: object, **__: object) -> None:
        raise StorageError("checkpoint-1.pt: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "write_checkpoint", refuse)
        job.close()
    assert "the last checkpoint counts: checkpoint-1.pt: cannot be written" in caplog.text
    assert len(finish(make_job(tmp_path))[-1].reports) == 4, "the lock is free"


# Signals, errors and the end


@pytest.mark.usefixtures("often")
def test_interrupted_training_waits_for_the_thread_and_saves_the_newest_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = finish(make_job(tmp_path / "whole"))
    slow = SlowWriter(monkeypatch)
    job = make_job(tmp_path / "cut")
    drawn = 0
    draw = FoldTraining.draw_batch

    def interrupt_at_seventh(fold: FoldTraining) -> Any:
        nonlocal drawn
        drawn += 1
        if drawn == 7:
            job.interrupt()
            threading.Timer(0.05, slow.release.set).start()
        return draw(fold)

    with monkeypatch.context() as patch, pytest.raises(InterruptedJobError):
        patch.setattr(FoldTraining, "draw_batch", interrupt_at_seventh)
        job.step()
    job.close()
    assert slow.begun == [(0, 1), (0, 7)]
    assert checkpoints_in(tmp_path / "cut" / "training") == ["checkpoint-0-7.pt"]
    assert scores(finish(make_job(tmp_path / "cut"))[-1]) == scores(whole[-1])


@pytest.mark.usefixtures("often")
@pytest.mark.parametrize("error", [StorageError("x.pt: cannot be written"), RuntimeError("odd")])
def test_error_of_the_thread_is_raised_at_the_next_optimiser_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    job = make_job(tmp_path)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "_save", fail)
        if isinstance(error, StorageError):
            with pytest.raises(StorageError, match=r"x\.pt: cannot be written"):
                job.step()
        else:
            result = outcome_of(job.step())
            assert result.state == TrialState.FAILED
            assert result.reason.startswith("RuntimeError: odd")
    job.close()
    has_failed = TrainingFolder(tmp_path / "training").read_result() is not None
    assert has_failed == isinstance(error, RuntimeError), "a disk's error is not the trial's"


@pytest.mark.usefixtures("often")
def test_end_of_a_training_does_not_wait_for_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    SlowWriter(monkeypatch)  # and never released
    assert outcome_of(finish(make_job(tmp_path))[-1]).state == TrialState.COMPLETE
    assert not [t for t in threading.enumerate() if t.name == "checkpoint"]
    assert checkpoints_in(tmp_path / "training") == []
