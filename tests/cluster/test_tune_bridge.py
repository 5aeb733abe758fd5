"""How Tune is handed our work, and what becomes of ended trials; Ray itself is not started."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

from tests.support.trials import report
from tests.support.work_sources import Endless, Scripted, make_nodes
from wpm.cluster import runner as cluster
from wpm.cluster import tune_bridge
from wpm.errors import UserError
from wpm.jobs.job import StepResult
from wpm.jobs.work import Decision


def test_work_is_handed_out_while_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter more than can run waits, since Tune keeps a process only for a waiting trial."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    source = Endless()
    searcher = tune_bridge.WorkSearcher(source, cluster.QueueCapacity(1, 0))
    while searcher.suggest(f"trial {source.handed_out}"):
        pass
    assert source.handed_out == 8 + 2
    searcher.handle_step("trial 3", {"step": json.dumps(StepResult().to_json())})
    assert searcher.suggest("another") is not None
    assert searcher.suggest("one more") is None


@pytest.mark.parametrize("last", [False, True])
def test_refusal_of_a_worker_ends_the_launch_and_fails_no_work(
    monkeypatch: pytest.MonkeyPatch, last: bool
) -> None:
    """The source records no end, so the next launch resumes the work. A full disk is one reason."""
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    source = Scripted()
    searcher = tune_bridge.WorkSearcher(source, cluster.QueueCapacity(1, 0))
    for trial in ("a", "b"):
        assert isinstance(searcher.suggest(trial), dict)
    refusal = {"refused": "checkpoint-1.pt: cannot be written (No space left on device)"}
    if last:  # as Tune ends: with the last result of each
        searcher.on_trial_complete("a", {**refusal, "done": True})
    else:
        refused: Any = SimpleNamespace(trial_id="a", run_metadata=SimpleNamespace(num_failures=0))
        controller: Any = SimpleNamespace()
        decision = tune_bridge.WorkScheduler(searcher).on_trial_result(controller, refused, refusal)
        assert decision == FIFOScheduler.STOP, "the worker is stopped"
    assert isinstance(searcher.error, UserError)
    assert str(searcher.error) == refusal["refused"]
    assert searcher.suggest("c") == Searcher.FINISHED
    # The other work ends after its step, and is recorded as neither stopped nor crashed.
    step = {"step": json.dumps(StepResult().to_json())}
    assert searcher.handle_step("b", step) is Decision.SUSPEND
    searcher.on_trial_complete("b", None, error=True)
    assert source.calls == []


def make_trial(error_file: Path | None = None) -> Any:
    failures = SimpleNamespace(num_failures=2)
    # Tune has given the status before it asks the scheduler, and lets the trial wait afterwards.
    return SimpleNamespace(
        trial_id="1", status=Trial.ERROR, run_metadata=failures, error_file=error_file
    )


def test_crashes_are_counted_from_zero_when_a_trial_makes_progress(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cluster, "list_nodes", lambda: make_nodes((8, 0)))
    searcher = tune_bridge.WorkSearcher(Endless(), cluster.QueueCapacity(1, 0))
    scheduler, trial = tune_bridge.WorkScheduler(searcher), make_trial()

    def failures_after(reports: int) -> int:
        searcher.suggest("1")
        trial.run_metadata.num_failures = 2
        step = json.dumps(StepResult([report(1, 0.5)] * reports).to_json())
        scheduler.on_trial_result(SimpleNamespace(), trial, {"step": step})  # type: ignore[arg-type]
        return int(trial.run_metadata.num_failures)

    assert failures_after(3) == 0
    assert failures_after(3) == 2, "a resumed trial only repeated its history"
    assert failures_after(4) == 0


def test_saved_work_that_was_asked_to_end_is_no_crash(tmp_path: Path) -> None:
    searcher = tune_bridge.WorkSearcher(Endless(), lambda: 1)
    noted = tmp_path / "error.txt"
    noted.write_text("Failure # 1 (occurred at 1)\nOOM killer\nFailure # 2 (at 2)\nexit_actor()\n")
    trial = make_trial(noted)
    tune_bridge.WorkScheduler(searcher).on_trial_error(SimpleNamespace(), trial)  # type: ignore[arg-type]
    assert trial.run_metadata.num_failures == 1
    assert searcher.crashes == {"1": "it was asked to end (SIGTERM)"}
    noted.write_text("Failure # 3 (occurred at 1)\nits node has died\n")
    tune_bridge.WorkScheduler(searcher).on_trial_error(SimpleNamespace(), trial)  # type: ignore[arg-type]
    assert trial.run_metadata.num_failures == 1
    assert searcher.crashes == {"1": "its node died"}


def give_up(scheduler: Any, searcher: Any, tune_trial: str) -> None:
    """Do what Tune does when a process dies that a trial is taking over: it says so twice."""
    trial = make_trial()
    trial.trial_id, trial.run_metadata.num_failures = tune_trial, 1
    scheduler.on_trial_error(SimpleNamespace(), trial)
    trial.status, trial.run_metadata.num_failures = Trial.PENDING, 2
    scheduler.on_trial_error(SimpleNamespace(), trial)
    searcher.on_trial_complete(tune_trial, error=True)


def test_work_whose_process_dies_while_it_is_taken_over_is_handed_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray Tune 2.60 gives such a trial up at its first crash; a lost node is enough for one."""
    source = Scripted()
    searcher = tune_bridge.WorkSearcher(source, lambda: 4)
    scheduler = tune_bridge.WorkScheduler(searcher)
    first = searcher.suggest("a")
    assert isinstance(first, dict)
    monkeypatch.setattr(source, "exhausted", True)
    monkeypatch.setattr(source, "next_work", lambda: None)
    assert searcher.suggest("idle") is None, "FINISHED would be final, and the work may come again"
    give_up(scheduler, searcher, "a")
    assert searcher.suggest("b") == first
    give_up(scheduler, searcher, "b")
    assert searcher.suggest("c") == first
    assert source.calls == []
    give_up(scheduler, searcher, "c")
    (call,) = source.calls
    assert "its process died 3 times" in call
    assert searcher.suggest("d") == Searcher.FINISHED


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("", "killed"),
        ("1 worker(s) were killed due to the node running low on memory. Memory on\nthe OOM killer",
         "out of memory, ended by Ray's memory monitor"),
        ("died\nThe actor died because its node has died. Node Id: 1", "its node died"),
        ("died\n(1) the process was killed by the OOM killer due to high memory\n",
         "killed, out of memory, hung or crashed"),
        ("Traceback\n  wpm.errors.StorageError: /x: cannot be written\n",
         "wpm.errors.StorageError: /x: cannot be written"),
    ],
)  # fmt: skip
def test_crash_is_described_in_one_line(error: str, words: str) -> None:
    assert tune_bridge.describe_crash(error) == words


