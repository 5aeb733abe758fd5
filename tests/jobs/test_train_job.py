"""Training in steps resumes anywhere, fails with a reason, and runs once at a time in a folder."""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import make_config, make_pixels
from tests.support.training_jobs import finish, make_job, outcome_of, scores
from wpm import __version__
from wpm.errors import DamagedFileError, LockedError, UserError
from wpm.files import read_json, write_json
from wpm.jobs.failures import is_broken_gpu
from wpm.jobs.job import BrokenGpuError, InterruptedJobError
from wpm.jobs.payloads import identify, training_payload
from wpm.jobs.start import start_job
from wpm.jobs.train_job import TrainJob
from wpm.records import (
    Outcome,
    TrainingFolder,
    TrialState,
    model_file,
)
from wpm.records.training_log import LOG_NAME
from wpm.retrieval import RetrievalScores
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.fold import DivergedError, FoldTraining


def test_steps_report_every_validation_and_end_complete(tmp_path: Path) -> None:
    steps = finish(make_job(tmp_path))
    assert [len(s.reports) for s in steps] == [1, 2, 3, 4]
    result = outcome_of(steps[-1])
    assert result is not None
    assert result.state == TrialState.COMPLETE
    assert result.score == steps[-1].reports[-1].best_map_at_r
    assert result.epochs == 4
    assert len(result.fold_scores) == 4


def test_checkpoint_is_gone_once_ended_and_history_stays(tmp_path: Path) -> None:
    finish(make_job(tmp_path))
    folder = tmp_path / "training"
    assert not list(folder.glob("checkpoint-*"))
    assert len(TrainingFolder(folder).read().reports) == 4


@pytest.mark.parametrize("steps_before", [1, 2, 3])
def test_dropped_job_resumes_from_its_checkpoint(tmp_path: Path, steps_before: int) -> None:
    whole = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "cut")
    for _ in range(steps_before):
        job.step()
    job.close()
    resumed = finish(make_job(tmp_path / "cut"))
    # The first step only repeats the history, for a study that may have lost some of it.
    assert len(resumed[0].reports) == steps_before
    assert scores(resumed[-1]) == scores(whole[-1])


def test_step_after_the_end_repeats_the_result(tmp_path: Path) -> None:
    result = outcome_of(finish(make_job(tmp_path))[-1])
    assert make_job(tmp_path).step().result == result


