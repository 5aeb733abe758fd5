"""List a tree of images with one folder for each class; refuse what could mean two things."""

import functools
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from wpm.data.index import ImageIndex, LeftAside
from wpm.data.own_folders import is_no_class
from wpm.data.parts import CLASSES_BY_NAME, PART_NAMES, is_part
from wpm.errors import UserError
from wpm.formatting import name_first

# Formats that Pillow recognises, but needs another program for, cannot decode, or will drop (IM).
_NOT_DECODED = {"EPS", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "IPTC", "IM"}
# Files that belong beside images. All others are counted, since they may be images.
_COMPANIONS = {
    ".txt", ".md", ".json", ".xml", ".csv", ".tsv", ".yaml", ".yml", ".html", ".htm", ".log",
    ".db", ".ini", ".toml", ".npy", ".npz", ".mat", ".py", ".pdf", ".lock",
}  # fmt: skip
_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
# Two folders whose folders have the same names hold the same classes, if at least so many of the
# smaller one's names are also the other's.
_SAME_NAMES, _SAME_SHARE = 2, 0.5


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
class _Tree:
    """What lies in a tree.

    Attributes:
        images: sorted names of the images in every folder that holds some, by its path from the
            root, "." for the root itself.
        other: how many files of other endings lie in a folder, by path and ending.
        skipped: paths of folders that are never classes.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    other: dict[str, Counter[str]] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)


def index_class_folders(
    dataset: str,
    root: Path,
    channels: int,
    *,
    work_root: Path | None = None,
    classes_by: str | None = None,
    parts: bool = False,
) -> ImageIndex:
    """List a tree in which every folder that holds images is a class, named by its path.

    Hidden folders, thumbnails, recycle bins and this program's own folders are never classes.

    Args:
        dataset: name to give the index.
        root: top of the tree; links to folders are followed, each folder once.
        channels: 1 to read images as greyscale, 3 as colour.
        work_root: this program's own folders are below it.
        classes_by: "path": folders of the same name are different classes; "name": they are one
            class; None: a tree in which they are many is refused.
        parts: whether the top folders are halves of a split, which class names leave out.

    Returns:
        The index, classes sorted by name.

    Raises:
        UserError: no such folder, it cannot be read, there are no images in class folders, or it
            is not clear what is a class.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give --data-root a tree with one folder a class")
    root = _skip_wrappers(root, work_root)
    tree = _read_tree(root, work_root)
    _check_names(root, tree)
    _check_places(root, tree)
    if parts:
        _check_parts(root, tree)
    elif classes_by is None:
        _check_meaning(root, list(tree.images))
    by_class: dict[str, list[str]] = {}
    for folder in sorted(tree.images):
        name = _name_class(folder, classes_by, parts=parts)
        by_class.setdefault(name, []).extend(f"{folder}/{image}" for image in tree.images[folder])
    names = sorted(by_class)
    labels = np.repeat(np.arange(len(names)), [len(by_class[name]) for name in names])
    return ImageIndex(
        dataset,
        root,
        tuple(path for name in names for path in by_class[name]),
        labels.astype(np.int64),
        tuple(names),
        channels,
        left_aside=_describe_rest(tree),
    )


def list_images(root: Path) -> dict[str, list[str]]:
    """List the images of a tree, whatever they are.

    Args:
        root: top of the tree; links to folders are followed, each folder once.

    Returns:
        The sorted names of images by folder, which is relative to `root` and "." for `root` itself.

    Raises:
        UserError: a folder cannot be read, or a name is not UTF-8.
    """
    tree = _read_tree(root, None)
    _check_names(root, tree)
    return tree.images


def holds_images(root: Path, work_root: Path) -> bool:
    """Whether any image lies in or below a folder, where an index would find it.

    Raises:
        UserError: a folder cannot be listed.
    """
    return any(images for _, images, _ in _walk(root, work_root, []))


def _name_class(folder: str, classes_by: str | None, *, parts: bool) -> str:
    if classes_by == CLASSES_BY_NAME:
        return PurePosixPath(folder).name
    return folder.partition("/")[2] if parts else folder


def _read_tree(root: Path, work_root: Path | None) -> _Tree:
    tree = _Tree()
    for folder, images, others in _walk(root, work_root, tree.skipped):
        name = Path(folder).relative_to(root).as_posix()
        if images:
            tree.images[name] = sorted(images)
        if others and name != ".":
            tree.other[name] = Counter(_ending(other) for other in others)
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


def _skip_wrappers(root: Path, work_root: Path | None) -> Path:
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


def _check_names(root: Path, tree: _Tree) -> None:
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


