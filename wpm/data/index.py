"""The list of a data set's images and classes, and where it was read from."""

import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wpm.errors import UserError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")


@dataclass(frozen=True)
class ImageIndex:
    """The files of an image set and their classes. Making an index opens no image.

    Attributes:
        dataset: a name from `wpm.data.datasets.DATASETS`.
        root: folder that `paths` are relative to.
        paths: N image files, sorted by class, then by name.
        labels: (N,) int64, position of each file's class in `class_names`.
        class_names: all classes of the set, sorted; a subset of the images keeps the full list.
        channels: 1 for greyscale sets, 3 for colour.
    """

    dataset: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    channels: int

    def subset(self, classes: Iterable[int]) -> "ImageIndex":
        """Return the images of some classes, in order, with their labels unchanged."""
        return self._keep(np.flatnonzero(np.isin(self.labels, list(classes))))

    def without(self, paths: Collection[str]) -> "ImageIndex":
        """Return all images but some."""
        return self._keep(np.flatnonzero([path not in paths for path in self.paths]))

    def _keep(self, keep: NDArray[np.int64]) -> "ImageIndex":
        return ImageIndex(
            self.dataset,
            self.root,
            tuple(self.paths[i] for i in keep),
            self.labels[keep],
            self.class_names,
            self.channels,
        )


@dataclass(frozen=True)
class DataSource:
    """Where a data set's images are and where derived files may be written.

    Attributes:
        dataset: a name from `DATASETS`.
        data_root: the user's images (a folder or a zip), or None for the default place.
        work_root: folder for rendered, unpacked and cached files.
        skip_unreadable: whether images that cannot be read are left out and recorded, instead of
            ending the launch.
    """

    dataset: str
    data_root: Path | None
    work_root: Path
    skip_unreadable: bool = False


def index_class_folders(dataset: str, root: Path, channels: int) -> ImageIndex:
    """List a tree in which every folder that holds images is a class, named by its path.

    Args:
        dataset: name to give the index.
        root: top of the tree; links to folders are followed, each folder once.
        channels: 1 to read images as greyscale, 3 as colour.

    Returns:
        The index, classes sorted by path.

    Raises:
        UserError: no such folder, it cannot be read, or there are no images in class folders.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give --data-root a tree with one folder a class")
    root = _skip_wrappers(root)
    by_class = list_images(root)
    if "." in by_class:
        raise UserError(
            f"{root} holds images itself ({by_class['.'][0]}); give each class its own folder"
        )
    if not by_class:
        raise UserError(
            f"no images under {root}; expected one folder a class with "
            f"{', '.join(IMAGE_SUFFIXES[:3])}, ... files"
        )
    names = sorted(by_class)
    paths = tuple(f"{name}/{image}" for name in names for image in by_class[name])
    labels = np.repeat(np.arange(len(names)), [len(by_class[name]) for name in names])
    return ImageIndex(dataset, root, paths, labels.astype(np.int64), tuple(names), channels)


def list_images(root: Path) -> dict[str, list[str]]:
    """List the images of a tree.

    Args:
        root: top of the tree; links to folders are followed, each folder once.

    Returns:
        The sorted names of images by folder, which is relative to `root` and "." for `root` itself.

    Raises:
        UserError: a folder cannot be read.
    """
    by_folder: dict[str, list[str]] = {}
    seen: set[str] = set()

    def complain(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, children, files in os.walk(root, followlinks=True, onerror=complain):
        real = os.path.realpath(folder)
        if real in seen:  # by way of a link
            children.clear()
            continue
        seen.add(real)
        # Sorted, so that where links give a folder two names, the same one is used on every disk.
        children[:] = [name for name in sorted(children) if not name.startswith((".", "__MACOSX"))]
        images = [
            name
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
        if images:
            by_folder[Path(folder).relative_to(root).as_posix()] = sorted(images)
    return by_folder


def _skip_wrappers(root: Path) -> Path:
    """Descend through folders that hold nothing but one folder of folders.

    Archives wrap their tree in such a folder, on which class names must not depend.
    """
    while True:
        try:
            entries = [e for e in root.iterdir() if not e.name.startswith((".", "__MACOSX"))]
            if len(entries) != 1 or not entries[0].is_dir():
                return root
            if not any(entry.is_dir() for entry in entries[0].iterdir()):
                return root
        except OSError as error:
            raise UserError(f"{error.filename}: cannot be listed ({error.strerror})") from error
        root = entries[0]
