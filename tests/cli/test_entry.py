"""Every command where its output is closed, full, gone or ASCII, and where there is no home."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

import launch
from wpm.cli import entry
from wpm.cli.checks import check_writable
from wpm.cli.entry import EXIT_BAD_INPUT, EXIT_BROKEN_PIPE
from wpm.cli.options import LaunchOptions
from wpm.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
ANALYSIS = sorted(
    path.stem
    for path in (ROOT / "analysis").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
PROGRAMS = {"launch.py": ["launch.py"], **{n: ["-m", f"analysis.{n}"] for n in ANALYSIS}}
HELP = {name: [*program, "--help"] for name, program in PROGRAMS.items()}
READS = {
    "launch.py": ["launch.py", "--status"],
    "rank_trials": ["-m", "analysis.rank_trials"],
    "importance": ["-m", "analysis.importance"],
    "table": ["-m", "analysis.table"],
}
# Unbuffered output fails while it is printed, buffered output at the end.
BUFFERINGS = ("", "1")


def run(
    command: list[str],
    variables: Mapping[str, str] | None = None,
    *,
    shell: str = "",
    stdout: int = subprocess.PIPE,
) -> "subprocess.CompletedProcess[str]":
    """Run a command of the repository.

    Args:
        command: what follows `python`.
        variables: of the environment.
        shell: redirections of a shell; "" for none.
        stdout: descriptor that it writes to.
    """
    words = [sys.executable, *command]
    if shell:
        words = ["bash", "-c", f'exec "$@" {shell}', "bash", *words]
    return subprocess.run(
        words, cwd=ROOT, env={**os.environ, **(variables or {})}, text=True, check=False,
        stdout=stdout, stderr=subprocess.PIPE, timeout=120,
    )  # fmt: skip


@contextmanager
def pipe_without_reader() -> Iterator[int]:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        yield writing
    finally:
        os.close(writing)


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_whose_reader_has_gone_ends_quietly(name: str) -> None:
    with pipe_without_reader() as writing:
        done = run(HELP[name], stdout=writing)
    assert (done.returncode, done.stderr) == (EXIT_BROKEN_PIPE, "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_is_readable_in_ascii(name: str) -> None:
    done = run(HELP[name], {"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert name != "table" or "the mean over the runs +/- the half-width" in done.stdout


@pytest.mark.parametrize("name", PROGRAMS)
def test_help_that_a_full_disk_does_not_take_is_an_error(name: str) -> None:
    done = run(HELP[name], shell=">/dev/full")
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr == f"{name}: error: the output cannot be written (No space left on device)\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_closed_output_is_not_wanted(name: str) -> None:
    done = run(HELP[name], shell="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", PROGRAMS)
def test_refusal_keeps_its_exit_code_where_nobody_can_read_it(name: str) -> None:
    done = run([*PROGRAMS[name], "--no-such-flag"], shell="2>/dev/full")
    assert (done.returncode, done.stdout) == (EXIT_BAD_INPUT, "")


@pytest.mark.parametrize("buffering", BUFFERINGS)
@pytest.mark.parametrize("name", READS)
def test_records_are_read_for_any_output(name: str, buffering: str, searched_folder: Path) -> None:
    command = [*READS[name], "--run-root", str(searched_folder / "runs")]
    variables = {"PYTHONUNBUFFERED": buffering}
    with pipe_without_reader() as writing:
        done = run(command, variables, stdout=writing)
    assert done.returncode == EXIT_BROKEN_PIPE
    assert "Error" not in done.stderr
    done = run(command, variables, shell=">/dev/full")
    assert done.returncode == EXIT_BAD_INPUT
    line = f"{name}: error: the output cannot be written (No space left on device)"
    assert done.stderr.splitlines()[-1] == line
    assert run(command, variables, shell=">&-").returncode == 0


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii"},
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    ],
)
def test_records_are_printed_in_ascii(
    name: str, environment: dict[str, str], searched_folder: Path
) -> None:
    done = run([*READS[name], "--run-root", str(searched_folder / "runs")], environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii()
    assert name != "rank_trials" or "+/- sd" in done.stdout


def test_characters_that_a_stream_cannot_show_are_replaced() -> None:
    entry.prepare()
    assert "1 ± 2, é, \N{SNOWMAN}".encode("ascii", "wpm-readable") == b"1 +/- 2, \\xe9, \\u2603"
    # The name of a file whose bytes are Latin-1 is printed as it is on the disk.
    assert os.fsdecode(b"caf\xe9").encode("utf-8", "wpm-readable") == b"caf\xe9"


def test_error_about_something_else_is_not_one_of_the_output() -> None:
    def fail() -> int:
        raise OSError(errno.ENOSPC, "of another disk")

    with pytest.raises(OSError, match="of another disk"):
        entry.run_to_end("x", fail)


def test_deleted_folder_is_refused(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    done = subprocess.run(
        ["bash", "-c", 'mkdir "$1"; cd "$1"; rmdir "$1"; exec "$2" "$3" --status', "bash",
         gone, sys.executable, ROOT / "launch.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == EXIT_BAD_INPUT
    assert done.stderr == "launch.py: error: the current folder was deleted; change to another\n"


def test_user_without_a_home_gets_one_for_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", _no_entry)
    entry.prepare()
    assert Path.home() == Path("/")


def _no_entry(user: int) -> None:
    raise KeyError(f"uid not found: {user}")


def test_status_of_a_folder_that_may_not_be_read_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(options: LaunchOptions) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/others/runs")

    monkeypatch.setattr(launch, "show_status", refuse)
    assert launch.main(["--status"]) == EXIT_BAD_INPUT
    line = "launch.py: error: [Errno 13] Permission denied: '/others/runs'\n"
    assert capsys.readouterr().err == line


def test_folder_that_the_system_cannot_look_up_is_judged_by_its_parent(tmp_path: Path) -> None:
    """As below a folder of another user; the name is too long, since root may look up anything."""
    check_writable(tmp_path / ("x" * 300))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is not a writable folder"):
        check_writable(tmp_path / "file" / ("x" * 300))