def test_tune_keeps_nothing_of_an_ended_trial() -> None:
    """Tune keeps every trial for an analysis that is never read."""
    scheduler = tune_bridge.WorkScheduler(tune_bridge.WorkSearcher(Endless(), lambda: 1))
    controller = SimpleNamespace()
    config = {"payload": "long"}
    ended, ending = (Trial("wpm", stub=True, config=dict(config)) for _ in range(2))
    for trial in (ended, ending):
        trial.update_last_result({"step": "long", "score": 0.5, "training_iteration": 1})
        scheduler.on_trial_complete(controller, trial, {})  # type: ignore[arg-type]
    ended.set_status(Trial.TERMINATED)
    scheduler.on_trial_add(controller, ending)  # type: ignore[arg-type]
    assert (ended.config, ended.metric_analysis, ended.run_metadata.last_result) == ({}, {}, {})
    assert ending.config == config, "Tune is not through with it"
    assert ending.last_result["step"] == "long"


def test_starting_process_is_kept_for_its_trial() -> None:
    """Tune would give its trial the next free process, and drop the starting one."""
    running, starting, waiting, new = (
        SimpleNamespace(status=status) for status in ("RUNNING", "PENDING", "PENDING", "PENDING")
    )
    actors = {id(running): "started", id(starting): "started", id(waiting): "asked for"}
    controller = SimpleNamespace(
        get_trials=lambda: [running, starting, waiting, new],
        _trial_to_actor=SimpleNamespace(get=lambda trial: actors.get(id(trial))),
        _actor_manager=SimpleNamespace(is_actor_started=lambda actor: actor == "started"),
    )
    scheduler = tune_bridge.WorkScheduler(tune_bridge.WorkSearcher(Endless(), lambda: 1))
    wrapper = SimpleNamespace(_tune_controller=controller)

    def chosen() -> Any:
        return scheduler.choose_trial_to_run(wrapper)

    assert chosen() is waiting, "the oldest"
    actors[id(waiting)] = "started"
    assert chosen() is new
    actors[id(new)] = "started"
    assert chosen() is None
