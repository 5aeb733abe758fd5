"""The one exception that means: the user can mend this."""

from pathlib import Path


class UserError(Exception):
    """Bad input, a missing file or a broken environment, told in one line.

    The message says what was wrong (with the value received), where, and how to mend it.
    `launch.py` and the analysis scripts print it without a traceback and exit with code 2.
    """


class DamagedFileError(UserError):
    """A file does not match the checksum that was written with it."""


class FormatError(UserError):
    """A file was written by another version, in another layout."""


class StorageError(UserError):
    """A file cannot be read or written: the disk is full, read-only, or gone."""


class LockedError(UserError):
    """Another process holds a lock."""


def storage_error(path: Path, error: Exception, done: str = "written") -> StorageError:
    """Return what tells the user that the system refused a file.

    Args:
        path: the file.
        error: of the system.
        done: what could not be done with it.
    """
    reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return StorageError(
        f"{path}: cannot be {done} ({reason}); free space, fix permissions or choose another path, "
        "then give the same command again"
    )
