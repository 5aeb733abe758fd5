"""A disk fills up, in one process: errors name the file, and nothing is half written or lost."""

import os
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.final_runs import final_plan, finish_work
from tests.support.tiny import make_image_folder, make_plan, smoke_protocol, trainval_pixels
from tests.support.training_jobs import finish, make_job, outcome_of, scores
from tests.support.trials import stored_trials
from wpm.cli.console import log_to_file
from wpm.data.pixels import Pixels
from wpm.errors import StorageError
from wpm.files import append_line, hold_lock, write_json
from wpm.jobs.start import start_job
from wpm.jobs.work import Decision
from wpm.records import Outcome, ScoredRun, TrainingFolder, TrialState, read_finals, read_trials
from wpm.studies.final_plan import FinalPlan
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study

RECORDS = ("trial.json", "reports.json", "checkpoint-1.pt")
FULL = r"cannot be written \(File too large\); free space.*, then give the same command again"


@contextmanager
def largest_file(size: int | None) -> Iterator[None]:
    """Let no file of this process grow beyond a size; a write that would is cut short."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def leftovers(root: Path) -> list[str]:
    """Return files that a writer should have removed."""
    return [str(path) for path in root.rglob(".*") if path.is_file()]


@pytest.mark.parametrize("size", [0, 100, 50_000])
def test_full_disk_during_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """A thread writes it; the training ends at its next step."""
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "full")
    job.step()
    job.close()
    folder = tmp_path / "full" / "training"
    job = make_job(tmp_path / "full")
    assert job.step().is_history
    before = {p.name: p.read_bytes() for p in folder.iterdir() if p.name in RECORDS}
    assert len(before) == len(RECORDS)
    monkeypatch.setattr("wpm.jobs.saving.LEAST_S", 0.0)  # before every step
    monkeypatch.setattr("wpm.jobs.saving.MOST_LOST_S", 0.0)
    with largest_file(size), pytest.raises(StorageError, match=rf"checkpoint-1-\d\.pt: {FULL}"):
        job.step()
    job.close()
    assert leftovers(folder) == []
    assert {name: (folder / name).read_bytes() for name in before} == before
    assert len(list(folder.glob("*checkpoint-*"))) == 1
    resumed = finish(make_job(tmp_path / "full"))
    assert scores(resumed[-1]) == scores(whole[-1])


def test_full_disk_when_a_training_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Models and checkpoints fit on the disk, the record of the result does not."""
    job = make_job(tmp_path, export=True)
    folder = TrainingFolder(tmp_path / "training")
    write = TrainingFolder.write_result

    def fill_up(training: TrainingFolder, result: object) -> None:
        with largest_file(20):
            write(training, result)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(TrainingFolder, "write_result", fill_up)
        with pytest.raises(StorageError, match=rf"result\.json: {FULL}"):
            finish(job)
    job.close()
    assert folder.read_result() is None
    assert leftovers(tmp_path / "training") == []
    (last,) = finish(make_job(tmp_path, export=True))[-1:]
    assert outcome_of(last).state == TrialState.COMPLETE
    assert len(outcome_of(last).models) == 4


@pytest.mark.parametrize("size", [0, 1_000, 6_000, 12_800])
def test_full_disk_while_pixels_are_built(tmp_path: Path, size: int) -> None:
    """The disk has no space for the digests, then for the pixels, then for their description."""
    make_image_folder(tmp_path / "images")
    whole = trainval_pixels(tmp_path / "images", tmp_path / "whole", smoke_protocol())
    work = tmp_path / "work"
    with largest_file(size), pytest.raises(StorageError, match=r"cannot be written \(File too l"):
        trainval_pixels(tmp_path / "images", work, smoke_protocol())
    assert not list(work.glob("pixels/folder-*/meta.json"))
    assert leftovers(work) == []
    folder = trainval_pixels(tmp_path / "images", work, smoke_protocol())
    assert (folder / "pixels.bin").read_bytes() == (whole / "pixels.bin").read_bytes()


def test_error_of_the_system_is_not_the_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a disk vanishes under the pixels, the trial has not failed."""
    job = make_job(tmp_path)

    def vanish(pixels: Pixels, folder: Path) -> None:
        raise OSError(116, "Stale file handle", str(folder / "pixels.bin"))

    with monkeypatch.context() as patch:
        patch.setattr(Pixels, "__init__", vanish)
        with pytest.raises(StorageError, match=r"pixels\.bin: cannot be .* \(Stale file handle\)"):
            job.step()
    assert TrainingFolder(tmp_path / "training").read_result() is None
    assert finish(job)[-1].result is not None


def test_full_disk_during_a_line_of_a_log_of_accesses(tmp_path: Path) -> None:
    path = tmp_path / "test_access.jsonl"
    append_line(path, "one")
    with largest_file(6), pytest.raises(StorageError, match=r"jsonl: cannot be written"):
        append_line(path, "two, and more")
    append_line(path, "three")
    assert path.read_text() == "one\nthree\n"


def test_lock_is_held_on_a_full_disk(tmp_path: Path) -> None:
    """Only the name of the lock's holder cannot be written."""
    with largest_file(0), hold_lock(tmp_path / "lock", wait_s=0, what="x"):
        pass


