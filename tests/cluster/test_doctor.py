"""The doctor's checks, each on a node with exactly that trouble."""

import dataclasses
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.tiny import make_config, make_image_folder, make_pixels, smoke_protocol
from wpm.cluster import disk_needs, doctor
from wpm.cluster import node_facts as machine
from wpm.cluster.disk_needs import PlannedRun
from wpm.cluster.doctor import examine, find_unshared
from wpm.cluster.node_facts import Facts, Listener, probe_shared_folders
from wpm.cluster.nodes import Answer, Node
from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.errors import UserError
from wpm.records import TrainingFolder
from wpm.training.training import Training

NODE = Node("1f2e", "worker (10.0.0.2)", cpus=4.0, gpus=0.0)
FINE = Facts((), {}, token=True, listeners=(), public=(), cuda=None)


def ask_here(function: Callable[[Node, Any], Any], question: Any) -> list[Answer]:
    """Replace the cluster by one node, which is this process."""
    return [Answer(NODE, function(NODE, question))]


def facts(**changes: Any) -> dict[Node, Facts]:
    return {NODE: dataclasses.replace(FINE, **changes)}


@pytest.fixture
def planned(tmp_path: Path) -> PlannedRun:
    make_image_folder(tmp_path / "images")
    source = DataSource("folder", tmp_path / "images", tmp_path / "work")
    return PlannedRun(
        run_root=tmp_path / "runs",
        source=source,
        index=load_index(source),
        protocol=smoke_protocol(),
        rows=2,
        trials=10,
        runs=2,
        weights=None,
        cpus=1.0,
        gpus=0.0,
    )


@pytest.fixture
def safe_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setattr(machine, "find_listeners", list)
    monkeypatch.setattr(machine, "_outward_addresses", lambda: ["10.0.0.2"])


@pytest.mark.usefixtures("safe_machine")
def test_healthy_node_has_no_findings_and_keeps_no_files(planned: PlannedRun) -> None:
    assert list(examine(planned, ask_here)) == []
    assert list(planned.run_root.iterdir()) == []
    assert list(planned.source.work_root.iterdir()) == []


@pytest.mark.usefixtures("safe_machine")
def test_images_that_a_node_lacks_or_has_otherwise_are_named(planned: PlannedRun) -> None:
    image = planned.index.root / planned.index.paths[0]

    def ask(function: Callable[[Node, Any], Any], question: Any) -> list[Answer]:
        if function is machine.gather_facts:
            image.unlink()
        return ask_here(function, question)

    (finding,) = examine(planned, ask)
    assert str(finding) == (
        f"worker (10.0.0.2): {image}: cannot be read (No such file or directory); "
        "mount the same disk there, at the same path, with locks"
    )
    image.write_bytes(b"another")
    (line,) = machine._read_samples({image: "0" * 64})
    assert line == f"{image}: differs from the driver's file of that name"


# What a node may make of the folder in which it meets the driver.
def _lose(meeting: Path) -> None:
    shutil.rmtree(meeting)


def _have_another(meeting: Path) -> None:
    (meeting / machine.MARK).write_text("another disk")


def _lose_locks(meeting: Path) -> None:
    (meeting / machine.LOCK).unlink()


def _refuse_writing(meeting: Path) -> None:
    (meeting / NODE.id).mkdir()


@pytest.mark.parametrize(
    ("spoil", "trouble"),
    [
        (_lose, "cannot be seen (No such file or directory)"),
        (_have_another, "is not the folder that the driver sees"),
        (_lose_locks, "a lock that the driver holds is not seen"),
        (_refuse_writing, "cannot be written (Is a directory)"),
    ],
)
def test_folder_that_a_node_does_not_share_is_refused(
    spoil: Callable[[Path], None], trouble: str, tmp_path: Path
) -> None:
    def ask(function: Callable[[Node, Any], Any], question: Any) -> list[Answer]:
        for meeting in question:
            spoil(meeting)
        return ask_here(function, question)

    runs = tmp_path / "runs"
    (finding,) = find_unshared([runs], ask)
    assert (finding.where, finding.what) == (NODE.name, f"{runs}: {trouble}")
    with pytest.raises(UserError, match=r"worker \(10.0.0.2\): .*/runs: .*; mount the same disk"):
        doctor.check_shared([runs], ask)


