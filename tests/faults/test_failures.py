"""An error in a trial ends the trial with a reason, or costs a retry; the search continues."""

from pathlib import Path

import pytest

from tests.faults.planted import plant, steps_in
from tests.support.commands import Launcher, study_states
from tests.support.without_ray import run_here
from wpm.records import TrainingRecord, TrialState

pytestmark = pytest.mark.slow

# Which fault a trial gets, by its number. The first three get none.
FAULTS = """
import os, signal, time
import torch
from pytorch_metric_learning.losses import TripletMarginLoss
from wpm.cluster.watchdog import Watchdog

class OwnLoss(TripletMarginLoss):
    broken = False

    def compute_loss(self, *args):
        if self.broken:
            raise ValueError("a loss of my own\\ndoes not like this margin")
        return super().compute_loss(*args)

def fault(number, folder, fold):
    note_step(folder, fold)
    OwnLoss.broken = False
    late = fold.position == 2 and fold.iteration == 2 and fold.epoch == 1
    if number == 3:
        torch.nn.init.constant_(next(fold.model.parameters()), float("nan"))
    elif number == 4:
        raise MemoryError
    elif number == 5:
        torch.empty(10**15)
    elif number == 6:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\\n2.00 GiB.")
    elif number == 7:
        OwnLoss.broken = True
    elif number == 8 and late:
        os.kill(os.getpid(), signal.SIGKILL)
    elif number == 9 and late and once(folder, "kill"):
        os.kill(os.getpid(), signal.SIGKILL)
    elif number == 10 and late and once(folder, "spot"):
        os.kill(os.getpid(), signal.SIGTERM)
    elif number == 11 and late and once(folder, "hang"):
        time.sleep(600)

_limit = Watchdog.limit_s.fget
def _shorter(self):
    hangs = _current[0].name == "0011" and not (_current[0] / "planted-hang").exists()
    return 15.0 if hangs else _limit(self)
Watchdog.limit_s = property(_shorter)
"""
NAMED = {
    3: "loss of fold 0 is nan in epoch 1",
    4: "out of memory",
    5: "out of memory: ",
    6: "out of GPU memory: CUDA out of memory. Tried to allocate 2.00 GiB.",
    7: "ValueError: a loss of my own does not like this margin (planted.py, line ",
    8: "its process died 3 times, the last time: killed, out of memory, hung or crashed",
}
SURVIVE = (0, 1, 2, 9, 10, 11)


def epochs_of(record: TrainingRecord) -> list[int]:
    return [report.epoch for report in record.reports]


def test_every_failure_is_named_and_the_search_continues(
    launcher: Launcher, tmp_path: Path
) -> None:
    plant(launcher, tmp_path / "site", FAULTS)
    spaces = tmp_path / "spaces"
    spaces.mkdir()
    own = 'loss = "planted:OwnLoss"\n[search.margin]\nlow = 0\nhigh = 1\n'
    (spaces / "own.toml").write_text(own)
    search = ("--rows", "own", "--search-spaces", str(spaces), "--trials", "12")
    output = launcher.run(*search, "--no-early-stopping")
    records = {record.number: record for record in launcher.trials()}
    assert sorted(records) == list(range(12))
    for number, reason in NAMED.items():
        result = records[number].result
        assert result is not None
        assert result.state == (TrialState.DIVERGED if number == 3 else TrialState.FAILED), number
        assert result.reason.startswith(reason)
        (line,) = [line for line in output.splitlines() if f"trial {number:>3} " in line]
        assert reason in line, "not on the console"
    for number in SURVIVE:
        assert records[number].state == TrialState.COMPLETE, number
        assert epochs_of(records[number]) == [1, 2, 3, 4], "an epoch was lost or repeated"
    taken = {number: steps_in(record.folder) for number, record in records.items()}
    assert len(taken[10]) == 4 * 16, "SIGTERM: a step was trained again"
    for number in (9, 11):
        assert 4 * 16 < len(taken[number]) <= 5 * 16, "killed, hung: an epoch at most"
    assert sorted(study_states(launcher.run_root)["own"]) == ["COMPLETE"] * 7 + ["FAIL"] * 5
    status = run_here(launcher, "--status")
    for number in (6, 7, 8):  # the last three
        assert f"trial {number} failed: {NAMED[number]}" in status
    assert str(launcher.run_root / "folder/smoke/own/trials/0007/error.log") in status
    assert "trial 5 failed" not in status
