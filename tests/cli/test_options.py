"""The options of a launch: which flags there are, and what the flags become."""

import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from wpm.cli.arguments import build_parser
from wpm.cli.checks import check_options
from wpm.cli.options import LaunchOptions
from wpm.errors import UserError
from wpm.rows import TABLE_ROWS, Row
from wpm.spaces import SPACES_FOLDER

ROOT = Path(__file__).resolve().parents[2]

# Another flag is a decision: users have to read about it, and it has to keep working.
FLAGS = {
    "--help", "--version", "--best-only", "--doctor", "--check-pipeline", "--status", "--watch",
    "--serve", "--dry-run", "--notify", "--debug",
    "--dataset", "--data-root", "--classes-by", "--split", "--same-classes",
    "--fetch", "--skip-unreadable", "--rows", "--protocol", "--set",
    "--trunk", "--precision", "--search-spaces", "--weights", "--seed",
    "--trials", "--searches", "--runs", "--top", "--no-early-stopping", "--stopping", "--sampler",
    "--trial-seeds", "--warm-start", "--published", "--allow-unfinished",
    "--max-hours", "--max-hours-per-study", "--max-gpu-hours", "--max-gpu-hours-per-study",
    "--max-disk",
    "--run-root", "--work-root", "--address", "--cpus-per-trial", "--gpus-per-trial",
}  # fmt: skip


def parse(*arguments: str) -> LaunchOptions:
    return LaunchOptions.from_arguments(build_parser(None).parse_args(arguments))


def test_flags_are_these_and_no_others() -> None:
    actions = build_parser(None)._actions
    assert {name for action in actions for name in action.option_strings} == FLAGS | {"-h"}


def test_every_flag_has_a_field_and_every_field_a_flag() -> None:
    names = {field.name for field in fields(LaunchOptions)}
    assert vars(build_parser(None).parse_args([])).keys() == names


def test_options_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        parse().weights = "random"  # type: ignore[misc]


def test_rows_are_the_default_the_named_or_the_complete_table_each_once() -> None:
    assert parse().table_rows == ("contrastive", "contrastive+wpm")
    assert parse("--rows", "triplet", "nca", "triplet").table_rows == ("triplet", "nca")
    assert parse("--rows", "nca", "all", "nca").table_rows == ("nca", *TABLE_ROWS)


@pytest.mark.parametrize(
    ("arguments", "gpus", "measures"),
    [((), None, False), (("--gpus-per-trial", "0.5"), 0.5, False),
     (("--gpus-per-trial", "auto"), None, True)],
)  # fmt: skip
def test_gpus_are_given_measured_or_left_to_the_default(
    arguments: tuple[str, ...], gpus: float | None, measures: bool
) -> None:
    options = parse(*arguments)
    assert (options.gpus, options.measures_gpus) == (gpus, measures)


def test_protocol_follows_data_set_trunk_and_precision() -> None:
    assert parse("--dataset", "sop").named_protocol == "mlrc"
    assert parse().named_protocol == "small"
    assert parse("--dataset", "folder").named_protocol is None, "the images decide"
    assert parse("--dataset", "folder", "--protocol", "mlrc").named_protocol == "mlrc"
    options = parse("--trunk", "torchvision:resnet18", "--precision", "bf16")
    assert options.find_protocol("small").name == "small-torchvision.resnet18-bf16"


def test_set_changes_values_and_trunk_and_precision_are_the_same_as_their_flags() -> None:
    protocol = parse("--set", "max_epochs=40", "--set", "crop=20").find_protocol("small")
    assert (protocol.name, protocol.max_epochs) == ("small-crop_20-max_epochs_40", 40)
    flags = parse("--trunk", "torchvision:resnet18", "--precision", "bf16")
    sets = parse("--set", "precision=bf16", "--set", "trunk=torchvision:resnet18")
    assert flags.find_protocol("small") == sets.find_protocol("small")
    assert parse("--set", "crop=24").find_protocol("small").name == "small", "its own value"


@pytest.mark.parametrize("twice", [["--set", "crop=22"], ["--set", "crop=20"]])
def test_field_that_is_set_twice_is_refused(twice: list[str]) -> None:
    with pytest.raises(UserError, match="crop is set twice, to 20 and to 2"):
        check_options(parse("--set", "crop=20", *twice))
    with pytest.raises(UserError, match="trunk is set twice, to convnet and to bninception"):
        check_options(parse("--trunk", "convnet", "--set", "trunk=bninception"))


