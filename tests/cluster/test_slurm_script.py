"""clusters/slurm.sh decides rightly what to start, and whether the job goes back into the queue.

Slurm, Ray and the search are fakes here; tests/cluster/real/test_slurm.py runs all of it.
"""

import os
import re
import runpy
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.commands import ROOT, wait_until

SCRIPT = ROOT / "clusters" / "slurm.sh"
DOCS = ROOT / "docs" / "slurm.md"
JOB, HEAD = 4011, "192.0.2.2"  # of a block that no network uses
PORT = 20000 + 11 * 3
BAD_INPUT, INTERRUPTED = 2, 130
NODES = runpy.run_path(str(ROOT / "clusters" / "slurm_nodes.py"))
LABEL, find_missing = NODES["LABEL"], NODES["find_missing"]

# Each notes in the file "calls" how it was called. The search waits for SIGTERM where a file
# "waits" is there, and ends with the code in the file "code".
FAKES = {
    "scontrol": """
case "$*" in
    *hostnames*) printf 'n1\\nn2\\n' ;;
    *show*) echo "NodeName=n1 CoresPerSocket=1 NodeAddr=n1.cluster Boards=1" ;;
    requeue*) ! [ -e refused ] ;;
esac""",
    "squeue": """case "$*" in *%T) cat state ;; *) cat end ;; esac""",
    "scancel": """kill $(cat steps)""",
    "srun": f"""
case "$*" in
    *getent*) echo "{HEAD} STREAM n1" ;;
    *) [[ "$*" =~ nodelist=(n[0-9]) ]]
       name=${{BASH_REMATCH[1]}}; mkdir "$name"; echo $$ >> steps
       LOCAL=$PWD/$name SLURMD_NODENAME=$name SLURM_CPUS_ON_NODE=64 exec "${{@: -3}}" ;;
esac""",
    "ray": """env > "ray-$SLURMD_NODENAME"; exec sleep 30""",
    "python": f"""
case "$1" in
    launch.py) [ ! -e waits ] || {{
                   sleep 30 > /dev/null 2>&1 & trap "kill $!" TERM
                   touch waiting; wait
               }}
               exit "$(cat code)" ;;
    clusters/slurm_nodes.py) until [ -e ray-n1 ] && [ -e ray-n2 ]; do sleep 0.02; done
                             [ ! -e slow ] || {{ touch waiting; exec sleep 30; }}
                             [ ! -e broken ] ;;
    -) echo {HEAD} ;;
    *) echo secret ;;
esac""",
}


class Job:
    """A job in a folder of its own, with the script as a user fills it in."""

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder
        binaries = folder / "environment" / "bin"
        binaries.mkdir(parents=True)
        for name, code in FAKES.items():
            (binaries / name).write_text(f'#!/bin/bash\necho "{name} $*" >> calls\n{code}\n')
            (binaries / name).chmod(0o755)
        (folder / "shared").mkdir()
        (folder / "launch.py").touch()
        filled = {
            "SHARED": str(folder / "shared"), "ENVIRONMENT": "environment",
            "JOIN_WAIT_S": "0", **settings,
        }  # fmt: skip
        text = SCRIPT.read_text(encoding="utf-8")
        for name, value in filled.items():
            text, count = re.subn(rf"^{name}=\S+", f"{name}={value}", text, flags=re.M)
            assert count == 1, name
        (folder / "slurm.sh").write_text(text)
        self.say(state="RUNNING", end="2100-01-01T00:00:00", code="0")
        self.environment = {
            "PATH": f"{binaries}:/usr/bin:/bin",
            "SLURM_JOB_ID": str(JOB),
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_CPUS_PER_TASK": "4",
            "SLURM_GPUS_ON_NODE": "2",
        }

    def say(self, **files: str) -> None:
        for name, text in files.items():
            (self.folder / name).write_text(text + "\n")

    def start(self, *flags: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["bash", "slurm.sh", *flags], cwd=self.folder, env=self.environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, *flags: str, signalled: bool = False) -> tuple[int, str, str]:
        """Return exit code, output and errors."""
        process = self.start(*flags)
        if signalled:
            waiting = self.folder / "waiting"
            wait_until(lambda: waiting.exists() or process.poll() is not None, seconds=20)
            process.send_signal(signal.SIGTERM)
        try:
            output, errors = process.communicate(timeout=20)
        finally:
            process.kill()
        return process.returncode, output, errors

    def calls(self, program: str) -> list[str]:
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line for line in lines if line.startswith(program)]


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def directives() -> dict[str, str]:
    lines = re.findall(r"^#SBATCH --([\w-]+)(?:=(\S+))?$", SCRIPT.read_text(), re.M)
    return dict(lines)


