"""Runs the user's own command when a study or the launch ends; nothing waits for it meanwhile."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wpm.errors import UserError
from wpm.studies.study_end import StudyEnd

LIMIT_S = 60.0  # that a command may take


@dataclass(frozen=True)
class _Running:
    event: str
    process: "subprocess.Popen[bytes]"
    until: float


def split_command(text: str) -> list[str]:
    """Return the words of a command.

    Raises:
        UserError: a quote is left open, or there is no such command.
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


class Notifier:
    """Starts the command for every event; what becomes of it changes nothing else."""

    def __init__(
        self, command: Sequence[str], studies: str, run_root: Path, limit_s: float = LIMIT_S
    ) -> None:
        """Start nothing yet.

        Args:
            command: its words; none for no command.
            studies: names of all selected studies, for the command.
            run_root: records, for the command.
            limit_s: seconds after which a command is ended.
        """
        self._command = list(command)
        self._always = {"WPM_STUDIES": studies, "WPM_RUN_ROOT": str(run_root.resolve())}
        self._limit_s = limit_s
        self._running: list[_Running] = []
        self.complaints: list[str] = []  # a line for every command that failed

    def tell_study(self, end: StudyEnd) -> None:
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

    def tell_launch(self, event: str, message: str) -> None:
        """Start the command for the launch, and wait for all that run."""
        self._start(event, {"WPM_MESSAGE": message})
        while self._running:
            time.sleep(0.02)
            self._look()

    def _start(self, event: str, told: Mapping[str, str]) -> None:
        if not self._command:
            return
        self._look()
        told = {"WPM_EVENT": event, "WPM_STUDY": "", "WPM_BEST": "", "WPM_BEST_TRIAL": "", **told}
        try:
            process = subprocess.Popen(
                self._command,
                env={**os.environ, **self._always, **told},
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a Ctrl-C is meant for the launch
            )
        except OSError as error:
            self._complain(f"--notify ({event}) did not run: {error}")
            return
        self._running.append(_Running(event, process, time.monotonic() + self._limit_s))

    def _look(self) -> None:
        """See which commands have ended; end those that take too long."""
        for running in list(self._running):
            code = running.process.poll()
            if code is None and time.monotonic() < running.until:
                continue
            self._running.remove(running)
            if code is None:
                with suppress(ProcessLookupError):
                    os.killpg(running.process.pid, signal.SIGKILL)
                running.process.wait()
                self._complain(f"--notify ({running.event}) was ended after {self._limit_s:g} s")
            elif code:
                self._complain(f"--notify ({running.event}) ended with exit code {code}")

    def _complain(self, line: str) -> None:
        self.complaints.append(line)
