"""Make the full report of a study, or of all, when somebody asks for it."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path

from wpm.records import StudyPlace

# Returns the command that writes the report of a study, or of all for None, into a file.
ReportCommand = Callable[[StudyPlace | None, Path], Sequence[str]]


class ReportError(Exception):
    """The command that makes a report failed; the message is what it printed."""


class ReportMaker:
    """Makes one report at a time, and keeps each until the records have changed."""

    def __init__(self, command: ReportCommand, folder: Path, working_folder: Path) -> None:
        """Make nothing yet.

        Args:
            command: returns the command for a report.
            folder: where reports are kept while the server runs.
            working_folder: in which the command is run.
        """
        self._command, self._folder, self._working_folder = command, folder, working_folder
        self._one_at_a_time, self._numbers = asyncio.Lock(), count(1)
        self._made: dict[StudyPlace | None, tuple[int, Path]] = {}

    async def make(self, place: StudyPlace | None, version: int) -> Path:
        """Return the file of a report.

        Args:
            place: the study; None for all.
            version: changes with the study's records.

        Raises:
            ReportError: it cannot be made.
        """
        async with self._one_at_a_time:
            known = self._made.get(place)
            if known is None or known[0] != version:
                # A new file each time: an earlier answer may still be reading the former.
                path = self._folder / f"report-{next(self._numbers)}.html"
                await self._run(self._command(place, path))
                if known is not None:
                    known[1].unlink(missing_ok=True)
                known = self._made[place] = version, path
            return known[1]

    async def _run(self, command: Sequence[str]) -> None:
        process = await asyncio.create_subprocess_exec(
            *command,
            cwd=self._working_folder,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            _, complaints = await process.communicate()
        except asyncio.CancelledError:  # the server is being stopped
            with suppress(ProcessLookupError):  # it has ended by itself, since Ctrl-C reaches all
                process.kill()
            await process.communicate()
            raise
        if process.returncode != 0:
            raise ReportError(complaints.decode(errors="replace").strip())
