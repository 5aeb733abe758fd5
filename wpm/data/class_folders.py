"""List a tree of images with one folder for each class; refuse what could mean two things."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from wpm.data.image_tree import ImageTree, read_image_tree, skip_wrappers
from wpm.data.index import ImageIndex, LeftAside
from wpm.data.parts import CLASSES_BY_NAME, PART_NAMES, is_part
from wpm.errors import UserError
from wpm.formatting import name_first

_ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.xz", ".tar.bz2", ".7z", ".rar")
# Two folders whose folders have the same names hold the same classes, if at least so many of the
# smaller one's names are also the other's.
_SAME_NAMES, _SAME_SHARE = 2, 0.5


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
    root = skip_wrappers(root, work_root)
    tree = read_image_tree(root, work_root)
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


def _name_class(folder: str, classes_by: str | None, *, parts: bool) -> str:
    if classes_by == CLASSES_BY_NAME:
        return PurePosixPath(folder).name
    return folder.partition("/")[2] if parts else folder


def _check_places(root: Path, tree: ImageTree) -> None:
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


def _check_parts(root: Path, tree: ImageTree) -> None:
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


def _describe_rest(tree: ImageTree) -> LeftAside:
    return LeftAside(
        endings={
            folder: (sum(counts.values()), len(tree.images.get(folder, ())), _count_endings(counts))
            for folder, counts in sorted(tree.other.items())
        },
        folders=tuple(tree.skipped),
    )


def _count_endings(counts: Counter[str]) -> str:
    return ", ".join(
        f"{count} {ending or 'without ending'}" for ending, count in sorted(counts.items())
    )
