"""The argument parser of every command: errors in one line, exit code 2, checked numbers."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from wpm.cli.entry import EXIT_BAD_INPUT, complain

_NAME_BYTES = 255  # the longest name of a file that disks take


class CommandParser(argparse.ArgumentParser):
    """An argument parser that prints an error in one line and exits with code 2."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and how to get help, and exit."""
        complain(f"{script_name(self)}: error: {message} (see {self.prog} --help)")
        raise SystemExit(EXIT_BAD_INPUT)


def script_name(parser: argparse.ArgumentParser) -> str:
    """Return the name by which a script calls itself in messages.

    It is `rank_trials` for `python -m analysis.rank_trials`, and `launch.py` for
    `python launch.py`.
    """
    name = parser.prog.removeprefix("python ")
    return name.removeprefix("-m ").rpartition(".")[2] if name.startswith("-m ") else name


def at_least(low: int) -> Callable[[str], int]:
    """Return a function for `add_argument(type=...)` that reads a whole number >= `low`."""

    def whole_number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < low:
            raise argparse.ArgumentTypeError(f"{value} is too small, must be at least {low}")
        return value

    return whole_number


def not_negative(text: str) -> float:
    """Read a finite number of at least 0, for `add_argument(type=...)`."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be at least 0")
    return value


def positive(text: str) -> float:
    """Read a finite number above 0, for `add_argument(type=...)`."""
    value = not_negative(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 must be above 0")
    return value


def any_path(text: str) -> Path:
    """Read a path, for `add_argument(type=...)`.

    `~` is the home folder here too: a shell does not replace it in `--run-root=~/runs`.
    """
    if not text:
        raise argparse.ArgumentTypeError("is empty; give a path, or . for the current folder")
    try:
        path = Path(text).expanduser()
        complete = path.absolute()
    except (RuntimeError, OSError) as error:  # no such user, or the current folder is gone
        raise argparse.ArgumentTypeError(f"{text!r} cannot be found ({error})") from None
    try:
        longest = max(len(name.encode()) for name in complete.parts)
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(
            f"{str(complete)!r} has a name that is not UTF-8, which records cannot hold; rename it"
        ) from None
    if longest > _NAME_BYTES:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... has a name of {longest} bytes; disks take {_NAME_BYTES}"
        )
    return path


def path_or_name(text: str) -> str:
    """Read a path or a name that is no path, for `add_argument(type=...)`."""
    return str(any_path(text)) if text.startswith("~") else text