def test_protocols_of_an_own_folder_and_of_a_file_are_found(tmp_path: Path) -> None:
    (tmp_path / "protocols").mkdir()
    path = tmp_path / "protocols" / "mine.toml"
    path.write_text('base = "small"\ncrop = 20\n')
    by_name = parse("--search-spaces", str(tmp_path), "--protocol", "mine")
    by_path = parse("--protocol", str(path), "--set", "patience=2")
    assert by_name.find_protocol("mine").crop == 20
    assert by_path.find_protocol(str(path)).name == "mine-patience_2"


def test_checks_return_the_spaces_and_read_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_text = Path.read_text

    def count(path: Path, *arguments: str, **keywords: str) -> str:
        if path.parent == SPACES_FOLDER:
            reads.append(path.name)
        return read_text(path, *arguments, **keywords)

    monkeypatch.setattr(Path, "read_text", count)
    roots = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    rows = ["triplet", "triplet+wpm", "contrastive+wpm"]
    spaces = check_options(parse("--rows", *rows, *roots))
    assert [str(space.row) for space in spaces] == rows
    assert sorted(reads) == ["contrastive.toml", "triplet.toml", "wpm.toml"]
    assert spaces[1].row == Row("triplet", "wpm")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--watch"], "--watch needs --status"),
        (["--published"], "--published needs --best-only"),
        (["--top", "2"], "--top needs --best-only"),
        (["--best-only", "--published", "--top", "2"], "--top needs --best-only"),
        (["--searches", "1000"], "--searches 1000 is too large, must be at most 999"),
        (["--best-only", "--published", "--searches", "2"], "--searches has no meaning"),
        (["--address", "http://head:8265"], "http addresses are for --status"),
        (["--sampler", "best"], "sampler"),
        (["--protocol", "mini"], "unknown protocol 'mini'"),
        (["--rows", "triplet", "cosface+wpm"], "row cosface[+]wpm: there is no pair to mine"),
    ],
)
def test_flags_that_contradict_are_refused(arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_options(parse(*arguments))


@pytest.mark.parametrize("arguments", [["--help"], ["--trials", "0"], ["--rows", "triplett"]])
def test_wrong_flags_are_refused_before_anything_slow_is_imported(arguments: list[str]) -> None:
    code = (
        "import sys, launch\n"
        "try: launch.main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "sys.exit(bool({'torch', 'ray', 'optuna'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, *arguments]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    assert answer.returncode == 0, answer.stderr


def test_search_spaces_are_those_that_ship_unless_a_folder_is_given() -> None:
    assert parse().search_spaces == SPACES_FOLDER
    assert parse("--search-spaces", "mine").search_spaces == Path("mine")


def test_paths_may_begin_with_the_home_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell replaces ~ in "--run-root ~/runs", and not in "--run-root=~/runs"."""
    monkeypatch.setenv("HOME", str(tmp_path))
    flags = (
        "--run-root=~/r", "--work-root=~/w", "--data-root=~/d", "--search-spaces=~/s",
        "--weights=~/w.pth", "--protocol=~/p.toml", "--split=~/s.csv",
    )  # fmt: skip
    options = parse(*flags)
    assert options.run_root == tmp_path / "r"
    assert options.work_root == tmp_path / "w"
    assert options.data_root == tmp_path / "d"
    assert options.search_spaces == tmp_path / "s"
    assert options.weights == str(tmp_path / "w.pth")
    assert options.protocol == str(tmp_path / "p.toml")
    assert options.split == str(tmp_path / "s.csv")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "is empty; give a path"),
        ("~no-such-user/runs", "cannot be found"),
        ("x" * 300, "has a name of 300 bytes; disks take 255"),
        ("caf\udce9", "has a name that is not UTF-8"),
    ],
)
def test_paths_that_no_disk_takes_are_refused(
    path: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        parse(f"--run-root={path}")
    assert caught.value.code == 2
    line = capsys.readouterr().err
    assert line.startswith("launch.py: error: argument --run-root: ")
    assert says in line
    assert line.count("\n") == 1
