"""A long search in small: many short trials, and something is killed every few seconds.

    python -m tests.faults.soak --trials 500 --seed 0

At random moments the drill kills the driver (-9), kills a trial's process (-9), or presses Ctrl-C.
It gives the same command again until the search ends by itself. Then it checks that every trial ran
once, that none is left running, and that none failed without being killed three times. It prints
the driver's memory and the size of the run folder.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.commands import Launcher, study_states, workers_of
from wpm.records import TrialState

ROWS = ("contrastive", "triplet")
DRIVER, TRIAL, CTRL_C = "driver -9", "trial -9", "Ctrl-C"
WEIGHTS = {TRIAL: 6, DRIVER: 2, CTRL_C: 1}
# Exit codes of a launch that ended by itself, was killed, or was interrupted.
_FINISHED, _KILLED, _INTERRUPTED = 0, -signal.SIGKILL, 130
# Share of the trials after which the driver is no longer killed, so that its memory is measured.
_DRIVER_SPARED = 0.5
# Limits of the run folder's size: for each trial and launch, and for checkpoints of running trials.
_CAP_BYTES = 50_000
_CHECKPOINTS_BYTES = 40_000_000
# Growth of the driver's memory with each trial, in bytes. Optuna and Tune keep 23 kB of a trial; if
# ended trials of Tune were not emptied, it would be 48 kB. A slope needs enough trials.
_MOST_A_TRIAL = 40_000
_ENOUGH_TRIALS = 150


@dataclass
class Tally:
    """The faults of a search so far, and what was observed.

    Attributes:
        faults: how often each fault was caused.
        launches: how often the command was given.
        hit: how often each trial's process was killed, by the trial's folder.
        ended: when each trial ended as first read, by the trial's folder.
        memory: (ended trials, bytes without mapped files) of the last driver, over time.
        largest: the largest size of the run folder in bytes.
    """

    faults: Counter[str] = field(default_factory=Counter)
    launches: int = 0
    hit: Counter[Path] = field(default_factory=Counter)
    ended: dict[Path, str] = field(default_factory=dict)
    memory: list[tuple[int, float]] = field(default_factory=list)
    largest: int = 0


@dataclass(frozen=True)
class Drill:
    """A search, and how often it is disturbed.

    Attributes:
        trials: trials of all studies together.
        faults: how many faults to cause at most; None for no limit.
        gap_s: shortest and longest time between two faults.
    """

    trials: int
    faults: int | None = None
    gap_s: tuple[float, float] = (2.0, 8.0)


def soak(launcher: Launcher, drill: Drill, rng: random.Random) -> Tally:
    """Launch a search again and again until it ends by itself, and disturb it meanwhile.

    Args:
        launcher: names the images and the run folder.
        drill: the number of trials and faults.
        rng: draws the faults and their moments.
    """
    tally = Tally()
    command = ("--rows", *ROWS, "--trials", str(drill.trials // len(ROWS)), "--no-early-stopping")
    while True:
        tally.launches += 1
        output = launcher.run_root.parent / f"output-{tally.launches}.txt"
        with output.open("w") as file:
            process = subprocess.Popen(
                launcher.arguments(*command), cwd=Path.cwd(), stdout=file, stderr=file,
                env=launcher.environment, start_new_session=True,
            )  # fmt: skip
        tally.memory.clear()
        try:
            _harass(process, launcher, tally, drill, rng)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            code = process.wait()
        _note_ended(launcher, tally)
        assert code in (_FINISHED, _KILLED, _INTERRUPTED), output.read_text()
        if code == _FINISHED:
            return tally


def _harass(
    process: "subprocess.Popen[bytes]",
    launcher: Launcher,
    tally: Tally,
    drill: Drill,
    rng: random.Random,
) -> None:
    """Cause faults in a launch until it has ended."""
    wait_for_start, began = True, _count_ended(launcher)
    while process.poll() is None:
        pause = rng.uniform(*drill.gap_s)
        fault = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        deadline = time.monotonic() + pause
        while process.poll() is None and (time.monotonic() < deadline or wait_for_start):
            time.sleep(0.5)
            ended = _count_ended(launcher)
            if wait_for_start and (ended > began or workers_of(launcher)):
                wait_for_start, deadline = False, time.monotonic() + pause
            _measure(process.pid, ended, launcher, tally)
        spared = fault != TRIAL and _count_ended(launcher) >= _DRIVER_SPARED * drill.trials
        if process.poll() is not None or spared or tally.faults.total() == drill.faults:
            continue
        if fault == TRIAL:
            _kill_trial(launcher, tally, rng)
            continue
        tally.faults[fault] += 1
        if fault == CTRL_C:
            os.killpg(process.pid, signal.SIGINT)
        else:
            os.kill(process.pid, signal.SIGKILL)
        process.wait(timeout=60)


def _kill_trial(launcher: Launcher, tally: Tally, rng: random.Random) -> None:
    workers = workers_of(launcher)
    if workers:
        worker = rng.choice(sorted(workers))
        with suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
            tally.faults[TRIAL] += 1
            tally.hit[workers[worker]] += 1


def _count_ended(launcher: Launcher) -> int:
    return sum(1 for _ in launcher.run_root.glob("folder/*/*/trials/*/result.json"))


def _measure(driver: int, ended: int, launcher: Launcher, tally: Tally) -> None:
    """Note the driver's memory and the size of the run folder."""
    with suppress(OSError, IndexError):
        status = Path(f"/proc/{driver}/status").read_text()
        # Without mapped files: at its end a process reads much of its libraries.
        resident = float(status.split("RssAnon:")[1].split()[0]) * 1024
        tally.memory.append((ended, resident))
    size = 0
    for folder, _, files in os.walk(launcher.run_root):
        for name in files:
            with suppress(OSError):  # removed meanwhile
                size += Path(folder, name).stat().st_size
    tally.largest = max(tally.largest, size)


