"""docs/cluster.md, word by word, with clusters/on-premise.yaml and hosts of this machine's own.

The commands are taken out of the page, so that it cannot promise what was not run. Only the data
set, the protocol and the rows are others: tiny ones.
"""

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.real.hosts import SHARED, Hosts, find_missing, make_environment
from tests.support.commands import ROOT, wait_until
from tests.support.tiny import make_image_folder
from wpm.records import TrainingRecord, TrialState, find_studies, read_trials

PAGE = ROOT / "docs" / "cluster.md"
FILE = "clusters/on-premise.yaml"
LAPTOP, HEAD, WORKERS = "laptop", "head", ("worker-1", "worker-2")
CLUSTER = (HEAD, *WORKERS)
TRIALS = 8
GIT = "git -c user.name=test -c user.email=test@localhost"
ROWS = ("contrastive", "triplet")
# What the page searches, and what is searched here. One trial fills a host.
SMALLER = (
    ("--dataset cub200", f"--dataset folder --data-root {SHARED}/images --cpus-per-trial 2"),
    ("--protocol mlrc", "--protocol smoke --no-early-stopping"),
    ("--rows all", f"--rows {' '.join(ROWS)} --trials {TRIALS}"),
    ("--weights /mnt/wpm/weights.pth ", ""),
)


class Page:
    """The commands of a page."""

    def __init__(self, path: Path) -> None:
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^    (\S(?:.*\\\n)*.*)", text, re.M)
        inline = [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]
        self._commands = [*blocks, *inline]

    def command(self, beginning: str) -> str:
        """Return the first command that begins so, with the file for machines of one's own.

        Comments go, `\\` at the end of a line stays: users copy it as well.
        """
        for command in self._commands:
            if command.startswith(beginning):
                return re.sub(r" {2,}#.*", "", command).replace("cluster.yaml", FILE)
        raise AssertionError(f"{PAGE.name} has no command that begins with {beginning!r}")

    def search(self, beginning: str, *more: tuple[str, str]) -> str:
        """Return a command that trains, made to search tiny images for a minute.

        Args:
            beginning: as for `command`.
            more: further pieces that are replaced.
        """
        command = self.command(beginning)
        for old, new in (*SMALLER, *more):
            assert old in command, f"{old} is not in {command}"
            command = command.replace(old, new)
        return command


