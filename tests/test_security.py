"""Files from elsewhere run no code, and names from outside reach no folder but their own."""

import ast
import hashlib
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from launch import main
from wpm.data.unpacking import unpack_zip
from wpm.errors import UserError
from wpm.files import write_json
from wpm.model.bninception import BNInception, load_bninception_weights
from wpm.records import StudyPlace, TrainingFolder, find_studies
from wpm.rows import Row

ROOT = Path(__file__).resolve().parent.parent
SOURCES = [
    *sorted(p for d in ("wpm", "analysis", "clusters") for p in (ROOT / d).rglob("*.py")),
    ROOT / "launch.py",
]
# Reading with these runs whatever the file says; so does giving text to a shell.
UNPICKLERS = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNNERS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "yaml.load"}
RESTORERS = {"read_pickle", "restore", "ExperimentAnalysis"}  # of Ray Tune's snapshots, pandas


def calls_of(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the dotted name of every call, and its keyword arguments that are constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            constants = {
                k.arg: k.value.value
                for k in node.keywords
                if k.arg and isinstance(k.value, ast.Constant)
            }
            yield ast.unparse(node.func), constants


def names_of(path: Path) -> set[str]:
    """Return every dotted name that a module reads."""
    nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return {ast.unparse(node) for node in nodes if isinstance(node, ast.Attribute | ast.Name)}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.stem)
def test_no_module_reads_files_or_runs_text_in_a_way_that_runs_code(path: Path) -> None:
    for name, arguments in calls_of(path):
        package, _, function = name.rpartition(".")
        assert package not in UNPICKLERS, f"{name}() unpickles"
        assert name not in RUNNERS, f"{name}() runs text"
        assert function not in RESTORERS, f"{name}() unpickles"
        if name == "torch.load":
            assert arguments.get("weights_only") is True, "torch.load without weights_only=True"
        if function == "load" and package in ("np", "numpy"):
            assert arguments.get("allow_pickle") in (None, False), "np.load with allow_pickle"
        assert not arguments.get("shell"), f"{name}() starts a shell"
    unpicklers = {name for name in names_of(path) if name.split(".")[0] in UNPICKLERS}
    assert unpicklers <= {"pickle", "pickle.UnpicklingError"}


def test_archives_are_unpacked_where_members_are_checked_only() -> None:
    unpacking = [
        (path.stem, name)
        for path in SOURCES
        for name, _ in calls_of(path)
        if "." in name and name.rpartition(".")[2] in ("extract", "extractall", "unpack_archive")
    ]
    assert sorted(unpacking) == [("unpacking", "tar.extractall"), ("unpacking", "zipped.extract")]


def test_links_in_a_zip_lead_nowhere(tmp_path: Path) -> None:
    archive = tmp_path / "images.zip"
    link = zipfile.ZipInfo("a/link")
    link.external_attr = 0o120777 << 16  # a symbolic link, as Unix packs it
    with zipfile.ZipFile(archive, "w") as zipped:
        zipped.writestr(link, "../../../outside")
        zipped.writestr("a/image.png", b"x")
    with pytest.raises(UserError, match="1 of 2 members are symbolic links, such as 'a/link'"):
        unpack_zip(archive, tmp_path / "unpacked")
    assert not list(tmp_path.rglob("link"))


class Payload:
    """An object that an attacker would pickle: it makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_checkpoint_from_elsewhere_runs_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "attacked"
    torch.save({"epoch": Payload(marker)}, tmp_path / "checkpoint-1.pt")
    digest = hashlib.sha256((tmp_path / "checkpoint-1.pt").read_bytes()).hexdigest()
    checkpoint = {"file": "checkpoint-1.pt", "sha256": digest}
    write_json(tmp_path / "reports.json", {"reports": [], "epoch": 1, "checkpoint": checkpoint})
    with pytest.raises(Exception, match=r"[Ww]eights only"):
        TrainingFolder(tmp_path).read_progress()
    assert not marker.exists()


def test_weights_from_elsewhere_run_no_code(tmp_path: Path) -> None:
    marker = tmp_path / "attacked"
    torch.save({"weight": Payload(marker)}, tmp_path / "weights.pth")
    with pytest.raises(UserError, match=r"weights\.pth"):
        load_bninception_weights(
            BNInception(), tmp_path / "weights.pth", expected_sha256_prefix=None
        )
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["..", ".", "", "../x", "a/b", "/etc", "a\\b", "x\n", "-rf", ".hidden", "a b", "ä", "~"]
)
def test_study_whose_name_could_leave_the_run_folder_is_refused(name: str, tmp_path: Path) -> None:
    for dataset, protocol, row in (
        (name, "small", Row("triplet")),
        ("glyphs", name, Row("triplet")),
        ("glyphs", "small", Row(name)),
    ):
        with pytest.raises(UserError, match="cannot name a folder"):
            StudyPlace(tmp_path, dataset, protocol, row)


@pytest.mark.parametrize("flag", ["--dataset", "--protocol", "--rows"])
def test_launch_makes_no_folder_of_a_name_that_climbs(
    flag: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run_root, work_root = tmp_path / "a" / "b" / "runs", tmp_path / "a" / "b" / "data"
    folders = ("--run-root", str(run_root), "--work-root", str(work_root))
    assert main([flag, "../../climbed", *folders]) == 2
    assert len(capfd.readouterr().err.splitlines()) == 1
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("name", ["..triplet", "triplet (copy)", "triplet-old", "Triplet"])
def test_folders_that_are_no_studies_are_passed_over(name: str, tmp_path: Path) -> None:
    odd = tmp_path / "glyphs" / "small" / name
    odd.mkdir(parents=True)
    (odd / "study.json").write_text("{}")
    assert find_studies(tmp_path) == []
