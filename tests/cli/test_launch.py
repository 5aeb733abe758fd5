"""launch.py as a user types it: fetching, --notify, --doctor, and wrong inputs in one line."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.download_server import Server, serve
from tests.support.hub_server import Hub, serve_hub
from tests.support.stored import write_final, write_run, write_search
from tests.support.tiny import make_image_folder
from tests.support.without_ray import launch_here
from wpm.cli.arguments import build_parser
from wpm.cli.model_checks import locate_weights
from wpm.cli.options import LaunchOptions
from wpm.errors import UserError
from wpm.records import StudyPlace, write_study
from wpm.rows import Row

ROOT = Path(__file__).resolve().parents[2]


def launch(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "launch.py"), *arguments],
        cwd=cwd, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def parse(arguments: list[str]) -> LaunchOptions:
    return LaunchOptions.from_arguments(build_parser(None).parse_args(arguments))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return make_image_folder(tmp_path / "images")


def test_wrong_input_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    """As a user sees it; tests/wrong_inputs/ has more than a hundred."""
    answer = launch("--rows", "kontrastive", "--run-root", f"{tmp_path}/runs")
    assert answer.returncode == 2
    assert answer.stderr.startswith("launch.py: error: unknown row 'kontrastive'; choose from ")
    assert len(answer.stderr.splitlines()) == 1
    assert not (tmp_path / "runs").exists()


def folder_arguments(images: Path, tmp_path: Path) -> list[str]:
    return [
        "--dataset", "folder", "--data-root", str(images), "--protocol", "smoke",
        "--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work"),
    ]  # fmt: skip


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    answer = launch("--rows", "kontrastive", "--debug")
    assert answer.returncode == 2
    assert "Traceback" in answer.stderr
    assert "launch.py: error: unknown row" in answer.stderr


def test_status_shows_states_and_damage(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", Row("triplet"))
    write_study(place, {"trials": 7, "identity": {}, "provenance": {}})
    (tmp_path / "omniglot" / "small" / "margin").mkdir()
    (tmp_path / "omniglot" / "small" / "margin" / "study.json").write_text('{"half')
    answer = launch("--status", "--run-root", str(tmp_path))
    assert answer.returncode == 0
    assert "omniglot/small/triplet" in answer.stdout
    assert "0/7" in answer.stdout
    assert "interrupted" in answer.stdout
    assert "margin/study.json: damaged" in answer.stdout


def test_help_has_examples() -> None:
    answer = launch("--help")
    assert answer.returncode == 0
    assert "python launch.py --best-only" in answer.stdout


def test_weights_are_fetched_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    from wpm.data.archives import Archive
    from wpm.model.trunks import TRUNKS

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    data = b"weights"
    arguments = ["--dataset", "cub200", "--work-root", str(tmp_path)]
    with serve(Server(data)) as server:

        def serve_with(checksum: str) -> None:
            archive = Archive(server.url, checksum, file_name="trunk.pth")
            monkeypatch.setattr(TRUNKS["bninception"], "find_weights", lambda _: archive)

        options = parse([*arguments, "--fetch"])
        serve_with("sha256:0123")
        with pytest.raises(UserError, match=r"SHA-256 .* but .* has 0123.*give --weights FILE"):
            locate_weights(options, "bninception")
        serve_with("sha256:" + hashlib.sha256(data).hexdigest()[:9])
        found = Path(locate_weights(options, "bninception"))
    assert found == (tmp_path / "weights" / "trunk.pth").resolve()
    assert found.read_bytes() == data
    options = parse(arguments)  # another day, without --fetch or network
    assert Path(locate_weights(options, "bninception")) == found


@pytest.mark.slow
def test_weights_of_timm_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import timm
    from safetensors.torch import save

    content = save(timm.create_model("test_efficientnet").state_dict())
    path = "timm/test_efficientnet.r160_in1k/resolve/main/model.safetensors"
    arguments = ["--protocol", "smoke", "--trunk", "timm:test_efficientnet"]
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    file = tmp_path / "work" / "weights" / "timm.test_efficientnet.r160_in1k.safetensors"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with serve_hub(Hub({path: content})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        answer = launch(*arguments, *roots, "--fetch")
        assert answer.returncode == 0, answer.stderr
        assert file.read_bytes() == content
        assert len(hub.downloads) == 1
    code, output = launch_here(*arguments, *roots, "--dry-run")  # without network and --fetch
    assert code == 0, output
    file.with_name(f"{file.name}.sha256").unlink()
    file.unlink()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # else the client tries for half a minute
    answer = launch(*arguments, *roots, "--fetch")
    assert answer.returncode == 2
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("launch.py: error")]
    assert "cannot be downloaded (" in line
    assert "give --weights FILE (--weights random to try without)" in line


@pytest.mark.slow
def test_fetch_without_rows_stops_before_the_search(tmp_path: Path) -> None:
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    code, output = launch_here("--protocol", "smoke", "--fetch", *roots)
    assert code == 0
    assert "fetched; next: " in output
    assert not list((tmp_path / "runs").glob("*/*/*/study.json"))
    assert list((tmp_path / "work" / "pixels").iterdir())


@pytest.mark.slow
def test_command_receives_how_the_launch_ended(tmp_path: Path) -> None:
    log = tmp_path / "told"
    script = tmp_path / "tell.sh"
    script.write_text(f'echo "$WPM_EVENT|$WPM_STUDIES|$WPM_MESSAGE" >> {log}; exit $1\n')
    command = f"sh {script}"
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    fetch = ("--protocol", "smoke", "--fetch", *roots)
    assert launch_here(*fetch, "--notify", f"{command} 0")[0] == 0
    final = ("--best-only", "--rows", "triplet", *roots)
    code, output = launch_here(*final, "--notify", f"{command} 3")
    assert code == 2, "the launch's own"
    assert "--notify (failed) ended with exit code 3" in output
    first, second = log.read_text().splitlines()
    assert first == "finished|glyphs/contrastive glyphs/contrastive+wpm|"
    assert second.startswith("failed|glyphs/triplet|no study glyphs/small/triplet under ")


@pytest.mark.slow
def test_dry_run_and_doctor_start_no_search(images: Path, tmp_path: Path) -> None:
    arguments = [*folder_arguments(images, tmp_path), "--rows", "triplet", "triplet+wpm"]
    code, output = launch_here(*arguments, "--dry-run", "--trials", "7", "--max-disk", "2")
    assert code == 0, output
    for row in ("triplet", "triplet+wpm"):
        assert f"folder/smoke/{row} " in output
    assert "2 studies of which nothing is known" in output
    assert "GB more in" in output
    assert "runs holds 0.00 GB of 2.15 (--max-disk)" in output
    code, output = launch_here(*arguments, "--doctor")
    assert code in (0, 2), output
    assert "to fix" in output.splitlines()[-1]
    assert not list((tmp_path / "runs").glob("*/*/*/study.json"))
    for row, gain in (("triplet", 0.0), ("triplet+wpm", 0.01)):
        for search in (1, 2):
            place = write_search(
                tmp_path / "runs", row, dataset="folder", protocol="smoke", search=search
            )
            final = write_final(place, "aa", trial=3, score=0.3)
            for run in range(2):
                write_run(final, 1000 * search + run, 0.5 + gain * (search + run))
    code, output = launch_here(*arguments, "--dry-run", "--searches", "3")
    assert code == 0, output
    assert "triplet+wpm against triplet: 3 searches with 2 final runs find" in output
