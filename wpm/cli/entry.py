"""How every command begins and ends: its streams, its home folder and its exit code."""

import codecs
import io
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141  # the code that a shell reports if the reader of a pipe has ended

_READABLE = "wpm-readable"  # what happens to characters that a stream cannot show
_PLAIN = {"±": "+/-", "²": "^2", "×": "x", "–": "-", "…": "..."}


def run_to_end(script: str, command: Callable[[], int]) -> int:
    """Run a command; its output may be closed, full, gone, or unable to show every character.

    Args:
        script: how the command calls itself in messages.
        command: does the work, and returns the exit code.

    Returns:
        The exit code: that of the command, 141 if the reader of its output has ended, or 2 if the
        output cannot be written for another reason.

    Raises:
        SystemExit: the command ended itself, as `--help` does.
    """
    prepare()
    try:
        Path.cwd()
    except OSError:
        complain(f"{script}: error: the current folder was deleted; change to another")
        return EXIT_BAD_INPUT
    try:
        code = command()
    except SystemExit:
        if (failed := _end_output(script)) is None:
            raise
        raise SystemExit(failed) from None
    except OSError:
        if (failed := _end_output(script)) is None:  # the error is about something else
            raise
        return failed
    return _end_output(script) or code


def prepare() -> None:
    """Open missing streams, let them show any text, and make sure that there is a home folder."""
    _open_missing_streams()
    _watch_output()
    codecs.register_error(_READABLE, _replace)
    for stream in (sys.stdout, sys.stderr):
        # Tests put other kinds of streams there.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_READABLE)
    # Without HOME and an entry for the user, libraries raise errors, or make a folder called "~".
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = "/"


def _open_missing_streams() -> None:
    """Open /dev/null for the streams that the shell closed (`>&-`).

    Otherwise the next file that is opened gets the stream's number, and whatever a library prints
    ends up in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)
            setattr(sys, name, os.fdopen(number, "w" if number else "r", closefd=False))


class _WatchedFile(io.FileIO):
    """A file that remembers why it could not be written."""

    error: OSError | None = None

    def write(self, data: "Buffer", /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.error = error
            raise


def _watch_output() -> None:
    """Let stdout remember its errors: whoever catches one cannot tell what it was about."""
    before = sys.stdout
    if before is not sys.__stdout__ or not isinstance(before, io.TextIOWrapper):
        return  # tests put other streams there
    before.flush()
    file = io.BufferedWriter(_WatchedFile(before.fileno(), "w", closefd=False))
    by_line = before.line_buffering or before.write_through
    sys.stdout = io.TextIOWrapper(file, encoding=before.encoding, line_buffering=by_line)


def _replace(error: UnicodeError) -> tuple[str | bytes, int]:
    """Return something readable for characters that a stream cannot show."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    characters = error.object[error.start : error.end]
    # File names whose bytes are no text hold them as surrogates: print the bytes, as ls does.
    if all("\udc80" <= character <= "\udcff" for character in characters):
        return characters.encode("utf-8", "surrogateescape"), error.end
    plain = (_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in characters)
    return "".join(plain), error.end


def output_error() -> OSError | None:
    """Return why stdout cannot be written; None if everything printed so far has been."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return raw.error if isinstance(raw, _WatchedFile) else None


def _end_output(script: str) -> int | None:
    """Write the rest of the output; return the exit code if it cannot be written."""
    error = output_error()
    if error is None:
        return None
    _discard(sys.stdout)
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    complain(f"{script}: error: the output cannot be written ({error.strerror})")
    return EXIT_BAD_INPUT


def complain(line: str) -> None:
    """Print a line to stderr, if it can be written."""
    try:
        sys.stderr.write(f"{line}\n")
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    """Drop what a stream still holds: Python writes it when it exits, and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
