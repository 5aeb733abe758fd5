"""Run the user's own command when a study or the launch ends, without waiting for it."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from wpm.cli.options import LaunchOptions
from wpm.errors import UserError
from wpm.records.layout import label_search
from wpm.rows import PRETRAINED
from wpm.studies.study_end import StudyEnd

LIMIT_S = 60.0  # a command that runs longer is killed
_POLL_S = 0.02  # while the launch waits for its last commands


class LaunchEnd(StrEnum):
    """How a launch ended; the command of `--notify` gets the value as `WPM_EVENT`."""

    FINISHED = "finished"
    BUDGET = "budget"  # a limit was reached, and the work was suspended
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    UNHEALTHY = "unhealthy"  # --doctor found something that has to be fixed
    DISAGREES = "disagrees"  # --check-pipeline found other figures than the published ones


@dataclass(frozen=True)
class _Running:
    event: str
    process: "subprocess.Popen[bytes]"
    until: float  # on the monotonic clock


def split_command(text: str) -> list[str]:
    """Return the words of a command.

    Raises:
        UserError: a quote is not closed, or there is no such command.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"--notify {text}: {error}; close the quote") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            f"--notify {text}: no command {words[0] if words else ''!r} here; give its path, and "
            "make it executable"
        )
    return words


def make_notifier(options: LaunchOptions) -> "Notifier":
    """Return what runs the command of `--notify`; without that flag it does nothing.

    Raises:
        UserError: there is no such command.
    """
    command = [] if options.notify is None else split_command(options.notify)
    studies = " ".join(
        f"{options.dataset}/{label_search(row, search)}"
        for row in options.row_names
        for search in range(1, (1 if row == PRETRAINED else options.searches) + 1)
    )
    return Notifier(command, studies, options.run_root)


class Notifier:
    """Starts the command once per event; its failures change nothing else."""

    def __init__(
        self, command: Sequence[str], studies: str, run_root: Path, limit_s: float = LIMIT_S
    ) -> None:
        """Keep what every run of the command gets.

        Args:
            command: its words; empty for no command.
            studies: names of all selected studies.
            run_root: folder of the records.
            limit_s: seconds after which a command is killed.
        """
        self._command = list(command)
        self._always = {"WPM_STUDIES": studies, "WPM_RUN_ROOT": str(run_root.resolve())}
        self._limit_s = limit_s
        self._running: list[_Running] = []
        self.complaints: list[str] = []  # one line for every command that failed

    def on_study_end(self, end: StudyEnd) -> None:
        """Start the command for a study."""
        self._start(
            end.event,
            {
                "WPM_STUDY": end.study,
                "WPM_MESSAGE": end.message,
                "WPM_BEST": "" if end.best is None else f"{end.best:.6f}",
                "WPM_BEST_TRIAL": "" if end.best_trial is None else str(end.best_trial),
            },
        )

    def on_launch_end(self, end: LaunchEnd, message: str) -> None:
        """Start the command for the launch, and wait for all commands that still run."""
        self._start(end.value, {"WPM_MESSAGE": message})
        while self._running:
            time.sleep(_POLL_S)
            self._collect_ended()

    def _start(self, event: str, variables: Mapping[str, str]) -> None:
        if not self._command:
            return
        self._collect_ended()
        # All variables are always set: otherwise the command could inherit another study's.
        of_study = {"WPM_STUDY": "", "WPM_BEST": "", "WPM_BEST_TRIAL": ""}
        try:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._always, "WPM_EVENT": event, **of_study, **variables},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is meant for the launch, not for the command
            )
        except OSError as error:
            self.complaints.append(f"--notify ({event}) did not run: {error}")
            return
        self._running.append(_Running(event, process, time.monotonic() + self._limit_s))

    def _collect_ended(self) -> None:
        """Note which commands have ended, and kill those that take too long."""
        for running in list(self._running):
            code = running.process.poll()
            if code is None and time.monotonic() < running.until:
                continue
            self._running.remove(running)
            if code is None:
                with suppress(ProcessLookupError):
                    os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
                line = f"--notify ({running.event}) was ended after {self._limit_s:g} s"
                self.complaints.append(line)
            elif code:
                self.complaints.append(f"--notify ({running.event}) ended with exit code {code}")
