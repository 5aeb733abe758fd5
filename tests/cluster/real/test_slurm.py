"""clusters/slurm.sh on a real Slurm: time limits, bad input, cancelled jobs, lost nodes."""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.real.slurm import SHARED, Slurm, find_missing
from tests.support.commands import ROOT, wait_until
from tests.support.tiny import make_image_folder
from wpm.records import TrainingRecord, TrialState, find_studies, read_trials

MISSING = find_missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

STORE, PROJECT = SHARED / "store", SHARED / "project"
SELECTION = f"--dataset folder --data-root {SHARED}/images --protocol smoke"
# Long enough that a job is interrupted while it trains, also on a quiet machine.
PACED = f"{SELECTION} --set iterations_per_epoch=100 --no-early-stopping"
LONG = f"{SELECTION} --set iterations_per_epoch=300 --no-early-stopping"
# On two quiet cores 300 iterations ended the job of the time limit after less than two minutes.
OVER_THE_LIMIT = f"{SELECTION} --set iterations_per_epoch=900 --no-early-stopping"
TRIALS = 4
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
WAIT_S = 1500  # a busy machine needs minutes to import torch in all processes


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    kept = [Path(sys.prefix).resolve(), Path(sys.base_prefix).resolve()]
    with Slurm(2, kept) as cluster:
        project = cluster.shared / "project"
        for name in ("wpm", "analysis", "search_spaces", "clusters"):
            shutil.copytree(ROOT / name, project / name, ignore=lambda *_: ["__pycache__"])
        shutil.copy(ROOT / "launch.py", project)
        fill_in(project / "clusters" / "slurm.sh")
        make_image_folder(cluster.shared / "images")
        (cluster.shared / "store").mkdir()
        cluster.give_to_user(cluster.shared)
        yield cluster


def fill_in(script: Path) -> None:
    """Edit the script as a user does, for nodes without GPUs."""
    text = script.read_text()
    for old, new in (
        ("SHARED=FILL_IN ", f"SHARED={STORE} "),
        ("ENVIRONMENT=.venv ", f"ENVIRONMENT={sys.prefix} "),
        ("#SBATCH --cpus-per-task=8\n", "#SBATCH --cpus-per-task=1\n"),
        ("#SBATCH --gpus-per-node=1\n", ""),
    ):
        assert text.count(old) == 1
        text = text.replace(old, new)
    script.write_text(text)


def submit(slurm: Slurm, flags: str, *, sbatch: str = "") -> str:
    """Submit the script; return the job's id."""
    # Ray starts workers with a low priority, and where other work fills the machine they starve.
    settings = "export OMP_NUM_THREADS=1 RAY_worker_niceness=0"
    answer = slurm.run(
        f"{settings}; cd {PROJECT} && sbatch --parsable {sbatch} clusters/slurm.sh {flags}"
    )
    return answer.strip()


def log_of(slurm: Slurm, job: str) -> str:
    file = slurm.shared / "project" / f"wpm-{job}.log"
    return file.read_text(errors="replace") if file.exists() else ""


def wait_for_end(slurm: Slurm, job: str) -> dict[str, str]:
    """Wait until a job has ended, put back into the queue or not; return Slurm's record of it."""
    try:
        wait_until(lambda: slurm.show(job)["JobState"] in ENDED, WAIT_S)
    except AssertionError:
        print(log_of(slurm, job), slurm.logs())
        raise
    return slurm.show(job)


def wait_for_training(slurm: Slurm, row: str) -> None:
    """Wait until a trial of a row has reported its first validation."""
    wait_until(lambda: any(trial.reports for trial in trials_of(slurm, row)), WAIT_S)


def trials_of(slurm: Slurm, row: str) -> list[TrainingRecord]:
    root = slurm.shared / "store" / "runs"
    found = []
    for place in find_studies(root) if root.exists() else ():
        if str(place.row) == row:
            trials, problems = read_trials(place, with_reports=True)
            assert not problems
            found += trials
    return found


def check_complete(slurm: Slurm, row: str, trials: int = TRIALS) -> None:
    states = [trial.state for trial in trials_of(slurm, row)]
    assert states == [TrialState.COMPLETE] * trials


