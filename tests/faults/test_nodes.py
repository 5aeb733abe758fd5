"""Nodes that lack something are refused; nodes that vanish or join midway change no result."""

import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import ROOT, Launcher, study_states, wait_until
from tests.faults.test_kills import workers_of
from tests.ray_nodes import RayNodes
from wpm.records import COMPLETE, PRUNED

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


def node_of(worker: int) -> int | None:
    """Return the process of the node that a worker belongs to, None once it has ended."""
    with suppress(OSError):
        status = Path(f"/proc/{worker}/status").read_text()
        return int(status.split("PPid:")[1].split()[0])
    return None


def wait_for_training_on(launcher: Launcher, node: int, process: "subprocess.Popen[str]") -> None:
    def training() -> bool:
        assert process.poll() is None, "the search ended first"
        return node in {node_of(worker) for worker in workers_of(launcher)}

    wait_until(training)


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


def test_search_goes_on_when_a_node_dies_and_uses_one_that_joins(
    tmp_path: Path, ray_folder: Path
) -> None:
    launcher = Launcher(tmp_path)
    rows = ("--rows", "contrastive", "contrastive+wpm")
    with RayNodes(ray_folder, nodes=3) as nodes:
        launcher.environment |= nodes.environment
        on_cluster = (*rows, "--address", nodes.address)
        process = launcher.start(*on_cluster, "--trials", "3", "--protocol", "small")
        doomed = nodes.added[0]
        wait_for_training_on(launcher, doomed, process)
        nodes.remove(doomed)
        wait_for_training_on(launcher, nodes.add(), process)
        output, _ = process.communicate(timeout=300)
        assert process.returncode == 0, output
        launcher.run(*on_cluster, "--protocol", "small", "--best-only", "--runs", "1")

    records = launcher.trials()
    assert len(records) == 6
    assert {record.state for record in records} <= {COMPLETE, PRUNED}
    for record in records:
        epochs = [report["epoch"] for report in record.reports]
        assert epochs == list(range(1, len(epochs) + 1)), "an epoch was lost or repeated"
    for states in study_states(launcher.run_root).values():
        assert Counter(states)["COMPLETE"] + Counter(states)["PRUNED"] == 3
    token = (ray_folder / "token").read_bytes()
    files = [path for path in launcher.run_root.rglob("*") if path.is_file()]
    assert not [path for path in files if token in path.read_bytes()], "a secret was logged"
    table = subprocess.run(
        [sys.executable, "-m", "analysis.table", "--run-root", str(launcher.run_root)],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "contrastive+wpm" in table.stdout
