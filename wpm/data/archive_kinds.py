"""Tell by its first bytes what a file is that was given in place of a folder of images."""

import lzma
import tarfile
import zlib
from enum import Enum
from pathlib import Path

from PIL import Image

from wpm.errors import UserError

_BY_HAND = "unpack it and give --data-root the folder"
_GIVE_FOLDER = "give --data-root a folder with one folder for each class, or a zip or tar of it"


class ArchiveKind(Enum):
    """What a file is: the words for it, and what to do where it cannot be unpacked."""

    ZIP = ("a zip", _BY_HAND)
    TAR = ("a tar", _BY_HAND)
    SEVEN_ZIP = ("a 7z archive, which is not unpacked here", _BY_HAND)
    RAR = ("a RAR archive, which is not unpacked here", _BY_HAND)
    ZSTANDARD = ("compressed with Zstandard, which is not unpacked here", _BY_HAND)
    COMPRESSED = ("a single compressed file or a damaged archive", _BY_HAND)
    WEB_PAGE = (
        "a web page, not an archive",
        "the download failed: download it again, or give --data-root a folder",
    )
    IMAGE = ("a single image", _GIVE_FOLDER)
    EMPTY = ("empty", _GIVE_FOLDER)
    OTHER = ("neither a folder, a zip nor a tar", _GIVE_FOLDER)

    def __init__(self, words: str, fix: str) -> None:
        self.words = words
        self.fix = fix

    def __str__(self) -> str:
        return self.words


_MAGIC = (
    (b"PK\x03\x04", ArchiveKind.ZIP),
    (b"PK\x05\x06", ArchiveKind.ZIP),
    (b"PK\x07\x08", ArchiveKind.ZIP),
    (b"7z\xbc\xaf\x27\x1c", ArchiveKind.SEVEN_ZIP),
    (b"Rar!\x1a\x07", ArchiveKind.RAR),
    (b"\x28\xb5\x2f\xfd", ArchiveKind.ZSTANDARD),
)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")


def find_kind(file: Path) -> ArchiveKind:
    """Return what a file is.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with file.open("rb") as opened:
            start = opened.read(512)
        if not start:
            return ArchiveKind.EMPTY
        for magic, kind in _MAGIC:
            if start.startswith(magic):
                return kind
        if tarfile.is_tarfile(file):
            return ArchiveKind.TAR
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (EOFError, zlib.error, lzma.LZMAError):  # a compressed file that was cut short
        return ArchiveKind.COMPRESSED
    if start.startswith(_COMPRESSED):
        return ArchiveKind.COMPRESSED
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return ArchiveKind.WEB_PAGE
    return ArchiveKind.IMAGE if _is_image(file) else ArchiveKind.OTHER


def _is_image(file: Path) -> bool:
    try:
        with Image.open(file):
            return True
    except Exception:  # decoders raise all kinds of errors for files that they do not know
        return False