def test_script_is_bash() -> None:
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    assert os.access(SCRIPT, os.R_OK)


def test_job_is_one_task_a_node_signalled_ahead_and_queued_again() -> None:
    asked = directives()
    assert asked["ntasks-per-node"] == "1"
    assert re.fullmatch(r"B:TERM@\d+", asked["signal"])
    assert {"requeue", "no-kill"} <= asked.keys()
    assert asked["open-mode"] == "append"
    assert "%j" in asked["output"]


def test_everything_to_fill_in_is_explained() -> None:
    text, docs = SCRIPT.read_text(encoding="utf-8"), DOCS.read_text(encoding="utf-8")
    settings = re.findall(r"^([A-Z_]+)=(\S+) +# ", text, re.M)
    assert ("SHARED", "FILL_IN") in settings
    assert re.findall(r"^(\w+)=FILL_IN", text, re.M) == ["SHARED"]
    assert sorted(name for name, _ in settings if f"`{name}`" not in docs) == []
    assert sorted(name for name in directives() if f"--{name}" not in docs) == []


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("SHARED", "FILL_IN", "SHARED is not filled in"),
        ("SHARED", "/nowhere/at/all", "SHARED=/nowhere/at/all"),
        ("ENVIRONMENT", "/nowhere", "ENVIRONMENT=/nowhere has no bin/python"),
    ],
)
def test_wrong_setting_is_one_line_and_ends_the_job(
    tmp_path: Path, setting: str, value: str, said: str
) -> None:
    job = Job(tmp_path, **{setting: value})
    code, output, errors = job.run()
    assert code == BAD_INPUT
    assert (output, len(errors.splitlines())) == ("", 1)
    assert said in errors
    assert job.calls("srun") == []


def test_script_is_refused_outside_of_a_job_and_of_the_project(job: Job) -> None:
    (job.folder / "launch.py").unlink()
    assert "submit in the project's folder" in job.run()[2]
    del job.environment["SLURM_JOB_ID"]
    code, _, errors = job.run()
    assert code == BAD_INPUT
    assert "sbatch clusters/slurm.sh" in errors


def test_finished_search_ends_the_job(job: Job) -> None:
    code, output, _ = job.run("--rows", "contrastive", "triplet+wpm")
    assert code == 0
    assert "finished" in output
    (launch,) = job.calls("python launch.py")
    shared = job.folder / "shared"
    assert launch == (
        f"python launch.py --run-root {shared}/runs --work-root {shared}/data "
        f"--rows contrastive triplet+wpm --address {HEAD}:{PORT}"
    )
    assert job.calls("scontrol requeue") == []


def test_nodes_offer_what_the_job_was_given_and_ask_for_its_token(job: Job) -> None:
    job.say(waits="", code=str(INTERRUPTED))
    process = job.start()
    wait_until((job.folder / "waiting").exists, seconds=20)
    token = job.folder / "shared" / "slurm" / str(JOB) / "token"
    assert token.stat().st_mode & 0o777 == 0o600
    assert token.read_text() == "secret\n"
    assert (job.folder / "n1" / f"wpm-{JOB}").stat().st_mode & 0o777 == 0o700
    process.terminate()
    process.communicate(timeout=20)
    head, worker = sorted(job.calls("ray"), key=lambda call: "--head" not in call)
    assert f"--head --port={PORT} --dashboard-host=127.0.0.1 --dashboard-port={PORT + 1}" in head
    assert f"--address={HEAD}:{PORT}" in worker
    for call, name in ((head, "n1"), (worker, "n2")):
        assert " --num-cpus=4 --num-gpus=2 " in call
        assert f"--temp-dir={job.folder}/{name}/wpm-{JOB} " in call
        assert f"--labels={LABEL}={name}" in call
        environment = (job.folder / f"ray-{name}").read_text().splitlines()
        assert "RAY_AUTH_MODE=token" in environment
        assert f"RAY_AUTH_TOKEN_PATH={token}" in environment
    assert not token.exists(), "the token ends with Ray"
    assert not list(job.folder.glob("n*/*")), "and so do Ray's files"


