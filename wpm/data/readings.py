"""Know which images of an index are read otherwise than versions up to 0.2.0 read them.

The name of a pixel cache is a digest of its images and of how they are decoded. If the rule for a
few kinds of image changed every name, studies on all other images could not be continued. So the
name depends on the rule only where an image is of such a kind, and headers say which are.
"""

from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from wpm.cpus import count_cpus
from wpm.data.digests import ReadableImages, memory_path, recall
from wpm.data.grey_levels import PLAIN, find_levels
from wpm.data.image_file import UndecodableError, name_decoder_errors
from wpm.data.index import ImageIndex
from wpm.data.orientation import find_turn
from wpm.files import read_json, write_json

UPRIGHT, LEVELS = "upright", "levels"
_TEXTS = {
    UPRIGHT: "turned upright as their metadata say",
    LEVELS: "read with the grey levels that their headers state",
}


def turns_upright(index: ImageIndex) -> bool:
    """Return whether images are turned as their metadata say: a user's own, not published sets."""
    return index.dataset == "folder"


def find_readings(readable: ReadableImages, work_root: Path) -> dict[str, str]:
    """Return how images are read, by path, where that is otherwise than before.

    Published sets are read as ever, so nothing is looked at. What is found out about a file is
    remembered as long as its content stays the same.
    """
    index = readable.index
    if not turns_upright(index):
        return {}
    path = memory_path(index, work_root, "readings")
    known = recall(path)
    new = [p for p in index.paths if known.get(p, [None])[0] != readable.digests[p]]
    with ThreadPoolExecutor(count_cpus()) as pool:
        found = pool.map(lambda p: _describe(index.root / p), new)
        known |= {p: [readable.digests[p], reading] for p, reading in zip(new, found, strict=True)}
    if new:
        write_json(path, known)
    return {p: str(known[p][1]) for p in index.paths if known[p][1]}


def describe_readings(readings: Mapping[str, str]) -> str:
    """Say in words how many images are read otherwise than before, and how."""
    counts = Counter(word for reading in readings.values() for word in reading.split())
    return " and ".join(f"{count} images are {_TEXTS[word]}" for word, count in counts.items())


@dataclass(frozen=True)
class FormerCache:
    """The cache that versions before this one would have made of the same images.

    Attributes:
        name: of its folder.
        reason: what is decoded otherwise now.
    """

    name: str
    reason: str


def read_former(folder: Path) -> FormerCache | None:
    """Return which cache of earlier versions a cache replaces; None where it is the same one."""
    former = read_json(folder / "meta.json").get("before_readings")
    return None if former is None else FormerCache(former["name"], former["reason"])


def _describe(path: Path) -> str:
    try:
        with name_decoder_errors(), Image.open(path) as image:
            words = [LEVELS] if _has_other_levels(image) else []
            if image.format != "TIFF" and _may_be_turned(image, path) and find_turn(image):
                words.append(UPRIGHT)
    except UndecodableError:
        return ""  # decoding it will fail too, and give the reason
    return " ".join(words)


def _has_other_levels(image: Image.Image) -> bool:
    try:
        levels = find_levels(image)
    except ValueError:  # refused now, and guessed before
        return True
    return levels is not None and (levels != PLAIN or "transparency" in image.info)


def _may_be_turned(image: Image.Image, path: Path) -> bool:
    """Spare PNG files the decoding that asking Pillow for their metadata would take.

    It does so because metadata may stand behind the pixels; then their name is in the file.
    """
    if image.format != "PNG" or "exif" in image.info or "XML:com.adobe.xmp" in image.info:
        return True
    content = path.read_bytes()
    return any(name in content for name in (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp"))