def _check_places(root: Path, tree: _Tree) -> None:
    """Refuse a tree without images, and images that lie above others."""
    if "." in tree.images:
        stray = tree.images["."][0]
        fix = "give each class its own folder"
        if "\\" in stray:
            fix = (
                "backslashes in the names are folders of Windows, so unpack the zip again with a "
                "program that makes them folders, or give --data-root the zip itself"
            )
        raise UserError(f"{root} holds images itself ({stray}); {fix}")
    if not tree.images:
        archives = [e.name for e in sorted(root.iterdir()) if e.name.lower().endswith(_ARCHIVES)]
        others = sum((counts for counts in tree.other.values()), Counter[str]())
        hint = ""
        if archives:
            hint = f"; it holds {name_first(archives)}: give --data-root one of them"
        elif others:
            hint = f"; it holds {_count_endings(others)}, which Pillow cannot read: convert them"
        raise UserError(
            f"no images under {root}; expected one folder a class with .png, .jpg, .jpeg, ... "
            f"files{hint}"
        )
    for folder in sorted(tree.images):
        above = [str(parent) for parent in PurePosixPath(folder).parents]
        holder = next((name for name in above if name in tree.images), None)
        if holder is not None:
            raise UserError(
                f"{root}: class folder {holder} holds images itself ({tree.images[holder][0]}) and "
                f"in {folder} below it; move one of the two elsewhere, so that a class is one "
                "folder"
            )


def _check_meaning(root: Path, folders: Sequence[str]) -> None:
    """Refuse a tree in which a class may have several folders, as those of train and test."""
    below: dict[str, set[str]] = {}
    for folder in folders:
        path = PurePosixPath(folder)
        below.setdefault(str(path.parent), set()).add(path.name)
    alike = _find_alike(below)
    tops = sorted({folder.partition("/")[0] for folder in folders if "/" in folder})
    halves = [top for top in tops if is_part(top)]
    if alike is None and len(halves) < 2:
        return
    if alike is None:
        what = f"the folders {name_first(halves)} look like a split"
        one = next((top for top in halves if "train" in top.lower()), halves[0])
    else:
        first, second = alike
        shared = sorted(below[first] & below[second])
        what = (
            f"{len(shared)} folders have the same names in {_place(first)} and in {_place(second)} "
            f"({name_first(shared)})"
        )
        one = next((top for top in alike if "train" in top.lower()), second)
    choices = [f"--data-root {root / one} to take that folder alone"]
    if len(halves) > 1:
        choices.append("--split folders to use them as halves of a split")
    choices += [
        "--classes-by name to make one class of the folders of a name",
        "--classes-by path to make a class of each folder",
    ]
    raise UserError(f"{root}: {what}; say what is meant: {', or '.join(choices)}")


def _find_alike(below: Mapping[str, set[str]]) -> tuple[str, str] | None:
    """Return two folders whose folders have mostly the same names."""
    holders: dict[str, list[str]] = {}
    shared: Counter[tuple[str, str]] = Counter()
    for folder in sorted(below):
        for name in sorted(below[folder]):
            for other in holders.setdefault(name, []):
                shared[other, folder] += 1
                needed = _SAME_SHARE * min(len(below[other]), len(below[folder]))
                if shared[other, folder] >= max(_SAME_NAMES, needed):
                    return other, folder
            holders[name].append(folder)
    return None


def _place(folder: str) -> str:
    return "the folder itself" if folder == "." else folder


def _check_parts(root: Path, tree: _Tree) -> None:
    """Refuse a tree whose top folders are not the halves of a split with classes in them."""
    tops = {folder.partition("/")[0] for folder in tree.images}
    strange = sorted(top for top in tops if not is_part(top))
    if strange:
        raise UserError(
            f"--split folders: {root / strange[0]} is no half of a split; the folders must be "
            f"called {PART_NAMES}"
        )
    bare = sorted(folder for folder in tree.images if "/" not in folder)
    if bare:
        raise UserError(
            f"--split folders: {root / bare[0]} holds images itself; give each class its own "
            "folder in it"
        )


def _describe_rest(tree: _Tree) -> LeftAside:
    return LeftAside(
        endings={
            folder: (sum(counts.values()), len(tree.images.get(folder, ())), _count_endings(counts))
            for folder, counts in sorted(tree.other.items())
        },
        folders=tuple(tree.skipped),
    )


def _ending(name: str) -> str:
    stem, dot, ending = name.rpartition(".")
    return f".{ending.lower()}" if stem and dot else ""


def _count_endings(counts: Counter[str]) -> str:
    return ", ".join(
        f"{count} {ending or 'without ending'}" for ending, count in sorted(counts.items())
    )
