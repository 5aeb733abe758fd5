"""Each training has one log file: its content, its size, its last lines."""

import logging
import os
import warnings
from pathlib import Path

import pytest

from tests.support.training_jobs import finish, make_job
from wpm.cli.console import LOGS_KEPT, new_log
from wpm.records import training_log
from wpm.records.training_log import LOG_NAME, last_lines, log_training


def test_a_training_logs_its_epochs_and_its_end(tmp_path: Path) -> None:
    finish(make_job(tmp_path))
    lines = (tmp_path / "training" / LOG_NAME).read_text().splitlines()
    assert "started on" in lines[0]
    assert sum("best MAP@R" in line and "fold 3 loss" in line for line in lines) == 4
    assert "complete" in lines[-1]


def test_log_holds_warnings_of_libraries_and_nothing_after_its_end(tmp_path: Path) -> None:
    with warnings.catch_warnings(), log_training(tmp_path):
        warnings.simplefilter("always")
        warnings.warn("deprecated thing", DeprecationWarning, stacklevel=1)
        logging.getLogger("library").warning("odd image")
    logging.getLogger("library").warning("of another training")
    text = (tmp_path / LOG_NAME).read_text()
    assert "DeprecationWarning: deprecated thing" in text
    assert "WARNING library: odd image" in text
    assert "of another training" not in text


def test_size_is_capped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_log, "MAX_BYTES", 2000)
    with log_training(tmp_path):
        for number in range(200):
            logging.getLogger("library").warning("line %d", number)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert len(sizes) == 2
    assert sum(sizes) <= 4000
    assert last_lines(tmp_path)[-1].endswith("line 199")


def test_last_lines_are_few_and_short(tmp_path: Path) -> None:
    assert last_lines(tmp_path) == []
    (tmp_path / LOG_NAME).write_text("\n".join(["a", "b", "c", "d" * 1000, "e"]))
    assert [len(line) for line in last_lines(tmp_path)] == [1, 204, 1]


def test_the_newest_logs_of_launches_stay(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    logs.mkdir()
    for number in range(LOGS_KEPT + 5):
        path = logs / f"20260101-{number:06}-1.log"
        path.write_text("")
        os.utime(path, (number, number))
    running = logs / "20260101-000000-1.log"
    running.touch()  # the oldest by name still writes
    new = new_log(tmp_path)
    assert new.parent == logs and not new.exists()
    left = {path.name for path in logs.iterdir()}
    assert len(left) == LOGS_KEPT - 1
    assert running.name in left
    assert new_log(tmp_path / "empty").parent == tmp_path / "empty" / "logs"
