"""Tell folders that hold no classes: thumbnails, recycle bins, and what this program wrote."""

import os
from pathlib import Path

from wpm.data.published_sets import CARS196, CUB200, SOP

# In lower case. Hidden folders are no classes either.
_NEVER_CLASSES = {
    "__macosx", "__pycache__", "lost+found", "system volume information", "$recycle.bin",
    "recycler", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot",
    "thumbs", "thumbnail", "thumbnails", "_thumb", "_thumbs", "_thumbnails",
}  # fmt: skip
# What this program keeps below a work root, by name.
OWN_FOLDERS = {
    "glyphs", "omniglot", "pixels", "unpacked", "weights",
    *(published.home for published in (CUB200, CARS196, SOP)),
}  # fmt: skip


def is_no_class(folder: Path, work_root: Path | None) -> bool:
    """Whether a folder, and everything below it, is left aside when classes are listed.

    Args:
        folder: the folder.
        work_root: the work root of this launch; that of another launch is recognised.
    """
    name = folder.name
    if name.startswith(".") or name.lower() in _NEVER_CLASSES:
        return True
    return name in OWN_FOLDERS and _is_work_root(folder.parent, work_root)


def _is_work_root(folder: Path, work_root: Path | None) -> bool:
    if work_root is not None and os.path.realpath(folder) == os.path.realpath(work_root):
        return True
    # Every launch that decodes images leaves such a file.
    return any((folder / "pixels").glob("digests-*.json"))
