"""Nodes that lack something are found, and refused before a search starts."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.commands import ROOT, Launcher
from tests.ray_nodes import RayNodes

pytestmark = pytest.mark.slow

# Examines a cluster, then does what a search does before it starts.
EXAMINE = """
import sys
from pathlib import Path
from tests.tiny import smoke_protocol
from wpm.cluster import Resources, ask_nodes, connect, list_nodes
from wpm.datasets import DataSource, load_index
from wpm.doctor import Undertaking, check_shared, examine
from wpm.errors import UserError

images, run_root, work_root = map(Path, sys.argv[2:])
source = DataSource("folder", images, work_root)
undertaking = Undertaking(run_root, source, load_index(source), smoke_protocol(), rows=1, trials=1,
                          runs=1, weights=None, cpus=1.0, gpus=None)
with connect(Resources(sys.argv[1], 1.0, None)):
    print(len(list_nodes()), "nodes")
    for finding in examine(undertaking, ask_nodes):
        print("finding:", finding)
    try:
        check_shared([run_root], ask_nodes)
    except UserError as error:
        print("refused:", error)
"""


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    # Not below tmp_path: a socket's path has at most 107 bytes.
    with tempfile.TemporaryDirectory(prefix="wpm-", dir="/tmp") as folder:
        yield Path(folder)


def examine(launcher: Launcher, nodes: RayNodes) -> list[str]:
    answer = subprocess.run(
        [sys.executable, "-c", EXAMINE, nodes.address, str(launcher.images),
         str(launcher.run_root), str(launcher.work_root)],
        cwd=ROOT, env=nodes.environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    kinds = ("finding:", "refused:")
    assert not list(launcher.run_root.iterdir()), "the doctor left something"
    return [line for line in answer.stdout.splitlines() if line.startswith(kinds)]


def test_doctor_asks_every_node(tmp_path: Path, ray_folder: Path) -> None:
    launcher = Launcher(tmp_path)
    with RayNodes(ray_folder, nodes=2) as nodes:
        assert [line for line in examine(launcher, nodes) if "note: " not in line] == []
        nodes.add(gpus=1)
        (finding,) = [line for line in examine(launcher, nodes) if "note: " not in line]
        assert "declares 1 GPUs, torch sees 0" in finding


def test_node_that_lacks_the_run_folder_is_refused(tmp_path: Path, ray_folder: Path) -> None:
    launcher = Launcher(tmp_path)
    hide = f"mount -t tmpfs none {tmp_path}"
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", hide], check=False, capture_output=True
    ).returncode:
        pytest.skip("may not mount here")
    with RayNodes(ray_folder, nodes=1) as nodes:
        join = f"{sys.executable} -m ray.scripts.scripts start --address={nodes.address} --block"
        with subprocess.Popen(
            ["unshare", "-m", "sh", "-c", f"{hide} && exec {join} --num-cpus=1"],
            cwd=ROOT, env=nodes.environment, stdout=subprocess.DEVNULL, start_new_session=True,
        ) as blind:  # fmt: skip
            try:
                lines: list[str] = []
                for _ in range(10):  # until it has joined
                    lines = [line for line in examine(launcher, nodes) if "cannot be seen" in line]
                    if lines:
                        break
            finally:
                blind.terminate()
    seen = [line for line in lines if f"{launcher.run_root}: " in line]
    assert [line.split(":")[0] for line in seen] == ["finding", "refused"]
    assert all("mount the same disk there" in line for line in seen)
