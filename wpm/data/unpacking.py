"""Unpack archives into folders that are complete or absent, and never outside of them."""

import errno
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from wpm.data.archive_kinds import ArchiveKind, find_kind
from wpm.data.archives import digest_file
from wpm.errors import UserError, storage_error

# Errors that are about the disk; all others are about the name of a member.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES)
_NAME_BYTES = 200  # of an unpacked folder's name; most disks allow 255 with the digest
_BY_HAND = "unpack it with another program and give --data-root the folder"
_AGAIN = f"download it again, or if other programs can open it, {_BY_HAND}"
_ENCRYPTED = 0x1  # a flag of a zip's member
_UNCLEAR = (ArchiveKind.OTHER, ArchiveKind.EMPTY, ArchiveKind.COMPRESSED)
# Systems that write names with backslashes, as the zip names the system that made a member.
_WINDOWS = (0, 10, 11)
_ENDINGS = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")


def is_archive(file: Path) -> bool:
    """Whether the name of a file is that of an archive that `unpack_archive` can unpack."""
    return file.name.lower().endswith(_ENDINGS)


def unpack_archive(archive: Path, into: Path) -> Path:
    """Unpack a zip or a tar into a folder named by its content, unless that folder exists.

    Args:
        archive: the file. What it is, is found by its content.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder. An unpacking that fails leaves none.

    Raises:
        UserError: another kind of file, damaged, encrypted, or a member would be written outside
            the folder.
        StorageError: the folder cannot be written.
    """
    kind = find_kind(archive)
    if kind is ArchiveKind.TAR:
        return _unpack(archive, into, _extract_tar, suffix="")
    # A zip may have anything before its content, such as the program that unpacks it.
    if kind is ArchiveKind.ZIP or (kind in _UNCLEAR and archive.suffix.lower() == ".zip"):
        return unpack_zip(archive, into)
    raise UserError(f"{archive}: is {kind}; {kind.fix}")


def unpack_zip(archive: Path, into: Path) -> Path:
    """Unpack a zip into a folder named by its content; see `unpack_archive`."""
    # A version before read the folders of such a zip as parts of file names.
    suffix = "-folders" if _read_members(archive)[1] else ""
    return _unpack(archive, into, _extract_zip, suffix)


def unpack_folder(archive: Path, name: str, into: Path) -> Path:
    """Unpack one folder of a zip or a gzipped tar, and return it.

    Args:
        archive: the file, whose name ends in `.zip` or `.tgz`.
        name: the folder at the top of the archive; anything beside it is dropped.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder. An unpacking that fails leaves none.

    Raises:
        UserError: not such an archive, damaged, without that folder, or a member would be written
            outside of it.
        StorageError: the folder cannot be written.
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


def _unpack(archive: Path, into: Path, extract: Callable[[Path, Path], None], suffix: str) -> Path:
    target = into / f"{_stem(archive)}-{digest_file(archive, 'sha256')[:12]}{suffix}"
    if target.is_dir():
        return target
    partial = _make_partial(into)
    try:
        extract(archive, partial)
        _move_into_place(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _stem(archive: Path) -> str:
    """Return the name of an archive without its ending, cut where a disk may not take it."""
    name = archive.name
    for ending in _ENDINGS:
        if ending.startswith(".t") and name.lower().endswith(ending):
            name = name[: -len(ending)]
            break
    else:
        name = archive.stem
    return name.encode()[:_NAME_BYTES].decode(errors="ignore")


def _make_partial(into: Path) -> Path:
    try:
        into.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=into, prefix=".partial-"))
    except OSError as error:
        raise storage_error(into, error) from error


def _read_members(archive: Path) -> tuple[list[zipfile.ZipInfo], bool]:
    """List a zip; return its members, and whether their names have backslashes for folders.

    Raises:
        UserError: not a zip, or one with members that cannot be unpacked as they are meant.
    """
    try:
        with zipfile.ZipFile(archive) as zipped:
            members = zipped.infolist()
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise UserError(f"{archive}: damaged or not a zip ({error}); {_AGAIN}") from error
    except OSError as error:
        raise UserError(f"{archive}: cannot be read ({error.strerror or error})") from error
    encrypted = [member.filename for member in members if member.flag_bits & _ENCRYPTED]
    if encrypted:
        raise UserError(
            f"{archive}: is encrypted, and so {len(encrypted)} of {len(members)} members such as "
            f"{encrypted[0]!r} cannot be read; unpack it with its password and give --data-root "
            "the folder"
        )
    links = [member.filename for member in members if stat.S_ISLNK(member.external_attr >> 16)]
    if links:
        raise UserError(
            f"{archive}: {len(links)} of {len(members)} members are symbolic links, such as "
            f"{links[0]!r}, which are not followed; pack the files that they point to (zip does "
            f"so without -y), or {_BY_HAND}"
        )
    with_backslash = [member for member in members if "\\" in member.filename]
    is_windows = bool(with_backslash) and (
        all(member.create_system in _WINDOWS for member in with_backslash)
        or not any("/" in member.filename for member in members)
    )
    if is_windows:
        for member in members:
            member.filename = member.filename.replace("\\", "/")
    return members, is_windows


def _extract_zip(archive: Path, folder: Path) -> None:
    member = ""
    entries, _ = _read_members(archive)
    try:
        with zipfile.ZipFile(archive) as zipped:
            for entry in entries:
                _refuse_outside(archive, entry.filename, folder)
            for entry in entries:
                member = entry.filename
                zipped.extract(entry, folder)  # compares its checksum
    except NotImplementedError as error:
        raise UserError(
            f"{archive}: member {member!r} cannot be read ({error}); {_BY_HAND}"
        ) from error
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
        raise UserError(f"{archive}: damaged or not a zip ({error}); {_AGAIN}") from error
    except OSError as error:
        raise _refused_member(archive, member, folder, error) from error


def _extract_tar(archive: Path, folder: Path) -> None:
    members = [""]  # the last one is what an error is about

    def check(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        members.append(member.name)
        _refuse_outside(archive, member.name, folder)
        return tarfile.data_filter(member, path)  # refuses unsafe links, devices and modes

    try:
        with tarfile.open(archive, "r:*") as tar:
            tar.extractall(folder, filter=check)
    except tarfile.FilterError as error:
        raise UserError(
            f"{archive}: member {error.tarinfo.name!r} is refused ({error}); get the archive from "
            "its own site"
        ) from error
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise UserError(f"{archive}: damaged or not a tgz ({error}); download it again") from error
    except OSError as error:
        raise _refused_member(archive, members[-1], folder, error) from error


def _refused_member(archive: Path, member: str, folder: Path, error: OSError) -> UserError:
    """Return the error for a member that cannot be written: because of the disk, or its name."""
    if error.errno in _DISK_ERRORS:
        return storage_error(folder.parent, error)
    return UserError(
        f"{archive}: member {member!r} cannot be unpacked ({error.strerror or error}): it lies in "
        "something that is no folder, or has an impossible name; get the archive from its own site"
    )


def _refuse_outside(archive: Path, member: str, folder: Path) -> None:
    # Not Path.resolve, which raises an error where links form a circle.
    if not Path(os.path.realpath(folder / member)).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{archive}: member {member!r} would be written outside the folder; refused, get the "
            "archive from its own site"
        )


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename a finished folder; if another process was first, keep its folder."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
