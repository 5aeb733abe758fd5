"""What `make demo` promises: a search, not an accident, and a report at the place that it names."""

import os
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from wpm.cli.arguments import build_parser
from wpm.protocol_files import find_protocol
from wpm.rows import Row
from wpm.spaces import load_spaces
from wpm.studies.warm_start import Known, WarmStart, choose_points

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def recipe() -> list[list[str]]:
    """The commands of `make demo`, without the installation."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", "demo", "DEMO_ROOT=here"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    commands = [shlex.split(line) for line in done.stdout.replace("\\\n", " ").splitlines()]
    start = next(i for i, command in enumerate(commands) if "launch.py" in command)
    return commands[start:]


@pytest.fixture(scope="module")
def launches(recipe: list[list[str]]) -> list[Namespace]:
    return [
        build_parser(None).parse_args(command[2:]) for command in recipe if "launch.py" in command
    ]


def test_demo_searches_two_rows_and_then_tests_them(launches: list[Namespace]) -> None:
    search, test = launches
    assert (search.best_only, test.best_only) == (False, True)
    assert vars(search) == {**vars(test), "best_only": False}
    assert search.rows == ["contrastive", "contrastive+wpm"]


def test_demo_completes_ten_trials_a_row_and_more(launches: list[Namespace]) -> None:
    protocol = find_protocol(launches[0].protocol, "glyphs")
    assert protocol.trials >= 10
    assert protocol.runs >= 2
    assert launches[0].stopping == "none"


def test_ranges_of_the_demo_are_narrower_than_those_that_ship(launches: list[Namespace]) -> None:
    rows = [Row.parse(row) for row in launches[0].rows]
    own = load_spaces(rows, ROOT / launches[0].search_spaces)
    for narrow, wide in zip(own, load_spaces(rows), strict=True):
        assert narrow.searched.keys() == wide.searched.keys()
        assert narrow.thresholds == wide.thresholds
        for name, searched in narrow.searched.items():
            assert wide.searched[name].low <= searched.low < searched.high
            assert searched.high <= wide.searched[name].high
            assert searched.reason


def test_demo_knows_no_margins_before_its_search(launches: list[Namespace]) -> None:
    """So its first trials are untuned, and the line 'progress' shows what the search found."""
    rows = [Row.parse(row) for row in launches[0].rows]
    spaces = load_spaces(rows, ROOT / launches[0].search_spaces, "glyphs")
    known = Known(dict(zip(rows, spaces, strict=True)), "glyphs")
    choice = WarmStart(launches[0].warm_start)
    assert choose_points(rows[0], choice, known, 3) == ((), [])
    ((point,), notes) = choose_points(rows[1], choice, known, 3)
    assert (point.origin, notes) == ("published thresholds", [])
    assert not point.parameters.keys() & spaces[0].searched.keys()


def test_demo_shows_progress_and_says_where_the_report_is(recipe: list[list[str]]) -> None:
    commands = {command[2]: command[3:] for command in recipe if command[1:2] == ["-m"]}
    assert [*commands] == ["analysis.rank_trials", "analysis.table", "analysis.report"]
    assert "--progress" in commands["analysis.rank_trials"]
    assert commands["analysis.report"][-2:] == ["--out", "here/report.html"]
    said = " ".join(command[1] for command in recipe if command[0] == "echo")
    assert said.endswith("Report: here/report.html")
    assert "cannot show which row is better" in said
