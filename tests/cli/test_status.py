"""What --status shows: a line a study, and why its last trials failed."""

from pathlib import Path

import pytest

from tests.support.searches import write_searched
from wpm.cli.status import format_status
from wpm.errors import UserError
from wpm.records import TrainingFolder
from wpm.records.training_log import LOG_NAME


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


def test_study_without_failures_has_one_line(tmp_path: Path) -> None:
    write_searched(tmp_path, trials=3)
    assert len(format_status(tmp_path).splitlines()) == 2


def test_no_studies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no studies under"):
        format_status(tmp_path)