def test_leftovers_of_a_kill_while_saving_do_no_harm(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    job.close()
    folder = tmp_path / "training"
    (folder / ".checkpoint-2.pt.1.2").write_bytes(b"half")  # killed while writing
    (folder / "checkpoint-2.pt").write_bytes(b"whole, but its history was not written yet")
    assert len(finish(make_job(tmp_path))[0].reports) == 1
    assert not list(folder.glob("*checkpoint-*"))
    assert not list(folder.glob(".checkpoint-*"))


def test_damaged_checkpoint_is_refused_by_name(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    job.close()
    (checkpoint,) = (tmp_path / "training").glob("checkpoint-*")
    data = bytearray(checkpoint.read_bytes())
    data[len(data) // 2] ^= 1
    checkpoint.write_bytes(bytes(data))
    with pytest.raises(UserError, match=r"checkpoint-1.pt: checkpoint is damaged .* delete"):
        make_job(tmp_path).step()
    assert TrainingFolder(tmp_path / "training").read_result() is None, "nothing was lost"


def test_checkpoint_of_another_format_is_refused_with_its_version(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    job.close()
    path = tmp_path / "training" / "reports.json"
    write_json(path, {**read_json(path), "format": 99, "wpm": "7.0"})
    with pytest.raises(UserError, match=r"reports\.json: written by wpm 7\.0 in record format 99"):
        make_job(tmp_path).step()
    assert TrainingFolder(tmp_path / "training").read_result() is None, "the trial has not failed"


def test_checkpoint_without_a_format_is_of_the_first(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.step()
    job.close()
    path = tmp_path / "training" / "reports.json"
    content = read_json(path)
    assert content["format"] == 1
    del content["format"], content["wpm"]
    write_json(path, content)
    assert finish(make_job(tmp_path))[-1].result is not None


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state["folds"][0].pop("batch_generator"),
        lambda state: state["folds"].pop(),
        lambda state: state["folds"][0]["model"].popitem(),
        lambda state: state["folds"][0]["report"].update(loudness=1.0),
    ],
    ids=["without_a_part", "of_other_folds", "of_another_model", "with_more"],
)
def test_checkpoint_that_does_not_fit_is_refused_with_its_version(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    """The checkpoint is complete but of other code; the trial has not failed for that."""
    job = make_job(tmp_path)
    job.step()
    job.close()
    folder = TrainingFolder(tmp_path / "training")
    reports, state = folder.read_progress()
    assert state is not None
    assert state["wpm"] == __version__
    change(state)
    folder.write_progress(reports, state)
    job = make_job(tmp_path)
    match = rf"written by wpm {__version__}, does not fit wpm .*; use that version, or delete rep"
    with pytest.raises(DamagedFileError, match=match) as caught:
        job.step()
    job.close()
    assert "\n" not in str(caught.value)
    assert folder.read_result() is None, "the trial has not failed"
    (tmp_path / "training" / "reports.json").unlink()  # as the message says
    assert finish(make_job(tmp_path))[-1].result is not None


def test_models_are_compared_with_the_result(tmp_path: Path) -> None:
    result = outcome_of(finish(make_job(tmp_path, export=True))[-1])
    assert result is not None
    folder = TrainingFolder(tmp_path / "training")
    assert set(result.models) == {model_file(k) for k in range(4)}
    data = folder.read_model(model_file(0))
    (folder.folder / model_file(0)).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=r"fold-0\.safetensors: model is damaged"):
        folder.read_model(model_file(0))
    # Results of the first versions say nothing of models.
    path = folder.folder / "result.json"
    write_json(path, {k: v for k, v in read_json(path).items() if k != "models"})
    assert len(folder.read_model(model_file(0))) == len(data)


def test_divergence_ends_with_a_score_of_0_and_its_reason(tmp_path: Path) -> None:
    config = make_config()
    parameters = {"pos_margin": 0.0, "neg_margin": 1e39}
    bad = TrainingConfig(Row("contrastive"), config.protocol, parameters, 0, (0, 1, 2, 3))
    result = outcome_of(finish(make_job(tmp_path, bad))[-1])
    assert result is not None
    assert (result.state, result.score, result.epochs) == (TrialState.DIVERGED, 0.0, 0)
    assert result.reason == "loss of fold 0 is inf in epoch 1"
    assert TrainingFolder(tmp_path / "training").read_result() == result
    log = (tmp_path / "training" / LOG_NAME).read_text().splitlines()
    assert log[-1].endswith("diverged loss of fold 0 is inf in epoch 1")


def test_training_that_diverges_late_scores_0_whatever_it_had_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    reached = job.step().reports[-1].best_map_at_r
    assert reached > 0

    def diverge(fold: FoldTraining, epoch: int, pause: Callable[[], bool]) -> bool:
        raise DivergedError(f"loss of fold {fold.position} is inf in epoch {epoch}")

    monkeypatch.setattr(FoldTraining, "train_epoch", diverge)
    result = outcome_of(job.step())
    job.close()
    assert (result.state, result.score, result.epochs) == (TrialState.DIVERGED, 0.0, 1)
    assert sum(result.fold_scores) / 4 == pytest.approx(reached), "the record keeps what it was"
    assert not list((tmp_path / "training").glob("checkpoint-*"))


def test_kill_between_epoch_0_and_1_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted while the untrained model is validated, and killed right after."""
    config = make_config(validate_untrained=True)
    whole = finish(make_job(tmp_path / "whole", config))
    asked: list[int] = []
    score = FoldTraining._score

    def interrupt(fold: FoldTraining, epoch: int) -> RetrievalScores:
        asked.append(epoch)
        if len(asked) == stop:
            job.interrupt()
        return score(fold, epoch)

    monkeypatch.setattr(FoldTraining, "_score", interrupt)
    for stop in (1, 3):  # while the first fold validates, and the second after the first trained
        asked.clear()
        job = make_job(tmp_path / f"cut-{stop}", config)
        with pytest.raises(InterruptedJobError):
            job.step()
        job.close()
        assert asked == [0, 1, 0][:stop]
        steps = finish(make_job(tmp_path / f"cut-{stop}", config))
        assert scores(steps[-1]) == scores(whole[-1])
        # Only a kill before the very first step, which saves nothing, repeats a validation.
        assert asked.count(0) == (5 if stop == 1 else 4)
    untrained = [f.untrained_map_at_r for f in steps[-1].reports[-1].folds]
    assert untrained == [f.untrained_map_at_r for f in whole[-1].reports[-1].folds]
    assert [report.epoch for report in steps[-1].reports] == [1, 2, 3, 4], "none of epoch 0"


def test_collapse_ends_as_a_divergence_with_its_reason(tmp_path: Path) -> None:
    job = make_job(tmp_path, make_config())
    job.step()
    assert job._training is not None
    for parameter in job._training.folds[0].model.parameters():
        parameter.data.zero_()  # a dead network: all images get the embedding 0
    result = outcome_of(finish(job)[-1])
    assert result is not None
    assert (result.state, result.score) == (TrialState.DIVERGED, 0.0)
    assert result.reason.startswith("embeddings of fold 0 collapsed in epoch 2: those of")


def test_training_whose_gpu_broke_is_resumed_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = finish(make_job(tmp_path / "whole"))
    job = make_job(tmp_path / "broken")
    job.step()

    def break_down(*args: object) -> bool:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(FoldTraining, "train_epoch", break_down)
        with pytest.raises(BrokenGpuError, match="illegal memory access"):
            job.step()
    job.close()
    folder = TrainingFolder(tmp_path / "broken" / "training")
    assert folder.read().result is None
    assert "break_down" in (folder.folder / "error.log").read_text()
    resumed = finish(make_job(tmp_path / "broken"))
    assert scores(resumed[-1]) == scores(unbroken[-1])


@pytest.mark.parametrize(
    ("error", "is_broken"),
    [
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), True),
        (torch.OutOfMemoryError("CUDA out of memory"), False),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("CUDA error"), False),
    ],
)
def test_errors_after_which_a_gpu_is_of_no_use(error: Exception, is_broken: bool) -> None:
    assert is_broken_gpu(error) == is_broken


def test_exception_of_a_loss_fails_by_name_and_leaves_a_traceback(tmp_path: Path) -> None:
    config = make_config()
    bad = TrainingConfig(Row("contrastive"), config.protocol, {"pos_margin": 0.0}, 0, (0,))
    result = outcome_of(finish(make_job(tmp_path, bad))[-1])
    assert result is not None
    assert result.reason == "UserError: row contrastive needs a value for neg_margin"
    assert "Traceback" in (tmp_path / "training" / "error.log").read_text()


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't\nallocate"), "out of memory: DefaultCPU"),
        (
            torch.OutOfMemoryError("CUDA out of memory.\nTried"),
            "out of GPU memory: CUDA out of mem",
        ),
        (
            ZeroDivisionError("of my own\nloss"),
            "ZeroDivisionError: of my own loss (test_train_job.py, l",
        ),
        (KeyError("x" * 1000), "KeyError: 'xxx"),
    ],
)
def test_what_goes_wrong_in_a_loss_is_named_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("wpm.losses.PlainLoss.forward", fail)
    result = outcome_of(finish(make_job(tmp_path))[-1])
    assert result is not None
    assert result.state == TrialState.FAILED
    assert result.reason.startswith(reason)
    assert "\n" not in result.reason
    assert len(result.reason) < 400
    assert "in fail" in (tmp_path / "training" / "error.log").read_text()


def steps_until(job: TrainJob, stop: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Continue the job, and interrupt it before optimiser step `stop`."""
    counted = itertools.count()
    plain = FoldTraining.draw_batch

    def draw(fold: FoldTraining) -> torch.Tensor:
        if next(counted) == stop:
            job.interrupt()
        return plain(fold)

    monkeypatch.setattr(FoldTraining, "draw_batch", draw)
    while True:
        job.step()


IN_LOCKSTEP = make_config()
# Two folds wait for the first one.
ONE_FIRST = make_config(folds=(0, 1, 2), max_epochs=2, first_folds=1)


@pytest.mark.parametrize(
    ("config", "steps", "stop"),
    [
        *((IN_LOCKSTEP, 4 * 16, stop) for stop in (0, 3, 7, 15, 20)),
        # At the start, in and after the last step of the first fold, and among the others'.
        *((ONE_FIRST, 3 * 8, stop) for stop in (0, 7, 8, 12, 22)),
    ],
)
def test_interrupted_job_saves_its_last_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: TrainingConfig, steps: int, stop: int
) -> None:
    whole = finish(make_job(tmp_path / "whole", config))
    job = make_job(tmp_path / "cut", config)
    with monkeypatch.context() as patched, pytest.raises(InterruptedJobError):
        steps_until(job, stop, patched)
    assert job._training is not None
    if config is IN_LOCKSTEP:
        assert job._training.position == divmod(stop + 1, 16), "one step after the signal at most"
    job.close()
    trained = []
    plain = FoldTraining.draw_batch

    def draw(fold: FoldTraining) -> torch.Tensor:
        trained.append(fold.position)
        return plain(fold)

    monkeypatch.setattr(FoldTraining, "draw_batch", draw)
    resumed = finish(make_job(tmp_path / "cut", config))
    assert len(trained) == steps - (stop + 1), "a step was repeated"
    assert scores(resumed[-1]) == scores(whole[-1])
    assert [report.step for report in resumed[-1].reports] == [1, 2, 3, 4]
    assert len(outcome_of(resumed[-1]).fold_scores) == len(config.folds)


def test_complete_trial_has_all_folds_and_a_stopped_one_those_that_it_trained(
    tmp_path: Path,
) -> None:
    config = make_config(max_epochs=2, first_folds=1)
    job = make_job(tmp_path, config)
    step = job.step()
    stopped = Outcome.from_reports(TrialState.PRUNED, step.reports)
    assert (stopped.epochs, len(stopped.fold_scores)) == (1, 1)
    assert step.result is None
    assert job.step().result is None, "the first fold has finished, and three have not begun"
    complete = outcome_of(finish(job)[-1])
    assert complete.state is TrialState.COMPLETE
    assert (complete.epochs, len(complete.fold_scores)) == (4, 4)
    log = (tmp_path / "training" / LOG_NAME).read_text()
    assert "the first folds have finished, these begin: 1, 2, 3" in log
    assert log.count("fold 0 loss") == log.count("fold 3 loss") == 2, "each in its own epochs"


def test_history_ahead_of_the_checkpoint_is_kept_between_groups_of_folds(tmp_path: Path) -> None:
    """Killed right after the last report of the first fold, and of the others, was written."""
    config = make_config(folds=(0, 1), max_epochs=2, first_folds=1)
    whole = finish(make_job(tmp_path / "whole", config))
    reports = whole[-1].reports
    for known in (2, 4):
        job = make_job(tmp_path / str(known), config)
        folder = TrainingFolder(tmp_path / str(known) / "training")
        job.close()
        folder.progress.write_reports(reports[:known])
        resumed = finish(make_job(tmp_path / str(known), config))
        assert len(resumed[0].reports) == known
        assert scores(resumed[-1]) == scores(whole[-1])
        assert len(outcome_of(resumed[-1]).fold_scores) == 2


def test_job_that_is_interrupted_where_it_was_saved_writes_nothing(tmp_path: Path) -> None:
    """After a kill in between, a second checkpoint of this name would not match the history."""
    job = make_job(tmp_path)
    job.step()
    job.close()
    (checkpoint,) = (tmp_path / "training").glob("checkpoint-*")
    written = checkpoint.stat().st_mtime_ns
    job = make_job(tmp_path)
    assert job.step().result is None, "only the history"
    job.interrupt()
    with pytest.raises(InterruptedJobError):
        job.step()
    job.close()
    assert checkpoint.stat().st_mtime_ns == written
    assert len(finish(make_job(tmp_path))[-1].reports) == 4


def test_export_keeps_the_best_models(tmp_path: Path) -> None:
    finish(make_job(tmp_path, export=True))
    for k in range(4):
        assert (tmp_path / "training" / model_file(k)).stat().st_size > 0


def test_two_trainings_in_one_folder_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path)
    monkeypatch.setattr("wpm.jobs.train_job._ORPHAN_WAIT_S", 0.0)
    with pytest.raises(LockedError, match="in use by process"):
        make_job(tmp_path)
    job.close()
    make_job(tmp_path).close()


def test_unknown_kind_lists_the_choices() -> None:
    with pytest.raises(UserError, match="'paint'; choose from train, test"):
        start_job({"kind": "paint"})


def test_killed_process_loses_no_report(tmp_path: Path) -> None:
    """Kill a real process in the middle of training; another resumes from its checkpoint."""
    config = make_config(max_epochs=200, patience=200)
    folder = tmp_path / "training"
    TrainingFolder(folder).write_identity(identify(0, config))
    payload = training_payload(folder, make_pixels(tmp_path).folder, config, export=False)
    code = (
        "import json,sys\nfrom wpm.jobs.start import start_job\n"
        "job = start_job(json.loads(sys.argv[1]))\n"
        "while job.step().result is None: print('step', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(payload)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for _ in range(5):
            assert process.stdout.readline() == "step\n"
        process.kill()
        seen = 5 + len(process.stdout.readlines())
    resumed = TrainJob(folder, Path(payload["pixels"]), config, export=False)
    assert len(resumed.step().reports) >= seen
    resumed.close()


def test_records_say_which_share_of_a_gpu_was_used(tmp_path: Path) -> None:
    config = make_config(folds=(0,), max_epochs=1)
    folder = tmp_path / "trial"
    TrainingFolder(folder).write_identity(identify(0, config))
    payload = training_payload(folder, make_pixels(tmp_path).folder, config, export=False)
    job = start_job({**payload, "gpus": 0.25})
    step = job.step()
    job.close()
    assert outcome_of(step).gpus == step.reports[-1].gpus == 0.25
    stopped = Outcome.from_reports(TrialState.PRUNED, step.reports)
    assert stopped.gpus == 0.25, "as the driver writes it"
    assert Outcome.from_reports(TrialState.FAILED, [], "killed").gpus == 0.0


def test_node_that_does_not_see_the_run_folder_says_so(tmp_path: Path) -> None:
    payload = training_payload(
        tmp_path / "nowhere" / "0007", tmp_path, make_config(folds=(0,)), export=False
    )
    with pytest.raises(UserError, match=r"0007: not visible on .*; mount the run folder there"):
        start_job(payload)
    assert not (tmp_path / "nowhere").exists()
