"""Watching: what is shown again and again, and until when."""

from pathlib import Path

import pytest

from tests.support.tiny import make_plan
from wpm.cli.status import describe_status, watch_status
from wpm.errors import UserError
from wpm.studies.study import Study


def test_watching_ends_with_the_last_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    monkeypatch.setattr("wpm.cli.status.time.sleep", waits.append)
    looks = iter([("a 1/3", True), ("a 2/3", True), ("a 3/3", False), ("never", False)])
    shown: list[str] = []
    watch_status(lambda: next(looks), shown.append, 5.0)
    assert shown == ["a 1/3", "a 2/3", "a 3/3"]
    assert waits == [5.0, 5.0]


def test_one_look_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    watch_status(lambda: ("a 1/3", True), shown.append, None)
    assert shown == ["a 1/3"]


def test_looking_never_takes_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of trials on a network disk: reading them takes longer than the interval."""
    waits: list[float] = []
    clock = iter([0.0, 3.0, 40.0, 41.0])
    monkeypatch.setattr("wpm.cli.status.time.sleep", waits.append)
    monkeypatch.setattr("wpm.cli.status.time.monotonic", lambda: next(clock))
    looks = iter([("", True), ("", False)])
    watch_status(lambda: next(looks), lambda text: None, 5.0)
    assert waits == [pytest.approx(30.0)]


def test_it_is_known_whether_a_launch_works(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=3)
    with Study(plan):
        text, running = describe_status(plan.place.run_root)
        assert running
        assert text.splitlines()[1].split()[-1] == "running"
    text, running = describe_status(plan.place.run_root)
    assert not running
    assert text.splitlines()[1].split()[-1] == "interrupted"
    with pytest.raises(UserError, match="no studies under"):
        describe_status(tmp_path / "nowhere")
