"""Unpack archives into folders that are complete or absent, and never outside of them."""

import errno
import gzip
import os
import shutil
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

from wpm.data.archives import digest_file
from wpm.errors import UserError, storage_error

# Errors that are about the disk; all others are about the name of a member.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES)


def unpack_zip(archive: Path, into: Path) -> Path:
    """Unpack a zip into a folder named by its content, unless that folder exists.

    Args:
        archive: the zip.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder. An unpacking that fails leaves none.

    Raises:
        UserError: not a zip, damaged, or a member would be written outside the folder.
        StorageError: the folder cannot be written.
    """
    target = into / f"{archive.stem}-{digest_file(archive, 'sha256')[:12]}"
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
                zipped.extract(entry, folder)  # compares its checksum
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{archive}: damaged or not a zip ({error}); download it again") from error
    except OSError as error:
        raise _refused_member(archive, member, folder, error) from error


def _extract_tar(archive: Path, folder: Path) -> None:
    members = [""]  # the last one is what an error is about

    def check(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        members.append(member.name)
        _refuse_outside(archive, member.name, folder)
        return tarfile.data_filter(member, path)  # refuses unsafe links, devices and modes

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