@pytest.mark.parametrize("ended", [INTERRUPTED, 134])
def test_interrupted_search_is_put_back_once(job: Job, ended: int) -> None:
    """Also where it ended by a fault while it saved (134: SIGABRT): its checkpoints count."""
    job.say(waits="", code=str(ended))
    code, output, _ = job.run(signalled=True)
    assert code == INTERRUPTED
    assert job.calls("scontrol requeue") == [f"scontrol requeue {JOB}"]
    assert "its next start continues the search" in output


def test_search_that_does_not_end_in_time_is_killed_and_put_back(job: Job) -> None:
    job.say(waits="", code=str(INTERRUPTED), end="2000-01-01T00:00:00")
    python = job.folder / "environment" / "bin" / "python"
    python.write_text(python.read_text().replace('"kill $!" TERM', '"" TERM'))
    code, output, _ = job.run(signalled=True)
    assert code == INTERRUPTED
    assert "the last checkpoints count" in output
    assert job.calls("scontrol requeue") == [f"scontrol requeue {JOB}"]


@pytest.mark.parametrize(
    ("code", "said"),
    [(BAD_INPUT, "the search needs you (exit code 2)"), (1, "exit code 1"), (0, "finished")],
)
def test_search_that_ends_by_itself_is_not_put_back(job: Job, code: int, said: str) -> None:
    """Not even where the signal comes while it ends: it would fail again."""
    job.say(waits="", code=str(code))
    answered, output, _ = job.run(signalled=True)
    assert answered == code
    assert said in output
    assert job.calls("scontrol requeue") == []


@pytest.mark.parametrize(
    ("how", "requeues"),
    [
        ({}, 0),  # a person interrupted the search, and Slurm sent nothing
        ({"waits": "", "state": "COMPLETING"}, 0),  # the job was cancelled
        ({"waits": "", "refused": ""}, 1),  # a cluster that puts no job back
    ],
)
def test_interrupted_job_that_stays_as_it_is_says_what_continues_it(
    job: Job, how: dict[str, str], requeues: int
) -> None:
    job.say(code=str(INTERRUPTED), **how)
    code, output, _ = job.run(signalled="waits" in how)
    assert code == INTERRUPTED
    assert "the same sbatch command continues" in output
    assert "its next start" not in output
    assert len(job.calls("scontrol requeue")) == requeues


def test_signal_before_the_search_ends_the_job(job: Job) -> None:
    """Where the limit is shorter than the signal's lead, every start would end like this."""
    job.say(slow="")
    code, output, _ = job.run(signalled=True)
    assert code == INTERRUPTED
    assert "raise --time" in output
    assert job.calls("scontrol requeue") + job.calls("python launch.py") == []


def test_head_that_does_not_start_is_named_with_its_log(job: Job) -> None:
    job.say(broken="")
    code, output, _ = job.run()
    assert code == 1
    assert f"Ray does not start on n1: {job.folder}/shared/slurm/{JOB}/ray-n1.log" in output
    assert job.calls("python launch.py") == []


def test_nodes_that_are_missing_are_found() -> None:
    known = [
        {"Alive": True, "Labels": {LABEL: "n1", "ray.io/node-id": "f"}},
        {"Alive": False, "Labels": {LABEL: "n2"}},
        {"Alive": True, "Labels": {}},
    ]
    assert find_missing(["n1", "n2", "n3"], known) == ["n2", "n3"]
