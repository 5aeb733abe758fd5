"""The contents of result.json and final.json, as this version and earlier ones write them."""

from typing import Any

import pytest

from tests.support.trials import curve, outcome
from wpm.records import Chosen, FailedRun, Outcome, ScoredRun, TrialState
from wpm.records.outcomes import read_run
from wpm.reports import FoldReport, Report

SCORES = {"precision_at_1": 0.5, "r_precision": 0.3, "map_at_r": 0.2}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (TrialState.RUNNING, "running"),
        (TrialState.COMPLETE, "complete"),
        (TrialState.PRUNED, "stopped"),
        (TrialState.DIVERGED, "diverged"),
        (TrialState.FAILED, "failed"),
    ],
)
def test_people_read_stopped_where_records_say_pruned(state: TrialState, words: str) -> None:
    assert state.for_people == words


@pytest.mark.parametrize(
    "ended",
    [
        outcome(0.5),
        outcome(0.5, models={"model-fold-0.safetensors": "0123"}, gpus=0.25),
        Outcome.from_reports(TrialState.PRUNED, curve(0.4, epochs=3), "stopped at epoch 3"),
        Outcome.from_reports(TrialState.FAILED, [], "killed"),
        Outcome.from_reports(TrialState.DIVERGED, curve(0.4, epochs=3), "loss of fold 0 is nan"),
    ],
)
def test_outcome_is_read_as_it_was_written(ended: Outcome) -> None:
    assert Outcome.from_json(ended.to_json()) == ended
    assert ("models" in ended.to_json()) == bool(ended.models)


def test_outcome_sums_up_the_last_report() -> None:
    reports = curve(0.75, epochs=3)
    ended = Outcome.from_reports(TrialState.PRUNED, reports, "stopped at epoch 3")
    assert (ended.score, ended.epochs, ended.fold_scores) == (0.25, 3, (0.25,))
    assert (ended.training_seconds, ended.validation_seconds) == (1.0, 0.5)
    assert ended.ended is not None
    assert Outcome.from_reports(TrialState.RUNNING, reports).ended is None


def test_results_of_earlier_versions_are_read() -> None:
    training: dict[str, Any] = {
        "state": "complete", "reason": "", "score": 0.4, "epochs": 3, "fold_scores": [0.3, 0.5],
        "best_epochs": [2, 3], "training_seconds": 5.0, "validation_seconds": 1.0,
        "ended": "2026-01-01T00:00:00+00:00",
    }  # fmt: skip
    ended = Outcome.from_json(training)
    assert (ended.gpus, ended.models, ended.fold_scores) == (0.0, {}, (0.3, 0.5))
    run = {
        "state": "complete", "seed": 1000, "separated": SCORES, "concatenated": SCORES,
        "channels": 1, "test_images": 8, "test_classes": 2,
    }  # fmt: skip
    scored = read_run(run)
    assert isinstance(scored, ScoredRun)
    assert (scored.left_out, scored.scores("concatenated")) == ((), SCORES)


def test_reports_of_earlier_and_of_later_versions_are_read() -> None:
    (report,) = curve(0.9, epochs=1)
    content = report.to_json()
    del content["gpus"], content["folds"][0]["step_mode"]
    content["loudness"] = content["folds"][0]["loudness"] = 1.0
    assert Report.from_json(content) == report
    assert report.folds[0] == FoldReport.from_json(report.folds[0].to_json())


def test_failed_run_is_read_as_it_was_written() -> None:
    failed = FailedRun(1001, "fold 2: diverged")
    assert failed.to_json() == {"state": "failed", "seed": 1001, "reason": "fold 2: diverged"}
    assert read_run(failed.to_json()) == failed


@pytest.mark.parametrize("state", ["pruned", "running", "paused"])
def test_run_in_another_state_is_refused(state: str) -> None:
    with pytest.raises(ValueError, match=state):
        read_run({"state": state, "seed": 1000})


@pytest.mark.parametrize(
    ("chosen", "content", "words"),
    [
        (
            Chosen(trial=7, score=0.25),
            {"trial": 7, "score": 0.25},
            "trial 7, validation MAP@R 0.2500",
        ),
        (
            Chosen(source="a paper"),
            {"trial": None, "score": None, "published": "a paper"},
            "as published (a paper)",
        ),
        (Chosen(), {"trial": None, "score": None}, "the trunk as it comes, without training"),
    ],
)
def test_choice_is_written_read_and_described(
    chosen: Chosen, content: dict[str, Any], words: str
) -> None:
    assert chosen.to_json() == content
    assert Chosen.from_json(content) == chosen
    assert str(chosen) == words


def test_step_is_the_epoch_unless_some_folds_trained_first() -> None:
    (report,) = curve(0.9, epochs=1)
    assert (report.step, report.earlier_steps) == (1, 0)
    content = report.to_json()
    del content["step"]  # as earlier versions wrote it
    assert Report.from_json(content) == report
    later = Report(3, 0.5, report.folds, step=23)
    assert Report.from_json(later.to_json()) == later
    assert later.earlier_steps == 20


def test_epochs_of_folds_that_trained_one_after_another_are_added() -> None:
    (report,) = curve(0.9, epochs=1)
    first = [Report(epoch, 0.5, report.folds) for epoch in (1, 2, 5)]
    then = [Report(epoch, 0.5, report.folds * 4, step=20 + epoch) for epoch in (1, 3)]
    assert Outcome.from_reports(TrialState.PRUNED, first).epochs == 5
    ended = Outcome.from_reports(TrialState.PRUNED, [*first, *then])
    assert (ended.epochs, len(ended.fold_scores)) == (8, 4)


@pytest.mark.parametrize(
    ("epoch", "step", "first_folds", "words"),
    [
        (5, 5, 0, "epoch 5"),
        (5, 5, 1, "epoch 5 on 1 of 4 folds"),
        (3, 23, 1, "epoch 3 on the other 3 of 4 folds"),
    ],
)
def test_people_read_which_folds_a_trial_has_reached(
    epoch: int, step: int, first_folds: int, words: str
) -> None:
    folds = curve(0.9, epochs=1)[0].folds
    assert Report(epoch, 0.5, folds, step=step).describe_reached(4, first_folds) == words
