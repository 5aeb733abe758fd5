"""A page gets what has changed since its last question, and nothing else."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.live_page import write_unfinished
from tests.support.searches import draw_parameters, write_course, write_searched
from wpm.live_page.watcher import Watcher


def ask(watcher: Watcher, token: str = "") -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(watcher.changes_since(token))
    return answer


def changed(answer: dict[str, Any]) -> list[str]:
    return [study["row"] for study in answer["changed"]]


def test_new_page_gets_everything_and_then_only_changes(tmp_path: Path) -> None:
    place = write_unfinished(tmp_path, "contrastive")
    write_searched(tmp_path, "triplet", 2)
    watcher = Watcher(tmp_path)
    watcher.refresh()
    first = ask(watcher)
    assert sorted(changed(first)) == ["contrastive", "triplet"]
    watcher.refresh()
    second = ask(watcher, first["token"])
    assert (changed(second), second["token"]) == ([], first["token"])
    write_course(place, 6, draw_parameters(1)[0], 0.4)
    watcher.refresh()
    third = ask(watcher, first["token"])
    assert changed(third) == ["contrastive"]
    assert third["changed"][0]["ended"] == 7
    assert changed(ask(watcher, third["token"])) == []
    assert len(changed(ask(watcher))) == 2, "another page that was opened just now"


@pytest.mark.parametrize("token", ["", "x", "1.2.3", "abc.999", "." + "9" * 5000, "\N{SNOWMAN}"])
def test_token_of_another_server_gets_everything(tmp_path: Path, token: str) -> None:
    write_searched(tmp_path, trials=2)
    watcher = Watcher(tmp_path)
    watcher.refresh()
    assert len(changed(ask(watcher, token))) == 1


def test_removed_study_is_no_longer_named_and_a_new_one_is(tmp_path: Path) -> None:
    place = write_searched(tmp_path, "triplet", 2)
    watcher = Watcher(tmp_path)
    watcher.refresh()
    token = ask(watcher)["token"]
    shutil.rmtree(place.folder)
    write_searched(tmp_path, "margin", 2)
    watcher.refresh()
    answer = ask(watcher, token)
    assert answer["names"] == ["omniglot/small/margin"]
    assert changed(answer) == ["margin"]
    assert watcher.find_place("omniglot/small/triplet") is None
    assert watcher.find_place("omniglot/small/margin") is not None


def test_before_the_first_look_the_page_knows_that_it_waits(tmp_path: Path) -> None:
    answer = ask(Watcher(tmp_path))
    assert (answer["progress"], answer["overall"], answer["names"]) == ([0, 0], {}, [])


def test_folder_without_studies_says_so(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path)
    watcher.refresh()
    answer = ask(watcher)
    assert answer["overall"]["headline"] == "No studies yet"
    assert answer["fault"] == ""


def test_run_folder_that_has_gone_is_a_line_and_the_last_state_stays(tmp_path: Path) -> None:
    root = tmp_path / "runs"
    write_searched(root, trials=2)
    watcher = Watcher(root)
    watcher.refresh()
    shutil.move(root, tmp_path / "elsewhere")
    watcher.refresh()
    answer = ask(watcher)
    assert answer["fault"] == f"{root}: cannot be read (there is no such folder now)"
    assert len(changed(answer)) == 1
    shutil.move(tmp_path / "elsewhere", root)
    watcher.refresh()
    assert ask(watcher)["fault"] == ""


def test_fault_of_the_program_is_shown_and_does_not_end_the_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(run_root: Path) -> None:
        raise ZeroDivisionError("by zero")

    watcher = Watcher(tmp_path)
    monkeypatch.setattr("wpm.live_page.watcher.find_studies", fail)
    watcher.refresh()
    assert (
        "a fault of this program, see its terminal (ZeroDivisionError: by zero)"
        in (ask(watcher)["fault"])
    )


def test_time_of_the_look_comes_from_the_clock(tmp_path: Path) -> None:
    watcher = Watcher(tmp_path, clock=lambda: 1234.5)
    watcher.refresh()
    assert (ask(watcher)["now"], ask(watcher)["looked_at"]) == (1234.5, 1234.5)


def test_reading_changes_nothing_in_the_run_folder(tmp_path: Path) -> None:
    write_unfinished(tmp_path)

    def state() -> dict[str, tuple[int, int]]:
        return {str(p): (p.stat().st_mtime_ns, p.stat().st_size) for p in tmp_path.rglob("*")}

    before = state()
    watcher = Watcher(tmp_path)
    watcher.refresh()
    watcher.refresh()
    assert state() == before
