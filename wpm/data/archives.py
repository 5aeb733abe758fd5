"""Download archives, and check that they are what their authors published."""

import hashlib
import time
import urllib.request
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
        url: where it is downloaded from.
        checksum: "md5:HEX" or "sha256:HEX"; HEX alone is SHA-256; its first digits are enough.
        file_name: its name on disk, where the address does not end in one.
        elsewhere: for the error once the address is dead: where else to get the file.
    """

    url: str
    checksum: str
    file_name: str = ""
    elsewhere: str = ""

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return self.file_name or self.url.rsplit("/", 1)[-1]


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """Download a file, resuming a partial one, and verify its checksum.

    Args:
        archive: what to download; nothing is, where the verified file is there already.
        folder: where the file goes; created as needed.

    Returns:
        The verified file.

    Raises:
        UserError: the address does not answer or the checksum differs; says how to do it by hand.
        StorageError: the file cannot be written.
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
    found = digest_file(file, algorithm)
    if not found.startswith(expected):
        raise UserError(
            f"{file}: has {_CHECKSUM_NAMES[algorithm]} {found[:12]}..., but {archive.url} has "
            f"{expected[:12]}...; delete it and {by_hand}"
        )


def _download(url: str, partial: Path) -> None:
    """Append what is missing to a partial file; start over where the server cannot resume."""
    present = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={present}-"} if present else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_FETCH_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416 says that nothing is missing any more
            raise
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        total = int(answer.headers.get("Content-Length") or 0)
        total += present if file.mode == "ab" else 0
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


def digest_file(path: Path, algorithm: str) -> str:
    """Return the hexadecimal digest of a file, by an algorithm of `hashlib`.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
