"""The user's own command is run for studies and for the launch; neither waits for it."""

import time
from pathlib import Path

import pytest

from wpm.cli.notify import LaunchEnd, Notifier, split_command
from wpm.errors import UserError
from wpm.studies.study_end import STUDY_FINISHED, StudyEnd

END = StudyEnd("glyphs/small/triplet", STUDY_FINISHED, "12 trials", 0.5, 7)


def make_script(tmp_path: Path, text: str) -> list[str]:
    script = tmp_path / "tell.sh"
    script.write_text(text)
    return split_command(f"sh '{script}'")


def test_command_is_run_for_studies_and_for_the_launch(tmp_path: Path) -> None:
    told = "$WPM_EVENT|$WPM_STUDY|$WPM_BEST|$WPM_BEST_TRIAL|$WPM_MESSAGE|$WPM_STUDIES|$WPM_RUN_ROOT"
    command = make_script(tmp_path, f'echo "{told}" >> {tmp_path}/log\n')
    notifier = Notifier(command, "glyphs/triplet", tmp_path)
    notifier.on_study_end(END)
    for running in notifier._running:
        running.process.wait()
    notifier.on_launch_end(LaunchEnd.FAILED, "disk full")
    assert (tmp_path / "log").read_text().splitlines() == [
        f"study_finished|glyphs/small/triplet|0.500000|7|12 trials|glyphs/triplet|{tmp_path}",
        f"failed||||disk full|glyphs/triplet|{tmp_path}",
    ]
    assert notifier.complaints == []


def test_a_study_does_not_wait_for_the_command_and_the_launch_ends_it(tmp_path: Path) -> None:
    notifier = Notifier(make_script(tmp_path, "sleep 60\n"), "", tmp_path, limit_s=1.0)
    start = time.monotonic()
    notifier.on_study_end(END)
    assert time.monotonic() - start < 0.5
    notifier.on_launch_end(LaunchEnd.FINISHED, "")
    assert time.monotonic() - start < 10
    assert notifier.complaints == [
        "--notify (study_finished) was ended after 1 s",
        "--notify (finished) was ended after 1 s",
    ]


def test_failing_commands_are_reported_in_one_line_each(tmp_path: Path) -> None:
    notifier = Notifier(make_script(tmp_path, "exit 3\n"), "", tmp_path)
    notifier.on_study_end(END)
    notifier.on_launch_end(LaunchEnd.FINISHED, "")
    assert sorted(notifier.complaints) == [
        "--notify (finished) ended with exit code 3",
        "--notify (study_finished) ended with exit code 3",
    ]
    gone = Notifier([str(tmp_path / "gone")], "", tmp_path)
    gone.on_launch_end(LaunchEnd.FINISHED, "")
    assert gone.complaints[0].startswith("--notify (finished) did not run: ")


def test_no_command_is_none(tmp_path: Path) -> None:
    notifier = Notifier([], "", tmp_path)
    notifier.on_study_end(END)
    notifier.on_launch_end(LaunchEnd.FINISHED, "")
    assert notifier.complaints == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mail 'me", "close the quote"),
        ("", "no command ''"),
        ("no-such-command x", "no command 'no"),
    ],
)
def test_wrong_commands_are_refused_before_hours_are_spent(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split_command(text)