def test_node_that_writes_elsewhere_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "_CACHE_DELAY_S", 0.0)
    (finding,) = find_unshared([tmp_path], lambda function, question: [Answer(NODE, ())])
    assert finding.what == f"{tmp_path}: what it writes is not seen by the driver"
    doctor.check_shared([tmp_path], ask_here)


def test_silent_node_is_named(tmp_path: Path) -> None:
    (finding,) = find_unshared([tmp_path], lambda f, q: [Answer(NODE, None, "silent for 180 s")])
    assert finding.what == "does not answer: silent for 180 s"


def test_folder_that_the_driver_cannot_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    with pytest.raises(UserError, match=r"runs: cannot be written \(File exists\)"):
        find_unshared([tmp_path / "runs"], ask_here)


def test_other_versions_are_named_with_both_values() -> None:
    wanted = {"torch": "2.14.1", "ray": "2.60.0", "code of wpm": "aaaa"}
    on_node = {"torch": "2.13.0", "ray": "2.60.0"}
    (finding,) = doctor.find_other_versions(wanted, facts(versions=on_node))
    assert finding.what == (
        "torch 2.13.0, the driver has 2.14.1; code of wpm None, the driver has aaaa"
    )
    assert not list(doctor.find_other_versions(wanted, facts(versions=wanted)))


def test_version_of_the_code_follows_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = machine.read_versions()
    assert before == machine.read_versions()
    changed = shutil.copytree(Path(machine.__file__).parents[1], tmp_path / "wpm")
    (changed / "training" / "fold.py").write_text("# changed\n")
    monkeypatch.setattr(machine, "__file__", str(changed / "cluster" / "node_facts.py"))
    after = machine.read_versions()
    assert [name for name in before if before[name] != after[name]] == ["code of wpm"]


@pytest.mark.parametrize(
    ("cuda", "what"),
    [
        (1, "declares 2 GPUs, torch sees 1"),
        ("RuntimeError: driver too old", "declares 2 GPUs, torch cannot use them (RuntimeError:"),
    ],
)
def test_declared_gpus_that_torch_cannot_use_are_found(cuda: int | str, what: str) -> None:
    node = dataclasses.replace(NODE, gpus=2.0)
    fact = dataclasses.replace(FINE, cuda=cuda)
    (finding,) = doctor.find_missing_gpus({node: fact})
    assert finding.what.startswith(what)
    assert not list(doctor.find_missing_gpus({node: dataclasses.replace(FINE, cuda=2)}))


def test_open_doors_are_found() -> None:
    dashboard = Listener("0.0.0.0", 8265, dashboard=True)
    private = Listener("127.0.0.1", 8265, dashboard=True)
    raylet = Listener("::", 40001, dashboard=False)
    assert not list(doctor.find_open_doors(facts(listeners=(private, raylet))))
    (open_dashboard,) = doctor.find_open_doors(facts(listeners=(dashboard,)))
    assert open_dashboard.what == "the dashboard answers on every address, port 8265"
    (no_token,) = doctor.find_open_doors(facts(listeners=(raylet,), token=False))
    assert no_token.what.startswith("Ray asks for no token")
    assert "RAY_AUTH_MODE=token" in no_token.fix


def test_ports_on_a_public_address_are_blocking_without_a_token() -> None:
    raylet = Listener("::", 40001, dashboard=False)
    inside = Listener("127.0.0.1", 40002, dashboard=False)
    found = facts(listeners=(raylet, inside), public=("8.8.8.8",))
    (note,) = doctor.find_open_doors(found)
    assert str(note).startswith("note: worker (10.0.0.2): has the public address 8.8.8.8")
    assert note.what.endswith("on ports 40001")
    without = {NODE: dataclasses.replace(found[NODE], token=False)}
    assert [finding.blocking for finding in doctor.find_open_doors(without)] == [True, True]


