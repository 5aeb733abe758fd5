"""Where a Ray that a launch starts on this machine keeps its files, and the token that guards it.

Ray takes the folder from RAY_TMPDIR or TMPDIR, else /tmp, and the token from the home folder. In
containers, on clusters and on full disks these may be unusable; then a launch gets its own.
"""

import errno
import os
import secrets
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from wpm.errors import UserError
from wpm.files import hold_lock, is_locked

# Below RAY_TMPDIR; the name holds the time in microseconds, and a process number of up to 7 digits.
_SOCKET = "ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
_SOCKET_BYTES = 107  # the longest path of a Unix socket on Linux
LONGEST = _SOCKET_BYTES - len(_SOCKET) - 1
# Ray's logs of a short search take less than 1 MB; its processes die where none can be written.
_NEEDED_BYTES = 32 * 2**20
# Tried after the folder that Ray would take. All have short paths, and most systems have them all.
_ELSEWHERE = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"))

LOCK_NAME = "launch.lock"  # in a folder of a launch's own; held while the launch runs
# A folder this young may belong to a launch that has not locked it yet.
_SWEEP_AFTER_S = 60.0


@dataclass(frozen=True)
class RayFolder:
    """A folder in which a Ray started here can keep its files.

    Attributes:
        path: the folder; Ray makes a folder `ray` in it.
        refused: why it is not the folder that Ray would take by itself; "" where it is that one.
    """

    path: Path
    refused: str


def find_ray_folder(environment: Mapping[str, str] = os.environ) -> RayFolder:
    """Return the folder that Ray would take, or another where that one cannot be used.

    Raises:
        UserError: no folder can be used; says why, and which variable to set.
    """
    asked, source = _asked_folder(environment)
    # Ray of another user may have made the folder `ray` already. Elsewhere we take one of our own.
    inside = asked / "ray" if os.access(asked / "ray", os.F_OK) else asked
    reasons: list[str] = []
    for folder in dict.fromkeys((inside, *_ELSEWHERE)):
        trouble = _find_length_trouble(asked if folder == inside else folder)
        trouble = trouble or _find_trouble(folder)
        if not trouble:
            return RayFolder(folder if reasons else asked, reasons[0] if reasons else "")
        reasons.append(f"{source if folder == asked else ''}{folder} {trouble}")
    raise UserError(
        f"Ray cannot keep its files: {'; '.join(reasons)}; set RAY_TMPDIR to a folder that can be "
        f"written, on a disk with {_NEEDED_BYTES // 2**20} MB free, with a path of at most "
        f"{LONGEST} bytes"
    )


def _asked_folder(environment: Mapping[str, str]) -> tuple[Path, str]:
    """Return the folder that Ray takes by itself, and what names it."""
    for variable in ("RAY_TMPDIR", "TMPDIR"):
        if environment.get(variable):
            return Path(environment[variable]).absolute(), f"{variable}="
    return Path("/tmp"), ""


def _find_length_trouble(folder: Path) -> str:
    """Return why the path of RAY_TMPDIR is too long, or ""."""
    length = len(os.fsencode(folder))
    if length <= LONGEST:
        return ""
    return f"has a path of {length} bytes, and the sockets of Ray allow {LONGEST}"


def _find_trouble(folder: Path) -> str:
    """Try in a folder what Ray does there; return why it fails, or ""."""
    try:
        folder.mkdir(parents=True, exist_ok=True)  # as Ray does
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=folder) as probe:
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(f"{probe}/socket")
            _reserve(Path(probe, "file"))
    except OSError as error:
        return f"cannot be used ({error.strerror})"
    return ""


def _reserve(path: Path) -> None:
    """Write a file as large as Ray's files may become, without writing its bytes."""
    with path.open("wb") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, _NEEDED_BYTES)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # not what this disk can do
                raise


@contextmanager
def provide_for_ray(note: Callable[[str], None]) -> Iterator[None]:
    """Set the variables by which a Ray that is started here finds its folder and its token.

    Args:
        note: called with a line if Ray's files go elsewhere than Ray would put them.

    Raises:
        UserError: no folder can be used.
    """
    with ExitStack() as stack:
        found = find_ray_folder()
        folder = found.path
        if found.refused:
            folder = stack.enter_context(hold_ray_files(folder))
            note(f"Ray's files go to {folder}, because {found.refused}")
        variables = {"RAY_TMPDIR": str(folder)}
        if _lacks_token(os.environ):
            variables["RAY_AUTH_TOKEN"] = _own_token()
        before = {name: os.environ.get(name) for name in variables}
        stack.callback(_restore, before)
        os.environ.update(variables)
        yield


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def hold_ray_files(parent: Path) -> Iterator[Path]:
    """Make a folder for files of Ray, and remove those of this user's launches that were killed."""
    parent.mkdir(parents=True, exist_ok=True)
    for folder in parent.glob(".ray-*"):
        with suppress(OSError):  # another launch may be removing it, too
            status = folder.lstat()
            is_old = time.time() - status.st_mtime > _SWEEP_AFTER_S
            is_ours = status.st_uid == os.getuid()
            if is_old and is_ours and not is_locked(folder / LOCK_NAME):
                shutil.rmtree(folder, ignore_errors=True)
    ray_files = Path(tempfile.mkdtemp(dir=parent, prefix=".ray-"))
    try:
        with hold_lock(ray_files / LOCK_NAME, wait_s=0, what="Ray's files"):
            yield ray_files
    finally:
        shutil.rmtree(ray_files, ignore_errors=True)


@cache  # Ray keeps the first token of a process, whatever the environment says later
def _own_token() -> str:
    return secrets.token_hex(32)


def _lacks_token(environment: Mapping[str, str]) -> bool:
    """Whether Ray would have to write a token into the home folder, which may not be writable."""
    if environment.get("RAY_AUTH_MODE", "token").lower() != "token":
        return False
    if environment.get("RAY_AUTH_TOKEN") or environment.get("RAY_AUTH_TOKEN_PATH"):
        return False
    with suppress(OSError, RuntimeError, ValueError):  # no home, not readable, not text
        return not (Path.home() / ".ray" / "auth_token").read_text().strip()
    return True
