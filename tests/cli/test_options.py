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
    "--help", "--version", "--best-only", "--doctor", "--status", "--watch", "--dry-run",
    "--notify", "--debug",
    "--dataset", "--data-root", "--fetch", "--skip-unreadable", "--rows", "--protocol", "--trunk",
    "--precision", "--search-spaces", "--weights", "--seed",
    "--trials", "--runs", "--top", "--no-early-stopping", "--sampler", "--warm-start",
    "--published", "--allow-unfinished",
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
    assert parse("--dataset", "sop").find_protocol().name == "mlrc"
    protocol = parse("--trunk", "torchvision:resnet18", "--precision", "bf16").find_protocol()
    assert protocol.name == "small-torchvision.resnet18-bf16"


def test_checks_return_the_spaces_and_read_each_file_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_text = Path.read_text

    def count(path: Path, *arguments: str, **keywords: str) -> str:
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
