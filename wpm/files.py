"""Files that are complete or absent, with a checksum that reveals damage; and locks."""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from wpm.errors import DamagedFileError, LockedError, storage_error

# What may name a folder of records: nothing that leaves it, hides it or needs quotes in a shell.
NAME_PATTERN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
# What `write_json` writes, byte for byte: reading it needs no second pass through JSON.
_WRITTEN = re.compile(rb'\{"sha256": "([0-9a-f]{64})",\n"content": (.*)\}\n', re.DOTALL)


# Written at a time: small enough that a writer notices soon that it should stop.
_BLOCK_BYTES = 2**22
_LOOK_S = 0.1  # longer than `is_locked` takes, on a network disk too


class WriteCancelledError(Exception):
    """The file was not written, because it is no longer needed; nothing is left behind."""


def write_bytes(path: Path, data: bytes) -> None:
    """Replace a file by new content in one step.

    A reader, and a process that resumes after a kill, sees either the old content or the new.

    Raises:
        StorageError: the file cannot be written; nothing is left behind.
    """
    with _replace(path) as file:
        file.write(data)


class HashedFile:
    """A file that is written from its start to its end, and hashed meanwhile.

    Attributes:
        error: the first error of the disk. A library that writes here may hide it behind another.
    """

    def __init__(self, file: IO[bytes], is_cancelled: Callable[[], bool]) -> None:
        self._file, self._is_cancelled = file, is_cancelled
        self._hash = hashlib.sha256()
        self.error: OSError | WriteCancelledError | None = None

    def write(self, data: bytes | memoryview) -> int:
        """Write all of the data."""
        view = memoryview(data)
        try:
            for start in range(0, len(view), _BLOCK_BYTES):
                if self._is_cancelled():
                    raise WriteCancelledError
                block = view[start : start + _BLOCK_BYTES]
                self._hash.update(block)
                self._file.write(block)
        except (OSError, WriteCancelledError) as error:
            self.error = self.error or error
            raise
        return len(view)

    def flush(self) -> None:
        """Do nothing: closing the file flushes it."""

    @property
    def sha256(self) -> str:
        """Checksum of what was written so far."""
        return self._hash.hexdigest()


def write_stream(
    path: Path,
    write: Callable[[HashedFile], object],
    is_cancelled: Callable[[], bool] = lambda: False,
) -> str:
    """Replace a file in one step by what a function writes, without a copy of it in memory.

    Args:
        path: of the file.
        write: is called with the file to write to.
        is_cancelled: asked often; True gives up.

    Returns:
        The SHA-256 of the content.

    Raises:
        StorageError: the file cannot be written; nothing is left behind.
        WriteCancelledError: given up; nothing is left behind.
    """
    with _replace(path) as file:
        hashed = HashedFile(file, is_cancelled)
        try:
            write(hashed)
        except Exception:
            if hashed.error is not None:
                raise hashed.error from None
            raise
    return hashed.sha256


@contextmanager
def _replace(path: Path) -> Iterator[IO[bytes]]:
    """Open a new file that takes the place of another once it is complete."""
    # Unique per process: an orphaned writer must not share a temporary name with its successor.
    partial = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise storage_error(path, error) from error
        raise


def append_line(path: Path, text: str) -> None:
    """Add a line to a file, completely or not at all.

    Raises:
        StorageError: the file cannot be written; it is as before.
    """
    try:
        with path.open("ab", buffering=0) as file:
            size = file.tell()
            data = f"{text}\n".encode()
            if file.write(data) != len(data):
                file.truncate(size)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError as error:
        raise storage_error(path, error) from error


def write_json(path: Path, content: Any) -> None:
    """Replace a file by JSON with a checksum of its content, in one step.

    Raises:
        StorageError: the file cannot be written; nothing is left behind.
        ValueError: the content holds NaN or infinity, which are not JSON.
    """
    # Convert to JSON and back first, so that keys that are numbers become text before they are
    # sorted, which is the order in which the reader sees them.
    plain = json.loads(json.dumps(content, allow_nan=False))
    body = json.dumps(plain, sort_keys=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    write_bytes(path, f'{{"sha256": "{digest}",\n"content": {body}}}\n'.encode())


def read_json(path: Path) -> Any:
    """Read what `write_json` wrote.

    Raises:
        DamagedFileError: the file was truncated or changed.
        StorageError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
        written = _WRITTEN.fullmatch(data)
        if written and hashlib.sha256(written[2]).hexdigest().encode() == written[1]:
            return json.loads(written[2])
        # An editor may have changed the layout, but only the content counts.
        wrapped = json.loads(data)
        body = json.dumps(wrapped["content"], sort_keys=True)
        intact = hashlib.sha256(body.encode()).hexdigest() == wrapped["sha256"]
    except OSError as error:
        raise storage_error(path, error, "read") from error
    except (ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        raise DamagedFileError(
            f"{path}: damaged, its content does not match its checksum; "
            "restore it from a backup or delete it"
        )
    return wrapped["content"]


@contextmanager
def hold_lock(path: Path, *, wait_s: float, what: str) -> Iterator[None]:
    """Hold an exclusive lock, which the system releases however the process ends.

    Args:
        path: lock file; created as needed, left in place.
        wait_s: seconds to wait for another holder.
        what: what the lock protects, for the message.

    Raises:
        LockedError: another process still holds it after `wait_s`; names that process.
        StorageError: the lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        # A process that only looks, with `is_locked`, holds the lock for a moment too.
        deadline = time.monotonic() + max(wait_s, _LOOK_S)
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    file.seek(0)
                    holder = file.read().decode(errors="replace").strip() or "another process"
                    raise LockedError(
                        f"{what} is in use by {holder}; wait for it or stop it ({path})"
                    ) from error
                time.sleep(min(0.2, max(wait_s, 0.01)))
        with contextlib.suppress(OSError):  # the lock holds even if its holder cannot be named
            file.truncate(0)
            file.write(f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield


def is_locked(path: Path) -> bool:
    """Whether any process holds this lock of `hold_lock` now."""
    if not path.exists():
        return False
    with path.open("r") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