def _note_ended(launcher: Launcher, tally: Tally) -> None:
    """Note which trials have ended; none may end twice."""
    for record in launcher.trials():
        if record.result is not None:
            ended = str(record.result.ended)
            seen = tally.ended.setdefault(record.folder, ended)
            assert seen == ended, f"{record.folder} was run twice"


def check(launcher: Launcher, tally: Tally, trials: int) -> dict[str, int]:
    """Check the records, the study and the memory after a search.

    Returns:
        How many trials ended in each state.
    """
    records = launcher.trials()
    folders = sorted(record.folder.relative_to(launcher.run_root) for record in records)
    each = trials // len(ROWS)
    expected = [f"folder/smoke/{row}/trials/{k:04d}" for row in ROWS for k in range(each)]
    assert [str(folder) for folder in folders] == sorted(expected), "trials are missing or too many"
    for record in records:
        assert record.result is not None, f"{record.folder} has not ended"
        epochs = [report.epoch for report in record.reports]
        assert epochs == list(range(1, len(epochs) + 1)), f"{record.folder}: {epochs}"
        killed = record.state == TrialState.FAILED and "died 3 times" in record.result.reason
        assert record.state != TrialState.FAILED or (killed and tally.hit[record.folder] >= 3), (
            record.result
        )
    for row, states in study_states(launcher.run_root).items():
        assert len(states) == each
        assert set(states) <= {"COMPLETE", "PRUNED", "FAIL"}, f"{row}: {Counter(states)}"
    check_memory(tally.memory)
    cap = _CHECKPOINTS_BYTES + _CAP_BYTES * (trials + tally.launches)
    assert tally.largest <= cap, f"the run folder had {tally.largest} bytes, more than {cap}"
    return dict(Counter(record.state for record in records))


def describe_memory(memory: list[tuple[int, float]]) -> str:
    """Describe the memory of the last driver, from its tenth ended trial on."""
    settled = _settle(memory)
    if not settled:
        return "driver's memory: measured over too few trials"
    (first, before), (last, after) = settled[0], settled[-1]
    return (
        f"driver's memory: {before / 1e6:.1f} MB at {first} ended trials, {after / 1e6:.1f} MB at "
        f"{last}; {_growth(settled) / 1e3:.1f} kB a trial"
    )


def check_memory(memory: list[tuple[int, float]]) -> None:
    """Fail if a driver that ran undisturbed for long grew too much."""
    settled = _settle(memory)
    if settled and settled[-1][0] - settled[0][0] >= _ENOUGH_TRIALS:
        growth = _growth(settled)
        assert growth <= _MOST_A_TRIAL, f"the driver's memory grows by {growth:.0f} bytes a trial"


def _settle(memory: list[tuple[int, float]]) -> list[tuple[int, float]]:
    """Leave out the driver's start; return nothing where too few trials ended after it."""
    settled = [pair for pair in memory if pair[0] > memory[0][0] + 10]
    return settled if settled and settled[0][0] < settled[-1][0] else []


def _growth(settled: list[tuple[int, float]]) -> float:
    """Return by how many bytes a trial the memory grows."""
    ended, resident = zip(*settled, strict=True)
    return statistics.linear_regression(ended, resident).slope


def main() -> None:
    """Run the drill."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--trials", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--faults", type=int, help="cause at most this many faults; default: no limit"
    )
    args = parser.parse_args()
    start = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="wpm-soak-") as folder,
        tempfile.TemporaryDirectory(prefix="wpm-", dir="/tmp", ignore_cleanup_errors=True) as ray,
    ):
        launcher = Launcher(Path(folder))
        launcher.environment["RAY_TMPDIR"] = ray
        drill = Drill(args.trials, args.faults)
        tally = soak(launcher, drill, random.Random(args.seed))
        states = check(launcher, tally, args.trials)
    print(f"seed {args.seed}, {args.trials} trials, {time.monotonic() - start:.0f} s")
    print(f"faults: {dict(tally.faults)}, in {tally.launches} launches")
    print(f"ended: {states}; lost 0, run twice 0, left running 0")
    print(describe_memory(tally.memory))
    cap = _CHECKPOINTS_BYTES + _CAP_BYTES * (args.trials + tally.launches)
    print(f"run folder: {tally.largest / 1e6:.1f} MB at most, of {cap / 1e6:.1f} allowed")


if __name__ == "__main__":
    main()