def test_log_on_a_full_disk_hides_no_error(tmp_path: Path) -> None:
    """Lines that do not fit are dropped; the error that ends the launch is still raised."""
    with (
        pytest.raises(StorageError, match="the real one"),
        largest_file(10),
        log_to_file(tmp_path / "logs" / "launch.log"),
    ):
        print("something long that a library prints")
        raise StorageError("the real one")


def test_log_that_cannot_be_begun_is_named(tmp_path: Path) -> None:
    (tmp_path / "logs").touch()
    log = tmp_path / "logs" / "launch.log"
    with pytest.raises(StorageError, match=r"launch\.log: cannot be written"), log_to_file(log):
        pass


# Searches and final runs from start to end, on disks that are full at random moments

Sizes = Callable[[], int | None]


def at_random(rng: random.Random, share: float) -> Sizes:
    """Return a function that draws whether the disk is full at an action, and what still fits."""
    return lambda: int(10 ** rng.uniform(0, 5.5)) if rng.random() < share else None


def search(plan: StudyPlan, sizes: Sizes) -> bool:
    """Run trials one after another as a launch does; return whether it ran to its end."""
    try:
        with Study(plan) as study:
            while True:
                with largest_file(sizes()):
                    asked = study.ask()
                if asked is None:
                    return True
                run_one(study, *asked, sizes)
    except StorageError as error:
        assert "cannot be written (File too large); free space" in str(error)
        assert "\n" not in str(error)
        return False


def run_one(study: Study, number: int, payload: dict[str, object], sizes: Sizes) -> None:
    job = start_job(payload)
    try:
        while True:
            with largest_file(sizes()):
                step = job.step()
            with largest_file(sizes()):
                if step.result is not None:
                    assert isinstance(step.result, Outcome)
                    study.record_ended(number, step.result, step.reports)
                    return
                if study.report(number, step.reports) is Decision.STOP:
                    study.record_stopped(number, step.reports)
                    return
    finally:
        job.close()


def test_search_on_disks_that_fill_up_at_random(tmp_path: Path) -> None:
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    wanted = int(os.environ.get("WPM_FAULT_TRIALS", "8"))
    plan = make_plan(tmp_path, trials=wanted, max_epochs=6)
    sizes = at_random(random.Random(seed), share=0.25)
    launches = 1
    ended: dict[Path, Outcome] = {}
    while not search(plan, sizes):
        launches += 1
        assert leftovers(plan.place.folder) == []
        records, problems = read_trials(plan.place, with_reports=True)
        assert problems == []
        for record in records:
            if record.result is not None:
                when = ended.setdefault(record.folder, record.result)
                assert when == record.result, "run twice"
    print(f"seed {seed}: {wanted} trials, {launches} launches")
    assert launches > wanted / 2, "hardly any disk was full"
    records, _ = read_trials(plan.place, with_reports=True)
    assert len(records) == wanted
    for record in records:
        assert record.state != TrialState.RUNNING
        assert record.state != TrialState.FAILED, "a full disk failed a trial"
        epochs = [report.epoch for report in record.reports]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch was lost or repeated"
    with Study(plan):  # It adopts what the last launch left.
        known = {trial.number: trial.intermediate_values for trial in stored_trials(plan)}
    for record in records:
        reported = {r.epoch: r.best_map_at_r for r in record.reports}
        assert known[record.number] == reported


def finals(plan: FinalPlan, sizes: Sizes) -> bool:
    """Run final runs one after another as a launch does; return whether they ran to their end."""
    try:
        with FinalRunsWork([plan], lambda line: None) as source:
            while True:
                with largest_file(sizes()):
                    work = source.next_work()
                if work is None:
                    return True
                with largest_file(sizes()):
                    finish_work(source, work)
    except StorageError as error:
        assert "cannot be written (File too large); free space" in str(error)
        return False


def test_final_runs_on_disks_that_fill_up_at_random(study_plan: StudyPlan, tmp_path: Path) -> None:
    seed = int(os.environ.get("WPM_FAULT_SEED", "0"))
    plan = final_plan(study_plan, tmp_path, runs=1)
    assert finals(plan, lambda: None)
    ((undisturbed,),) = [final.runs for final in read_finals(plan.place)[0]]
    (tmp_path / "runs").rename(tmp_path / "before")
    with Study(study_plan):  # writes the study without trials: final runs need no more
        pass
    sizes, launches = at_random(random.Random(seed), share=0.7), 1
    while not finals(plan, sizes):
        launches += 1
        assert leftovers(plan.folder) == []
    print(f"seed {seed}: {launches} launches")
    assert launches > 3, "hardly any disk was full"
    ((result,),) = [final.runs for final in read_finals(plan.place)[0]]
    assert isinstance(undisturbed, ScoredRun)
    assert isinstance(result, ScoredRun)
    assert result.separated == undisturbed.separated
    assert result.concatenated == undisturbed.concatenated


def test_record_that_cannot_be_written_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "study.json"
    write_json(path, {"trials": 1})
    before = path.read_bytes()
    with largest_file(30), pytest.raises(StorageError, match=rf"study\.json: {FULL}"):
        write_json(path, {"trials": 2})
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["study.json"]
