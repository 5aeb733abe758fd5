"""What a person sees: a line for every event, and one live line below; the rest goes to a log."""

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from wpm.cli.entry import complain
from wpm.errors import storage_error

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

_REFRESH_S = 0.5
_LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Console:
    """Prints to what stdout was when this was made, even if stdout is redirected later.

    Where the output ends (`| head`, a full disk, a closed terminal), the launch continues: hours of
    work must not end because nobody reads a line. The lines are in the log as well.
    """

    def __init__(self) -> None:
        self._file = os.fdopen(
            os.dup(sys.stdout.fileno()), "w", buffering=1, encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
        )  # fmt: skip
        self._lost: OSError | None = None
        self._interactive = self._file.isatty()
        self._live = ""
        self._shown_at = 0.0

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.clear()
        with suppress(OSError):  # it was reported, or is reported below
            self._file.close()
        if self._lost is not None and not isinstance(self._lost, BrokenPipeError):
            complain(f"launch.py: the output could not be written ({self._lost.strerror})")

    def line(self, text: str) -> None:
        """Print a line that stays, above the live line."""
        self.clear()
        self._write(text + "\n")
        logging.getLogger(__name__).info("%s", text)

    def live(self, describe: Callable[[], str]) -> None:
        """Replace the live line; where output is not a terminal, nothing is printed.

        Args:
            describe: returns the line. It is only called when the line is shown, because it may
                have to read a study.
        """
        if not self._interactive or time.monotonic() - self._shown_at < _REFRESH_S:
            return
        self.clear()
        try:
            width = os.get_terminal_size(self._file.fileno()).columns - 1
        except OSError:  # the terminal was closed
            return
        self._live = describe()[:width]
        self._write(self._live)
        self._shown_at = time.monotonic()

    def clear(self) -> None:
        """Remove the live line."""
        if self._live:
            self._write("\r\x1b[K")
            self._live = ""

    def _write(self, text: str) -> None:
        if self._lost is not None:
            return
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            self._lost = error
            self._interactive = False
            complain(f"launch.py: the output ended ({error.strerror}); the launch continues")


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Send log messages, and everything that is printed to stdout and stderr, to a file.

    Some libraries print without `logging`, even from C, so the file descriptors themselves are
    redirected. If the disk fills up later, lines are lost but nothing fails.

    Raises:
        StorageError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = _LossyFile(path, "a")
    except OSError as error:
        raise storage_error(path, error) from error
    with io.TextIOWrapper(
        io.BufferedWriter(raw), encoding="utf-8", errors="backslashreplace", line_buffering=True
    ) as file:
        handler = logging.StreamHandler(file)
        handler.setFormatter(logging.Formatter(_LOG_FORMAT))
        root = logging.getLogger()
        level = root.level
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        with suppress(OSError):  # the output has ended
            sys.stdout.flush()
            sys.stderr.flush()
        saved = [(fd, os.dup(fd)) for fd in (1, 2)]
        for fd, _ in saved:
            os.dup2(raw.fileno(), fd)
        try:
            with redirect_stdout(file), redirect_stderr(file):
                yield
        finally:
            for fd, copy in saved:
                os.dup2(copy, fd)
                os.close(copy)
            root.removeHandler(handler)
            root.setLevel(level)


class _LossyFile(io.FileIO):
    """A file that ignores write errors, so that no library fails because of a line in a log."""

    def write(self, data: "Buffer", /) -> int:
        with suppress(OSError):
            super().write(data)
        return memoryview(data).nbytes


LOGS_KEPT = 20  # the log files of this many launches


def new_log(run_root: Path) -> Path:
    """Return a new name for a launch's log file, and delete the oldest log files."""
    folder = run_root / "logs"
    ages: dict[Path, float] = {}
    for path in folder.glob("*.log"):
        with suppress(OSError):  # another launch may have deleted it
            ages[path] = path.stat().st_mtime
    for path in sorted(ages, key=ages.__getitem__)[: max(0, len(ages) - LOGS_KEPT + 1)]:
        path.unlink(missing_ok=True)
    return folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"