def test_search_continues_after_the_time_limit_until_the_table(slurm: Slurm) -> None:
    rows = "--rows contrastive"
    # Slurm may send the signal up to a minute early.
    limit = "--time=5 --signal=B:TERM@120"
    job = submit(slurm, f"{OVER_THE_LIMIT} {rows} --trials {TRIALS}", sbatch=limit)
    best = f"{OVER_THE_LIMIT} {rows} --best-only --runs 1"
    final = submit(slurm, best, sbatch=f"--dependency=afterok:{job}")

    assert wait_for_end(slurm, job)["JobState"] == "COMPLETED"
    log = log_of(slurm, job)
    starts = re.findall(rf"slurm.sh: job {job}, start (\d+): n1 n2, head 10.78.0.2:(\d+)", log)
    assert [int(number) for number, _ in starts] == [*range(1, len(starts) + 1)]
    assert len(starts) > 1, "the limit was not hit"
    assert log.count("Slurm asks for the end") == len(starts) - 1
    assert log.count("its next start continues the search") == len(starts) - 1
    assert log.count("slurm.sh: finished") == 1
    check_complete(slurm, "contrastive")

    assert wait_for_end(slurm, final)["JobState"] == "COMPLETED"
    table = slurm.run(
        f"cd {PROJECT} && {sys.prefix}/bin/python -m analysis.table --run-root {STORE}/runs"
    )
    assert re.search(r"contrastive .*\d", table), table
    check_nothing_is_left(slurm)


def check_nothing_is_left(slurm: Slurm) -> None:
    assert not list((slurm.shared / "store" / "slurm").glob("*/token"))
    for node in slurm.nodes:
        assert "wpm-" not in slurm.run("ls /tmp", node=node)
        # Not those that have ended (Z): slurmd, the first process of a node, leaves them there.
        processes = slurm.run("ps -eo stat=,args=", node=node).splitlines()
        assert not [line for line in processes if "ray" in line and not line.startswith("Z")]


def test_bad_flag_ends_the_job(slurm: Slurm) -> None:
    job = submit(slurm, f"{SELECTION} --rows contrastivve")
    record = wait_for_end(slurm, job)
    assert (record["JobState"], record["ExitCode"]) == ("FAILED", "2:0")
    assert record["Restarts"] == "0"
    lines = log_of(slurm, job).splitlines()
    assert sum("launch.py: error: " in line and "contrastivve" in line for line in lines) == 1
    assert sum("slurm.sh: ended: the search needs you (exit code 2)" in line for line in lines) == 1
    check_nothing_is_left(slurm)


def test_two_jobs_share_nodes_and_the_same_command_continues_a_cancelled_one(
    slurm: Slurm,
) -> None:
    first = submit(slurm, f"{LONG} --rows triplet --trials 2")
    second = submit(slurm, f"{PACED} --rows margin --trials 2")
    wait_for_training(slurm, "triplet")
    wait_for_training(slurm, "margin")
    assert slurm.show(first)["NodeList"] == slurm.show(second)["NodeList"] == "n[1-2]"
    slurm.run(f"scancel {first}")
    assert wait_for_end(slurm, first)["JobState"] == "CANCELLED"

    again = submit(slurm, f"{LONG} --rows triplet --trials 2")
    assert wait_for_end(slurm, second)["JobState"] == "COMPLETED"
    assert wait_for_end(slurm, again)["JobState"] == "COMPLETED"
    check_complete(slurm, "triplet", 2)
    check_complete(slurm, "margin", 2)
    ports = re.findall(r"head 10.78.0.2:(\d+)", log_of(slurm, first) + log_of(slurm, second))
    assert len(set(ports)) == 2


def test_search_goes_on_without_a_node_that_is_lost(slurm: Slurm) -> None:
    job = submit(slurm, f"{LONG} --rows arcface --trials 3")
    wait_for_training(slurm, "arcface")
    slurm.end("n2")
    try:
        record = wait_for_end(slurm, job)
    finally:
        slurm.boot("n2")
    assert (record["JobState"], record["Restarts"]) == ("COMPLETED", "0")
    assert "srun: error: Node failure on n2" in log_of(slurm, job)
    check_complete(slurm, "arcface", 3)


def test_job_that_loses_its_first_node_starts_again(slurm: Slurm) -> None:
    """Slurm would keep the rest of the job until its limit, and nothing on it would end it."""
    job = submit(slurm, f"{LONG} --rows cosface --trials 2")
    wait_for_training(slurm, "cosface")
    slurm.end("n1")
    try:
        wait_until(lambda: slurm.show(job)["NodeList"] == "n2", WAIT_S)
        wait_until(lambda: slurm.show(job)["Restarts"] == "1", WAIT_S)
    finally:
        slurm.boot("n1")
    assert wait_for_end(slurm, job)["JobState"] == "COMPLETED"
    check_complete(slurm, "cosface", 2)
