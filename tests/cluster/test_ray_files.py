"""Where a Ray that is started here keeps its files, and its token; Ray is not started."""

import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from wpm.cluster import ray_files
from wpm.cluster.ray_files import LONGEST, find_ray_folder, hold_ray_files, provide_for_ray
from wpm.errors import UserError
from wpm.files import hold_lock


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder with a path that Ray's sockets allow, which `tmp_path` has not."""
    folder = Path(tempfile.mkdtemp(prefix="w", dir="/tmp"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def elsewhere(short: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that is tried after the one that Ray would take."""
    folder = short / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(ray_files, "_ELSEWHERE", (folder,))
    return folder


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"RAY_TMPDIR": "a", "TMPDIR": "b"}, "a"),
        ({"TMPDIR": "b"}, "b"),
        ({"RAY_TMPDIR": "", "TMPDIR": "b"}, "b"),
    ],
)
def test_ray_files_go_where_ray_puts_them(
    environment: dict[str, str], name: str, short: Path
) -> None:
    named = {key: value and str(short / value) for key, value in environment.items()}
    found = find_ray_folder(named)
    assert (found.path, found.refused) == (short / name, "")
    assert not any(found.path.iterdir()), "what was tried there is gone"


def test_ray_files_go_to_tmp_by_default() -> None:
    assert find_ray_folder({}).path == Path("/tmp")


def test_longest_path_is_the_longest_that_a_socket_takes(short: Path, elsewhere: Path) -> None:
    longest = short / ("x" * (LONGEST - len(str(short)) - 1))
    assert find_ray_folder({"TMPDIR": str(longest)}).path == longest
    found = find_ray_folder({"TMPDIR": f"{longest}x"})
    assert found.path == elsewhere
    assert found.refused == (
        f"TMPDIR={longest}x has a path of 40 bytes, and the sockets of Ray allow 39"
    )


def test_folder_that_cannot_be_written_is_replaced(short: Path, elsewhere: Path) -> None:
    (short / "file").touch()
    found = find_ray_folder({"RAY_TMPDIR": str(short / "file" / "below")})
    assert found.path == elsewhere
    assert found.refused == f"RAY_TMPDIR={short}/file/below cannot be used (Not a directory)"


def test_folder_of_another_user_below_it_counts(short: Path, elsewhere: Path) -> None:
    """Ray makes a folder `ray`, which may be there already, and not ours."""
    (short / "ray").touch()
    found = find_ray_folder({"TMPDIR": str(short)})
    assert found.path == elsewhere
    assert found.refused == f"{short}/ray cannot be used (File exists)"


def test_full_disks_are_refused_with_the_variable_to_set(
    short: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "_NEEDED_BYTES", 2**60)
    with pytest.raises(UserError) as refused:
        find_ray_folder({"TMPDIR": str(short)})
    message = str(refused.value)
    assert f"TMPDIR={short} cannot be used" in message
    assert f"{elsewhere} cannot be used" in message
    assert "set RAY_TMPDIR to a folder that can be written" in message
    assert "\n" not in message
    assert [path.name for path in short.rglob("*")] == ["elsewhere"], "nothing is left"


def test_own_folder_is_private_and_removed_in_the_end(
    short: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = f"/proc/{'x' * LONGEST}"
    monkeypatch.setenv("RAY_TMPDIR", asked)
    notes: list[str] = []
    with provide_for_ray(notes.append):
        (folder,) = elsewhere.iterdir()
        assert os.environ["RAY_TMPDIR"] == str(folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "ray").mkdir()
    assert os.environ["RAY_TMPDIR"] == asked
    assert not any(elsewhere.iterdir())
    assert len(notes) == 1
    assert notes[0].startswith(f"Ray's files go to {folder}, because RAY_TMPDIR={asked} has a path")


@pytest.mark.parametrize("home", ["no such folder", "empty token", "none"])
def test_launch_brings_its_own_token_where_home_has_none(
    home: str, tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    _forget_token(monkeypatch)
    if home == "empty token":
        (tmp_path / "home" / ".ray").mkdir(parents=True)
        (tmp_path / "home" / ".ray" / "auth_token").touch()
    if home == "none":
        monkeypatch.setattr(Path, "home", _no_home)
    tokens = set()
    for _ in range(2):
        with provide_for_ray(pytest.fail):
            tokens.add(os.environ["RAY_AUTH_TOKEN"])
        assert "RAY_AUTH_TOKEN" not in os.environ
    (token,) = tokens
    assert len(token) == 64, "the same for the process: Ray keeps the first that it reads"


def _forget_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)


def _no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize(
    "environment",
    [{}, {"RAY_AUTH_TOKEN": "mine"}, {"RAY_AUTH_TOKEN_PATH": "/x"}, {"RAY_AUTH_MODE": "disabled"}],
)
def test_token_of_the_user_is_used(
    environment: dict[str, str], tmp_path: Path, short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(short))
    monkeypatch.setenv("HOME", str(tmp_path))
    _forget_token(monkeypatch)
    if not environment:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").write_text("mine")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with provide_for_ray(pytest.fail):
        assert os.environ.get("RAY_AUTH_TOKEN") == environment.get("RAY_AUTH_TOKEN")


def test_files_of_killed_launches_are_removed(tmp_path: Path) -> None:
    old, young, held = (tmp_path / f".ray-{name}" for name in ("old", "young", "held"))
    for folder in (old, young, held):
        folder.mkdir()
        (folder / ray_files.LOCK_NAME).touch()
    for folder in (old, held):
        os.utime(folder, (0, 0))
    with (
        hold_lock(held / ray_files.LOCK_NAME, wait_s=0, what="it"),
        hold_ray_files(tmp_path) as ours,
    ):
        assert set(tmp_path.iterdir()) == {young, held, ours}
    assert set(tmp_path.iterdir()) == {young, held}
