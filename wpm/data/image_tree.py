"""What lies in a tree of folders: images by folder, and files that may be images."""

import functools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from wpm.data.own_folders import is_no_class
from wpm.errors import UserError

# Formats that Pillow recognises, but needs another program for, cannot decode, or will drop (IM).
_NOT_DECODED = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "IPTC", "IM"}
# Files that belong beside images. All others are counted, since they may be images.
_COMPANIONS = {
    ".txt", ".md", ".json", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".html", ".htm", ".log",
    ".db", ".ini", ".toml", ".npy", ".npz", ".mat", ".py", ".pdf", ".lock",
}  # fmt: skip


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Return the endings, with their dot and in lower case, of files that Pillow can decode."""
    extensions = Image.registered_extensions()  # loads Pillow's plug-ins
    return frozenset(
        suffix
        for suffix, name in extensions.items()
        if name in Image.OPEN and name not in _NOT_DECODED
    )


@dataclass
class ImageTree:
    """What lies in a tree of folders.

    Attributes:
        images: sorted names of the images in every folder that holds some, by its path from the
            root, "." for the root itself.
        other: how many files of other endings lie in a folder, by path and ending.
        skipped: paths of folders that are never classes.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    other: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def list_images(root: Path) -> dict[str, list[str]]:
    """List the images of a tree, whatever they are.

    Args:
        root: top of the tree; links to folders are followed, each folder once.

    Returns:
        The sorted names of images by folder, which is relative to `root` and "." for `root` itself.

    Raises:
        UserError: a folder cannot be read, or a name is not UTF-8.
    """
    return read_image_tree(root, None).images


def holds_images(root: Path, work_root: Path) -> bool:
    """Whether any image lies in or below a folder, where an index would find it.

    Raises:
        UserError: a folder cannot be listed.
    """
    return any(images for _, images, _ in _walk(root, work_root, []))


def read_image_tree(root: Path, work_root: Path | None) -> ImageTree:
    """Read a tree without the folders that are never classes.

    Args:
        root: top of the tree; links to folders are followed, each folder once.
        work_root: this program's own folders are below it.

    Raises:
        UserError: a folder cannot be listed, or a name is not UTF-8.
    """
    tree = ImageTree()
    for folder, images, others in _walk(root, work_root, tree.skipped):
        name = Path(folder).relative_to(root).as_posix()
        if images:
            tree.images[name] = sorted(images)
        if others and name != ".":
            tree.other[name] = Counter(_ending(other) for other in others)
    _check_names(root, tree)
    return tree


def _walk(
    root: Path, work_root: Path | None, skipped: list[str]
) -> Iterator[tuple[str, list[str], list[str]]]:
    """Yield every folder that may be a class, with its images and the files that may be images.

    Args:
        skipped: gets the paths of the other folders, unless they are hidden.
    """
    suffixes = image_suffixes()
    seen: set[str] = set()

    def complain(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, children, files in os.walk(root, followlinks=True, onerror=complain):
        real = os.path.realpath(folder)
        if real in seen:  # by way of a link
            children.clear()
            continue
        seen.add(real)
        dropped = [name for name in sorted(children) if is_no_class(Path(folder, name), work_root)]
        skipped += [
            Path(folder, name).relative_to(root).as_posix()
            for name in dropped
            if not name.startswith(".")
        ]
        # Sorted, so that where links give a folder two names, the same one is used on every disk.
        children[:] = sorted(set(children) - set(dropped))
        visible = [name for name in files if not name.startswith(".")]
        images = [name for name in visible if _ending(name) in suffixes]
        rest = set(visible).difference(images)
        yield (
            folder,
            images,
            [name for name in rest if _ending(name) not in _COMPANIONS],
        )


def skip_wrappers(root: Path, work_root: Path | None) -> Path:
    """Descend through folders that hold nothing but one folder of folders.

    Archives wrap their tree in such a folder, on which class names must not depend.
    """
    while True:
        try:
            entries = [
                entry
                for entry in root.iterdir()
                if not entry.name.startswith(".")
                and not (entry.is_dir() and is_no_class(entry, work_root))
            ]
            if len(entries) != 1 or not entries[0].is_dir():
                return root
            below = [entry for entry in entries[0].iterdir() if entry.is_dir()]
            if all(is_no_class(entry, work_root) for entry in below):
                return root
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error
        root = entries[0]


def _check_names(root: Path, tree: ImageTree) -> None:
    """Refuse names that are not UTF-8: records, tables and pages could not hold them."""
    names = (f"{folder}/{image}" for folder, images in tree.images.items() for image in images)
    wrong = [name for name in names if not _is_utf8(name)]
    if wrong or not _is_utf8(str(root)):
        what = (
            f"{len(wrong)} images have names that are not" if wrong else "the folder's name is not"
        )
        first = f" ({_escape(wrong[0])})" if wrong else ""
        raise UserError(
            f"{_escape(str(root))}: {what} UTF-8{first}; rename them, for example by convmv -f "
            "latin1 -t utf8 -r --notest and the folder"
        )


def _escape(name: str) -> str:
    """Show the bytes of a name that are not UTF-8 by their numbers."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def _is_utf8(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""