def test_listeners_of_ray_are_read_from_proc(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    head = "  sl  local_address rem_address   st tx rx tr when retrnsmt uid timeout inode\n"
    (tmp_path / "net" / "tcp").write_text(
        head
        + "   0: 0100007F:2049 00000000:0000 0A 0:0 0:0 0 0 0 501 1\n"  # 127.0.0.1:8265
        + "   1: 00000000:18EB 00000000:0000 0A 0:0 0:0 0 0 0 502 1\n"  # 0.0.0.0:6379
        + "   2: 0100007F:2050 0100007F:18EB 01 0:0 0:0 0 0 0 503 1\n"  # connected
        + "   3: 00000000:0016 00000000:0000 0A 0:0 0:0 0 0 0 504 1\n"  # another's
    )
    (tmp_path / "net" / "tcp6").write_text(
        head + f"   0: {'0' * 32}:9C41 {'0' * 32}:0000 0A 0:0 0:0 0 0 0 505 1\n"
    )
    commands = {
        "10": b"/x/site-packages/ray/dashboard/dashboard.py\0--port=8265\0--host=x\0",
        "11": b"/x/site-packages/ray/core/src/ray/gcs/gcs_server\0",
        "12": b"/usr/sbin/sshd\0/home/ray/\0",
        "13": b"ray::ResourceTrainable.train",
    }
    sockets = {"10": ("501", "503"), "11": ("502",), "12": ("504",), "13": ("505",)}
    for process, command in commands.items():
        (tmp_path / process / "fd").mkdir(parents=True)
        (tmp_path / process / "cmdline").write_bytes(command)
        for number, inode in enumerate(sockets[process]):
            (tmp_path / process / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
    (tmp_path / "14").mkdir()  # a process that has ended
    assert machine.find_listeners(tmp_path) == [
        Listener("0.0.0.0", 6379, dashboard=False),
        Listener("127.0.0.1", 8265, dashboard=True),
        Listener("::", 40001, dashboard=False),
    ]


def test_full_disk_is_reported_with_the_space_needed(
    planned: PlannedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned.run_root.mkdir()
    planned.source.work_root.mkdir()
    assert not list(doctor.find_full_disks(planned, [NODE]))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: FullDisk())
    (finding,) = doctor.find_full_disks(planned, [NODE])
    assert finding.where == f"{planned.run_root} and {planned.source.work_root}"
    assert re.fullmatch(r"0\.001 GB free, about 0\.0[0-9]+ GB needed", finding.what)


class FullDisk:
    free = 1_000_000


def test_disk_estimate_covers_the_checkpoints_that_are_written(
    planned: PlannedRun, tmp_path: Path
) -> None:
    pixels = make_pixels(tmp_path)
    training = Training(make_config(max_epochs=1), pixels, torch.device("cpu"))
    training.run_epoch()
    TrainingFolder(tmp_path / "trial").write_progress([], training.state_dict())
    # One file of what training needs, and one for each best model.
    written = sum(path.stat().st_size for path in (tmp_path / "trial").glob("checkpoint-*.pt"))
    two_nodes = disk_needs.estimate_disk(planned, [NODE, NODE])[planned.run_root]
    per_slot = (two_nodes - disk_needs.estimate_disk(planned, [NODE])[planned.run_root]) / 4
    assert 0.9 < per_slot / (2 * written) < 1.2


def test_pixel_estimate_leaves_out_what_is_cached(planned: PlannedRun, tmp_path: Path) -> None:
    work_root = planned.source.work_root
    before = disk_needs.estimate_disk(planned, [NODE])[work_root]
    built = (make_pixels(tmp_path).folder / "pixels.bin").stat().st_size
    assert before == 64 * 20 * 20 * 3 * 1.5
    assert disk_needs.estimate_disk(planned, [NODE])[work_root] == before - built


@pytest.mark.parametrize(("shift", "what"), [(60.0, "60 s ahead"), (-60.0, "60 s behind")])
def test_wrong_clock_is_reported_in_seconds(shift: float, what: str) -> None:
    def ask(function: Callable[[Node, Any], Any], question: Any) -> list[Answer]:
        return [Answer(NODE, function(NODE, question) + shift)]

    (finding,) = doctor.find_wrong_clocks(ask)
    assert finding.what == f"its clock is {what} of the driver's"
    assert not list(doctor.find_wrong_clocks(ask_here))


def test_slow_answer_is_not_a_wrong_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([1000.0, 1000.0, 1090.0])  # sent, read on the node, received 90 s later
    monkeypatch.setattr(time, "time", lambda: next(times))
    assert not list(doctor.find_wrong_clocks(ask_here))


def test_probe_never_makes_a_folder_that_is_not_mounted(tmp_path: Path) -> None:
    missing = tmp_path / "mnt" / "runs"
    (line,) = probe_shared_folders(NODE, {missing / ".doctor-x": "mark"})
    assert line == f"{missing}: cannot be seen (No such file or directory)"
    assert not (tmp_path / "mnt").exists()
