"""What --status shows: a line a study, why its last trials failed, and until when it watches."""

import dataclasses
from pathlib import Path

import pytest

from tests.support.searches import (
    write_course,
    write_search_of_waiting_folds,
    write_searched,
)
from tests.support.tiny import make_plan
from wpm.cli.status import describe_status, format_status, watch_status
from wpm.errors import UserError
from wpm.records import TrainingFolder, TrialState, worker_seconds
from wpm.records.training_log import LOG_NAME
from wpm.studies.study import Study


def test_last_failures_are_shown_with_reason_and_log(tmp_path: Path) -> None:
    failed = {number: f"ValueError: number {number} (loss.py, line 7)" for number in range(5)}
    place = write_searched(tmp_path, trials=8, failed=failed)
    TrainingFolder(place.trial_folder(4)).write_log("Traceback ...")
    (place.trial_folder(4) / LOG_NAME).write_text("epoch 1\nepoch 2\nepoch 3\nfailed ValueError\n")
    lines = format_status(tmp_path).splitlines()
    assert lines[2:] == [
        *(f"omniglot/small/contrastive+wpm trial {n} failed: {failed[n]}" for n in (2, 3, 4)),
        f"    {place.trial_folder(4) / 'error.log'}",
        "    | epoch 2",
        "    | epoch 3",
        "    | failed ValueError",
    ]


def test_diverged_trials_are_counted_and_shown_with_their_reason(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=3)
    reason = "loss of fold 0 is nan in epoch 2"
    write_course(place, 3, {"margin": 0.5}, 0.0, TrialState.DIVERGED, reason=reason)
    heading, row, note = format_status(tmp_path).splitlines()
    assert dict(zip(heading.split(), row.split(), strict=False))["diverged"] == "1"
    assert note == f"omniglot/small/contrastive+wpm trial 3 diverged: {reason}"


def test_study_of_an_older_procedure_is_named(tmp_path: Path) -> None:
    write_searched(tmp_path, trials=3, procedure=1)
    write_searched(tmp_path, "triplet", trials=3)
    (line,) = [line for line in format_status(tmp_path).splitlines() if "procedure" in line]
    assert line.startswith(
        "omniglot/small/contrastive+wpm can be read and not continued: procedure 1 of wpm 0.2 "
        "(since then classes of batches are dealt from a deck, "
    )


def test_folds_trained_are_counted_where_some_wait(tmp_path: Path) -> None:
    write_search_of_waiting_folds(tmp_path)
    heading, row = format_status(tmp_path).splitlines()
    start = heading.index("trials x folds")
    assert row[start:].split("  ")[1] == "2 x 1, 2 x 2"


def test_study_without_failures_has_one_line(tmp_path: Path) -> None:
    write_searched(tmp_path, trials=3)
    assert len(format_status(tmp_path).splitlines()) == 2


def test_every_search_of_a_row_has_a_line_with_its_number(tmp_path: Path) -> None:
    for search in (10, 2, 1):
        write_searched(tmp_path, trials=3 + search, search=search)
    lines = format_status(tmp_path).splitlines()[1:]
    assert [line.split()[:2] for line in lines] == [
        ["omniglot/small/contrastive+wpm", "4/4"],
        ["omniglot/small/contrastive+wpm.search-2", "5/5"],
        ["omniglot/small/contrastive+wpm.search-10", "13/13"],
    ]


def test_share_of_time_that_saving_took_is_shown_where_it_was_recorded(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=2)
    header, row = format_status(tmp_path).splitlines()
    assert header.split()[-2:] == ["saving", "now"]
    assert row.split()[-2] == "-", "records of earlier versions"
    folder = TrainingFolder(place.trial_folder(0))
    reports = folder.read_reports()
    seconds = worker_seconds(reports)
    saved = dataclasses.replace(reports[-1], saving_seconds=0.03 / 0.97 * seconds)
    folder.progress.write_reports((*reports[:-1], saved))
    assert format_status(tmp_path).splitlines()[1].split()[-2] == "3.0%"


def test_no_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no studies under"):
        format_status(tmp_path)


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


def test_watching_never_takes_most_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of trials on a network disk: reading them takes longer than the interval."""
    waits: list[float] = []
    clock = iter([0.0, 3.0, 40.0, 41.0])
    monkeypatch.setattr("wpm.cli.status.time.sleep", waits.append)
    monkeypatch.setattr("wpm.cli.status.time.monotonic", lambda: next(clock))
    looks = iter([("", True), ("", False)])
    watch_status(lambda: next(looks), lambda text: None, 5.0)
    assert waits == [pytest.approx(30.0)]


def test_status_shows_whether_a_launch_runs(tmp_path: Path) -> None:
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
