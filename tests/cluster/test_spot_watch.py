"""clusters/spot_watch.py warns the trials of a spot node before AWS ends it; the node is a fake.

tests/faults/test_nodes.py has the same on a real Ray node.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import Queue

import pytest

from tests.support.commands import ROOT, wait_until
from tests.support.metadata import NOTICE, MetadataService

TRIAL = "ResourceTrainable.train"
# Plays a raylet with a trial and an idle worker, each of which notes the signals that it gets.
RAYLET = """
for title in ray::ResourceTrainable.train ray::IDLE; do
  (exec -a $title bash "$1/worker.sh" "$1/${title#ray::}") &
done
until [ -e "$1/end" ]; do sleep 0.05; done
"""
WORKER = """
trap 'printf "SIGTERM " >> "$1.told"' TERM
touch "$1.up"
until [ -e "${1%/*}/end" ]; do sleep 0.05; done
"""
# Plays Ray's command; the first time it is asked it fails.
DRAIN = """
import pathlib, sys
asked = pathlib.Path(__file__).with_name("asked")
again = asked.exists()
with asked.open("a") as file:
    file.write(" ".join(sys.argv[1:]) + "\\n")
sys.exit(None if again else "no answer from the head")
"""


class PlayedNode:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        ray = folder / "site" / "ray" / "scripts"
        ray.mkdir(parents=True)
        for package in (ray.parent, ray):  # without these Ray itself would be found instead
            (package / "__init__.py").touch()
        (ray / "scripts.py").write_text(DRAIN)
        self.drains = ray / "asked"
        for name, code in (("raylet.sh", RAYLET), ("worker.sh", WORKER)):
            (folder / name).write_text(code)
        self._process = subprocess.Popen(
            [
                "/somewhere/raylet/raylet", folder / "raylet.sh", folder,
                "--node_id=c0ffee", "--gcs-address=127.0.0.1:6379",
            ],
            executable=shutil.which("bash"),
        )  # fmt: skip
        self.raylet = self._process.pid
        wait_until(lambda: all((folder / f"{name}.up").exists() for name in (TRIAL, "IDLE")))

    def told(self, name: str) -> str:
        file = self.folder / f"{name}.told"
        return file.read_text() if file.exists() else ""

    def end(self) -> None:
        (self.folder / "end").touch()
        self._process.wait(timeout=30)


class Watcher:
    """clusters/spot_watch.py, and the lines that it prints."""

    def __init__(self, *arguments: str, site: Path) -> None:
        environment = dict(os.environ, http_proxy="http://127.0.0.1:9", PYTHONPATH=str(site))
        self.process = subprocess.Popen(
            [sys.executable, "clusters/spot_watch.py", *arguments], cwd=ROOT, env=environment,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def hear(self, words: str) -> str:
        """Return the next line, which must have these words."""
        line = self._lines.get(timeout=60)
        assert words in line, line
        return line

    def end(self) -> int:
        code = self.process.wait(timeout=60)
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


def watch(node: PlayedNode, metadata: MetadataService) -> Watcher:
    arguments = ("--raylet", str(node.raylet), "--metadata", metadata.address)
    return Watcher(*arguments, site=node.folder / "site")


@pytest.fixture
def metadata() -> Iterator[MetadataService]:
    with MetadataService() as service:
        yield service


@pytest.fixture
def node(tmp_path: Path) -> Iterator[PlayedNode]:
    played = PlayedNode(tmp_path)
    yield played
    played.end()


def test_trials_get_one_signal_and_the_node_is_drained(
    node: PlayedNode, metadata: MetadataService
) -> None:
    metadata.notice = NOTICE
    watcher = watch(node, metadata)
    watcher.hear("watching node c0ffee")
    watcher.hear(NOTICE)
    watcher.hear("cannot be drained: no answer from the head")
    watcher.hear("asked trial process")
    watcher.hear("the node is drained")
    wait_until(lambda: node.told(TRIAL) != "")
    node.end()
    watcher.hear("the node has ended")
    assert watcher.end() == 0
    assert node.told(TRIAL) == "SIGTERM ", "once, though draining took two attempts"
    assert node.told("IDLE") == "", "only trials are told"
    first, second = node.drains.read_text().splitlines()
    assert first == second
    assert "drain-node --address 127.0.0.1:6379 --node-id c0ffee" in first


def test_nothing_happens_before_the_announcement(
    node: PlayedNode, metadata: MetadataService
) -> None:
    watcher = watch(node, metadata)
    watcher.hear("watching")
    node.end()
    watcher.hear("the node has ended")
    assert watcher.end() == 0
    assert node.told(TRIAL) == ""
    assert not node.drains.exists()


def test_trials_are_warned_at_once_when_the_end_is_known(
    node: PlayedNode, metadata: MetadataService
) -> None:
    metadata.broken = True  # a line would say so if it were asked
    arguments = ("--raylet", str(node.raylet), "--metadata", metadata.address, "--now")
    watcher = Watcher(*arguments, site=node.folder / "site")
    watcher.hear("node c0ffee is about to be taken away")
    watcher.hear("cannot be drained: no answer from the head")
    watcher.hear("asked trial process")
    watcher.hear("the node is drained")
    wait_until(lambda: node.told(TRIAL) != "")
    node.end()
    watcher.hear("the node has ended")
    assert watcher.end() == 0
    assert node.told(TRIAL) == "SIGTERM "


def test_silent_metadata_service_is_reported_and_asked_again(
    node: PlayedNode, metadata: MetadataService
) -> None:
    metadata.broken = True
    watcher = watch(node, metadata)
    watcher.hear("watching")
    watcher.hear("does not answer: HTTP Error 500")
    metadata.broken = False
    watcher.hear("answers again")
    metadata.notice = NOTICE
    watcher.hear(NOTICE)
    watcher.process.send_signal(signal.SIGTERM)
    watcher.end()


def test_process_that_is_no_node_is_refused_in_one_line(tmp_path: Path) -> None:
    watcher = Watcher("--raylet", str(os.getpid()), site=tmp_path)
    watcher.hear(f"spot_watch: process {os.getpid()} is not the raylet of a Ray node")
    assert watcher.end() == 2


def test_nodes_are_found_and_one_of_several_must_be_named(node: PlayedNode, tmp_path: Path) -> None:
    other = PlayedNode(tmp_path / "other")
    watcher = Watcher(site=tmp_path)
    line = watcher.hear("run here: name one with --raylet")
    assert watcher.end() == 2
    other.end()
    assert {str(node.raylet), str(other.raylet)} <= set(re.findall(r"\d+", line))
