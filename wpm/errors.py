"""Errors that the user can fix; everything else that is raised is a fault of this program."""

from pathlib import Path


class UserError(Exception):
    """An error the user can fix: bad input, a missing file or a broken environment.

    Its message is one line that says what was wrong (with the value received), where, and how to
    fix it. `launch.py` and the analysis scripts print it without a traceback and exit with code 2.
    """


class DamagedFileError(UserError):
    """A file does not match the checksum that was written with it."""


class FormatError(UserError):
    """Another version wrote a file, in another layout."""


class StorageError(UserError):
    """A file cannot be read or written: the disk is full, read-only, or gone."""


class LockedError(UserError):
    """Another process holds a lock."""


def storage_error(path: Path, error: Exception, done: str = "written") -> StorageError:
    """Return the error for a file that the system refused.

    Args:
        path: the file.
        error: what the system raised.
        done: what could not be done with the file, as a participle.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageError(
        f"{path}: cannot be {done} ({reason}); free space, fix permissions or choose another path, "
        "then give the same command again"
    )
