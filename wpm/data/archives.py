"""Fetch archives, check them, and unpack them without leaving the folder."""

import errno
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import urllib.request
import zipfile
import zlib
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from wpm.errors import UserError, storage_error

_FETCH_CHUNK = 2**20
_FETCH_TIMEOUT_S = 60
_CHECKSUM_NAMES = {"md5": "MD5", "sha256": "SHA-256"}


@dataclass(frozen=True)
class Archive:
    """A downloadable file and its checksum.

    Attributes:
        url: its address.
        checksum: "md5:HEX" or "sha256:HEX"; HEX alone is SHA-256; its first digits are enough.
        file_name: its name on disk, where the address does not end in one.
        elsewhere: what else to do by hand once the address is dead, as an error says it.
    """

    url: str
    checksum: str
    file_name: str = ""
    elsewhere: str = ""

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return self.file_name or self.url.rsplit("/", 1)[-1]


def unpack_zip(archive: Path, into: Path) -> Path:
    """Unpack a zip once into a folder named by its content, and return that folder.

    Args:
        archive: the zip.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder: complete, or not there at all.

    Raises:
        UserError: not a zip, damaged, or a member would leave the folder.
    """
    target = into / f"{archive.stem}-{_digest_of(archive, 'sha256')[:12]}"
    if target.is_dir():
        return target
    partial = _make_partial(into)
    try:
        _extract_zip(archive, partial)
        _move_into_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def unpack_folder(archive: Path, name: str, into: Path) -> Path:
    """Unpack one folder of a zip or a gzipped tar, and return it.

    Args:
        archive: the file; `.zip` or `.tgz` by its name.
        name: the folder at the top of the archive; what lies beside it is dropped.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder: complete, or not there at all.

    Raises:
        UserError: not such an archive, damaged, without that folder, or a member would leave it.
    """
    extract = _extract_zip if archive.suffix.lower() == ".zip" else _extract_tar
    partial = _make_partial(into)
    try:
        extract(archive, partial)
        if not (partial / name).is_dir():
            raise UserError(f"{archive}: holds no folder {name}; get the archive from its own site")
        _move_into_place(partial / name, into / name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return into / name


def _make_partial(into: Path) -> Path:
    try:
        into.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=into, prefix=".partial-"))
    except OSError as error:
        raise storage_error(into, error) from error


def _extract_zip(archive: Path, folder: Path) -> None:
    member = ""
    try:
        with zipfile.ZipFile(archive) as zipped:
            for name in zipped.namelist():
                _refuse_outside(archive, name, folder)
            for entry in zipped.infolist():
                member = entry.filename
                zipped.extract(entry, folder)  # verifies its CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{archive}: damaged or not a zip ({error}); download it again") from error
    except OSError as error:
        raise _refused_member(archive, member, folder, error) from error


def _extract_tar(archive: Path, folder: Path) -> None:
    members = [""]  # in the order in which they are written

    def check(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        members.append(member.name)
        _refuse_outside(archive, member.name, folder)
        return tarfile.data_filter(member, path)  # links, devices, modes

    try:
        with tarfile.open(archive, "r:gz") as tar:
            tar.extractall(folder, filter=check)
    except tarfile.FilterError as error:
        raise UserError(
            f"{archive}: member {error.tarinfo.name!r} is refused ({error}); get the archive from "
            "its own site"
        ) from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise UserError(f"{archive}: damaged or not a tgz ({error}); download it again") from error
    except OSError as error:
        raise _refused_member(archive, members[-1], folder, error) from error


# What the system says of a disk; everything else it says of the name of a member.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES)


def _refused_member(archive: Path, member: str, folder: Path, error: OSError) -> UserError:
    """Return what tells that a member cannot be written: for lack of space, or for its name."""
    if error.errno in _DISK_ERRORS:
        return storage_error(folder.parent, error)
    return UserError(
        f"{archive}: member {member!r} cannot be unpacked ({error.strerror or error}): it lies in "
        "something that is no folder, or has an impossible name; get the archive from its own site"
    )


def _refuse_outside(archive: Path, member: str, folder: Path) -> None:
    # Not Path.resolve, which raises where links lead in a circle.
    if not Path(os.path.realpath(folder / member)).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{archive}: member {member!r} would be written outside the folder; refused, get the "
            "archive from its own site"
        )


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename a finished folder; when another process was first, keep theirs."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """Download a file, resuming a partial one, and verify its checksum.

    Args:
        archive: address and checksum.
        folder: where the file goes; created as needed.

    Returns:
        The verified file.

    Raises:
        UserError: the address does not answer or the checksum differs; says how to do it by hand.
    """
    target = folder / archive.name
    by_hand = f"download it by hand to {target}, or give --data-root its place"
    if archive.elsewhere:
        by_hand += f" ({archive.elsewhere})"
    if target.exists():
        _verify(target, archive, by_hand)
        return target
    partial = target.with_name(target.name + ".partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _download(archive.url, partial)
    except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
        reason = str(getattr(error, "reason", error)).strip() or type(error).__name__
        raise UserError(f"{archive.url} does not answer ({reason}); {by_hand}") from error
    except OSError as error:
        raise storage_error(partial, error) from error
    try:
        _verify(partial, archive, by_hand)
    except UserError:
        partial.unlink()
        raise
    partial.rename(target)
    return target


def _verify(file: Path, archive: Archive, by_hand: str) -> None:
    algorithm, _, expected = archive.checksum.rpartition(":")
    algorithm = algorithm or "sha256"
    found = _digest_of(file, algorithm)
    if not found.startswith(expected):
        raise UserError(
            f"{file}: has {_CHECKSUM_NAMES[algorithm]} {found[:12]}..., but {archive.url} has "
            f"{expected[:12]}...; delete it and {by_hand}"
        )


def _download(url: str, partial: Path) -> None:
    """Append what is missing to a partial file; start again where a server cannot resume."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_FETCH_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is missing any more
            raise
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        total = int(answer.headers.get("Content-Length") or 0) + (have if file.mode == "ab" else 0)
        done, shown = file.tell(), time.monotonic()
        while chunk := answer.read(_FETCH_CHUNK):
            file.write(chunk)
            done += len(chunk)
            if time.monotonic() - shown > 5:
                shown = time.monotonic()
                share = f"{done / total:.0%} of " if total else ""
                print(f"fetching {url}: {share}{(total or done) / 2**20:.0f} MB", flush=True)
    if total and done < total:
        raise UserError(f"{url}: connection ended at {done} of {total} bytes; run again to resume")


def _digest_of(path: Path, algorithm: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