class Cluster:
    """What the user does on the laptop, and what can be seen of it on the shared disk."""

    def __init__(self, hosts: Hosts, say: Callable[[str], None]) -> None:
        self.hosts, self.say = hosts, say
        self.runs = hosts.shared / "runs"
        self._shown = 0

    def run(self, command: str) -> str:
        """Run a command in the project's folder on the laptop, and show it."""
        self.say(f"$ {' '.join(command.split())}")
        begin = time.monotonic()
        output = self.hosts.run(LAPTOP, f"cd ~/wpm && {command}")
        print(output)  # pytest shows it if the test fails
        self.say(f"  {time.monotonic() - begin:.0f} s")
        return output

    def nodes(self) -> int:
        """Return how many nodes the cluster has."""
        status = self.hosts.run(LAPTOP, f"cd ~/wpm && ray exec {FILE} 'ray status'")
        active = status.partition("Active:")[2].partition("Pending:")[0]
        return sum(int(count) for count in re.findall(r"^ *(\d+) ", active, re.M))

    def wait_for_nodes(self, wanted: int, wait_s: float) -> None:
        begin = time.monotonic()
        wait_until(lambda: self.nodes() == wanted, wait_s, what=f"{wanted} nodes", every=1)
        self.say(f"  {wanted} nodes after {time.monotonic() - begin:.0f} s")

    def trials(self) -> list[TrainingRecord]:
        found = []
        for place in find_studies(self.runs):
            records, problems = read_trials(place, with_reports=True)
            assert not problems
            found += records
        return found

    def completed(self) -> int:
        """Return how many trials are complete, and show it when it has changed."""
        complete = sum(trial.state is TrialState.COMPLETE for trial in self.trials())
        if complete != self._shown:
            self.say(f"  {complete} of {TRIALS * len(ROWS)} trials are complete")
            self._shown = complete
        return complete

    def submit(self, command: str) -> str:
        """Submit a job; return its name."""
        printed = self.run(command)
        match = re.search(r"raysubmit_\w+", printed)
        assert match is not None, printed
        return match.group()

    def wait_for_job(self, job: str, wait_s: float) -> None:
        """Wait for the end of a job, which must have succeeded."""
        begin = time.monotonic()
        while True:
            self.completed()
            status = self.hosts.run(LAPTOP, f"cd ~/wpm && ray exec {FILE} 'ray job status {job}'")
            if f"'{job}' succeeded" in status:
                self.say(f"  {job} has ended after {time.monotonic() - begin:.0f} s")
                return
            is_over = f"'{job}' failed" in status or f"'{job}' was stopped" in status
            if is_over or time.monotonic() - begin > wait_s:
                logs = self.hosts.run(LAPTOP, f"cd ~/wpm && ray exec {FILE} 'ray job logs {job}'")
                raise AssertionError(f"{status}\n{logs}")
            time.sleep(2)

    def commit_on(self, name: str) -> str:
        """Return the commit that a host has; none while it is being set up."""
        return self.hosts.run(name, "git -C ~/wpm rev-parse HEAD 2> /dev/null || true")

    def raylets(self, name: str) -> list[int]:
        """Return the processes of Ray nodes on a host."""
        processes = self.hosts.processes(name).items()
        return [process for process, command in processes if "/raylet/raylet " in command]

    def reports_usage(self, name: str) -> bool:
        """Whether the Ray of a host may send statistics to its makers."""
        (raylet,) = self.raylets(name)
        environment = Path(f"/proc/{raylet}/environ").read_bytes().split(b"\0")
        return b"RAY_USAGE_STATS_ENABLED=0" not in environment

    def trains_on(self, name: str) -> bool:
        """Whether a trial runs on a host."""
        return any("ray::ResourceTrainable" in c for c in self.hosts.processes(name).values())


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Return what shows a line at once: the test takes minutes."""
    begin = time.monotonic()

    def show(line: str) -> None:
        with capsys.disabled():
            print(f"\n{time.monotonic() - begin:5.0f} s  {line}", end="", flush=True)

    return show


@pytest.fixture
def cluster(say: Callable[[str], None]) -> Iterator[Cluster]:
    """A laptop with a clone of this repository, and three hosts that have all packages."""
    if missing := find_missing():
        pytest.skip(missing)
    say("making hosts; the first time, a virtual environment for them (a minute)")
    environment = ROOT / "build" / "cluster-test" / "venv"
    kept = make_environment(environment, ROOT / "clusters" / "requirements.txt")
    with Hosts(kept) as hosts:
        for name in (LAPTOP, *CLUSTER):
            hosts.add(name, shares=name != LAPTOP)
            (hosts.home(name) / "venv").symlink_to(environment)
            # Ray gives its workers a low priority, and these hosts share their cores with others.
            with (hosts.home(name) / ".bashrc").open("a") as lines:
                lines.write("export RAY_worker_niceness=0\n")
        home = hosts.home(LAPTOP)
        (hosts.folder / "key").rename(home / ".ssh" / "id_ed25519")
        clone_working_tree(home / "wpm")
        fill_in(home / "wpm" / FILE, hosts)
        hosts.give_to_user(home)
        make_image_folder(hosts.shared / "images")
        hosts.give_to_user(hosts.shared)
        yield Cluster(hosts, say)


def clone_working_tree(folder: Path) -> None:
    """Clone this repository, and commit there what is changed here and not committed yet."""
    git = GIT.split()
    subprocess.run([*git, "clone", "--quiet", "--no-hardlinks", ROOT, folder], check=True)
    change = subprocess.run(
        [*git, "diff", "HEAD", "--binary"], cwd=ROOT, check=True, capture_output=True
    ).stdout
    if change:
        subprocess.run([*git, "apply", "--index"], cwd=folder, input=change, check=True)
        subprocess.run([*git, "commit", "--quiet", "-m", "Uncommitted"], cwd=folder, check=True)


def fill_in(file: Path, hosts: Hosts) -> None:
    """Fill in the cluster file as its first lines say."""
    text = file.read_text(encoding="utf-8")
    workers = ", ".join(hosts.address(name) for name in WORKERS)
    for line, filled in (
        ("head_ip: FILL_IN", f"head_ip: {hosts.address(HEAD)}"),
        ("worker_ips: [FILL_IN, FILL_IN]", f"worker_ips: [{workers}]"),
        ("ssh_user: FILL_IN", "ssh_user: wpm"),
    ):
        assert line in text
        text = text.replace(line, filled)
    assert not re.search(r"^[^#]*FILL_IN", text, re.M)
    file.write_text(text, encoding="utf-8")


def until_open(port: int) -> str:
    """Return a command that waits until a port of the machine itself answers, a minute at most."""
    look = f"(exec 3<> /dev/tcp/localhost/{port}) 2> /dev/null"
    return f"for _ in $(seq 60); do {look} && break; sleep 1; done"


def test_page_holds_with_three_hosts(cluster: Cluster, say: Callable[[str], None]) -> None:
    page, hosts, run = Page(PAGE), cluster.hosts, cluster.run

    say("-- start")
    for name in CLUSTER:
        with pytest.raises(AssertionError, match="unreachable"):
            hosts.run(name, "ip route get 192.0.2.1")
    run(page.command("ray get-auth-token --generate"))
    run(bundle := page.command("mkdir -p build/cluster && git bundle"))
    # `ray up` asks whether to go on, but only on a terminal.
    run(up := page.command("ray up cluster.yaml") + " --yes")
    cluster.wait_for_nodes(3, 300)
    assert not any(cluster.reports_usage(name) for name in CLUSTER), "no telemetry"
    # What is there is not asked for: nobody would answer.
    installs = hosts.run(HEAD, "pip install --dry-run -r ~/wpm/clusters/requirements.txt")
    assert "Requirement already satisfied" in installs
    assert "Would install" not in installs
    # Exit code 2 if there is anything to fix.
    doctor = page.command("ray exec cluster.yaml 'cd ~/wpm && python launch.py --doctor")
    run(doctor)

    say("-- a new commit")
    hosts.run(LAPTOP, f"cd ~/wpm && {GIT} commit --quiet --allow-empty -m 'Another commit'")
    commit = hosts.run(LAPTOP, "git -C ~/wpm rev-parse HEAD")
    run(bundle)
    run(up)
    wait_until(lambda: all(cluster.commit_on(name) == commit for name in CLUSTER), 180, every=1)
    cluster.wait_for_nodes(3, 300)

    say("-- search")
    job = cluster.submit(page.search("ray exec cluster.yaml 'ray job submit"))
    lost = WORKERS[1]
    wait_until(lambda: cluster.completed() >= 2 and cluster.trains_on(lost), 300, every=1)

    say(f"-- {lost} is lost")
    assert cluster.completed() < TRIALS * len(ROWS), "the search is over already"
    hosts.end(lost)
    forward = page.command("ray dashboard cluster.yaml")
    status = page.command("python launch.py --status --address http://localhost:8265")
    with hosts.in_background(LAPTOP, f"cd ~/wpm && {forward}"):
        run(f"{until_open(8265)}; export RAY_AUTH_MODE=token; {status} > ~/status.txt")
    table = (hosts.home(LAPTOP) / "status.txt").read_text()
    assert all(re.search(rf"folder/smoke/{row} .*\d/{TRIALS}", table) for row in ROWS), table
    say(table)
    cluster.wait_for_job(job, 600)
    states = Counter(trial.state for trial in cluster.trials())
    assert states == {TrialState.COMPLETE: TRIALS * len(ROWS)}, "none is lost, and none failed"
    assert cluster.nodes() == 2

    say(f"-- {lost} comes back")
    hosts.boot(lost)
    cluster.wait_for_nodes(3, 300)

    say("-- test and table")
    best = page.search(
        "ray exec cluster.yaml 'ray job submit --no-wait -- python launch.py --best-only",
        ("--run-root", "--runs 1 --run-root"),
    )
    cluster.wait_for_job(cluster.submit(best), 600)
    table = run(page.command("ray exec cluster.yaml 'cd ~/wpm && python -m analysis.table"))
    assert all(re.search(rf"{row}\b.* \d+\.\d+", table) for row in ROWS), table
    say(table)

    say("-- the end")
    run(page.command("ray down cluster.yaml") + " --yes")
    wait_until(lambda: not any(cluster.raylets(name) for name in CLUSTER), 180, every=1)
