"""Image sets on disk: which files there are and what class each is of; fetching and unpacking."""

import errno
import gzip
import hashlib
import os
import shutil
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wpm.atomic import storage_error
from wpm.errors import UserError
from wpm.glyphs import render_glyphs

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_FETCH_CHUNK = 2**20
_FETCH_TIMEOUT_S = 60
_CHECKSUM_NAMES = {"md5": "MD5", "sha256": "SHA-256"}


@dataclass(frozen=True)
class ImageIndex:
    """Files of an image set and their classes; no image is opened to make one.

    Attributes:
        dataset: name of the data set.
        root: folder that `paths` are relative to.
        paths: N image files, sorted by class, then name.
        labels: (N,) int64, position of each file's class in `class_names`.
        class_names: all classes of the set, sorted; a subset keeps the full list.
        channels: 1 for greyscale sets, 3 for colour.
    """

    dataset: str
    root: Path
    paths: tuple[str, ...]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    channels: int

    def subset(self, classes: Iterable[int]) -> "ImageIndex":
        """Keep the images of some classes, in order, with their labels unchanged."""
        return self._keep(np.flatnonzero(np.isin(self.labels, list(classes))))

    def without(self, paths: Collection[str]) -> "ImageIndex":
        """Leave some images out."""
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
class Archive:
    """A downloadable file and its checksum.

    Attributes:
        url: its address.
        checksum: "md5:HEX" or "sha256:HEX"; HEX alone is SHA-256; its first digits are enough.
        file_name: its name on disk, where the address does not end in one.
        elsewhere: what else to do by hand once the address is dead, as an error says it.
    """

    url: str
    checksum: str
    file_name: str = ""
    elsewhere: str = ""

    @property
    def name(self) -> str:
        """Name of the file on disk."""
        return self.file_name or self.url.rsplit("/", 1)[-1]


OMNIGLOT_SMALL1 = Archive(
    url="https://github.com/brendenlake/omniglot/raw/master/python/images_background_small1.zip",
    checksum="sha256:f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4",
)


@dataclass(frozen=True)
class DataSource:
    """Where a data set's images are and where derived files may be written.

    Attributes:
        dataset: a name from `DATASETS`.
        data_root: the user's images (a folder or a zip), or None for the default place.
        work_root: folder for rendered, unpacked and cached files.
        skip_unreadable: whether images that cannot be read are left out, and recorded.
    """

    dataset: str
    data_root: Path | None
    work_root: Path
    skip_unreadable: bool = False


def load_index(source: DataSource, *, fetch: bool = False) -> ImageIndex:
    """List the images of a data set.

    Args:
        source: the data set and its place.
        fetch: download what is missing, where the data set can be downloaded.

    Returns:
        The index of all images, trainval and test; opening images is left to others.

    Raises:
        UserError: unknown data set, no such place, or no usable images in it.
    """
    if source.dataset not in DATASETS:
        raise UserError(f"unknown data set {source.dataset!r}; choose from {', '.join(DATASETS)}")
    return DATASETS[source.dataset](source, fetch)


def _load_glyphs(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is not None:
        raise UserError(
            f"--data-root {source.data_root} has no meaning for glyphs, which are rendered; "
            "leave it out"
        )
    root = source.work_root / "glyphs"
    render_glyphs(root)
    return index_class_folders("glyphs", root, channels=1)


def _load_omniglot(source: DataSource, fetch: bool) -> ImageIndex:
    place = source.data_root or source.work_root / "omniglot"
    if source.data_root is None and fetch:
        fetch_archive(OMNIGLOT_SMALL1, place)
    if not place.exists():
        raise UserError(
            f"omniglot is not at {place}; add --fetch to download it, or give --data-root the "
            f"folder or zip ({OMNIGLOT_SMALL1.url})"
        )
    return index_class_folders("omniglot", _open_place(place, source.work_root), channels=1)


def _load_folder(source: DataSource, fetch: bool) -> ImageIndex:
    if source.data_root is None:
        raise UserError("--dataset folder needs --data-root DIR, a tree with one folder a class")
    if fetch:
        raise UserError("--fetch has no meaning for --dataset folder; leave it out")
    return index_class_folders(
        "folder", _open_place(source.data_root, source.work_root), channels=3
    )


def _load_published(source: DataSource, fetch: bool) -> ImageIndex:
    # A layer up: it makes indexes and fetches with what is here.
    from wpm.published_sets import PUBLISHED_SETS

    return PUBLISHED_SETS[source.dataset](source, fetch)


# A data set is one function and one line here.
DATASETS: dict[str, Callable[[DataSource, bool], ImageIndex]] = {
    "glyphs": _load_glyphs,
    "omniglot": _load_omniglot,
    "folder": _load_folder,
    "cub200": _load_published,
    "cars196": _load_published,
    "sop": _load_published,
}


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
    by_class: dict[str, list[str]] = {}
    seen: set[str] = set()

    def complain(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be listed ({error.strerror})")

    for folder, children, files in os.walk(root, followlinks=True, onerror=complain):
        real = os.path.realpath(folder)
        if real in seen:  # a link back up the tree
            children.clear()
            continue
        seen.add(real)
        # Sorted: of two names of one folder, the same one must win on every disk.
        children[:] = [name for name in sorted(children) if not name.startswith((".", "__MACOSX"))]
        images = [
            name
            for name in files
            if name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")
        ]
        if images:
            by_class[Path(folder).relative_to(root).as_posix()] = sorted(images)
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


def _skip_wrappers(root: Path) -> Path:
    """Step over folders that hold one folder of folders and nothing else.

    Archives wrap their tree in such a folder; class names must not depend on it.
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


def _open_place(place: Path, work_root: Path) -> Path:
    """Return the folder of images that a folder, a zip, or a folder holding one zip stands for."""
    if not place.exists():
        raise UserError(f"{place} does not exist; check --data-root")
    if place.is_dir():
        try:
            entries = [entry for entry in sorted(place.iterdir()) if entry.name[0] != "."]
        except OSError as error:
            raise UserError(f"{place}: cannot be listed ({error.strerror})") from error
        zips = [entry for entry in entries if entry.suffix.lower() == ".zip"]
        if len(zips) != 1 or any(entry.is_dir() for entry in entries):
            return place
        place = zips[0]
    return unpack_zip(place, work_root / "unpacked")


def unpack_zip(archive: Path, into: Path) -> Path:
    """Unpack a zip once into a folder named by its content, and return that folder.

    Args:
        archive: the zip.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder: complete, or not there at all.

    Raises:
        UserError: not a zip, damaged, or a member would leave the folder.
    """
    target = into / f"{archive.stem}-{_digest_of(archive, 'sha256')[:12]}"
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
        archive: the file; `.zip` or `.tgz` by its name.
        name: the folder at the top of the archive; what lies beside it is dropped.
        into: parent of the folder; created as needed.

    Returns:
        The unpacked folder: complete, or not there at all.

    Raises:
        UserError: not such an archive, damaged, without that folder, or a member would leave it.
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
                zipped.extract(entry, folder)  # verifies its CRC
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        raise UserError(f"{archive}: damaged or not a zip ({error}); download it again") from error
    except OSError as error:
        raise _refused_member(archive, member, folder, error) from error


def _extract_tar(archive: Path, folder: Path) -> None:
    members = [""]  # in the order in which they are written

    def check(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo | None:
        members.append(member.name)
        _refuse_outside(archive, member.name, folder)
        return tarfile.data_filter(member, path)  # links, devices, modes

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


# What the system says of a disk; everything else it says of the name of a member.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EFBIG, errno.EACCES)


def _refused_member(archive: Path, member: str, folder: Path, error: OSError) -> UserError:
    """Return what tells that a member cannot be written: for lack of space, or for its name."""
    if error.errno in _DISK_ERRORS:
        return storage_error(folder.parent, error)
    return UserError(
        f"{archive}: member {member!r} cannot be unpacked ({error.strerror or error}): it lies in "
        "something that is no folder, or has an impossible name; get the archive from its own site"
    )


def _refuse_outside(archive: Path, member: str, folder: Path) -> None:
    # Not Path.resolve, which raises where links lead in a circle.
    if not Path(os.path.realpath(folder / member)).is_relative_to(os.path.realpath(folder)):
        raise UserError(
            f"{archive}: member {member!r} would be written outside the folder; refused, get the "
            "archive from its own site"
        )


def _move_into_place(partial: Path, target: Path) -> None:
    """Rename a finished folder; when another process was first, keep theirs."""
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise


def fetch_archive(archive: Archive, folder: Path) -> Path:
    """Download a file, resuming a partial one, and verify its checksum.

    Args:
        archive: address and checksum.
        folder: where the file goes; created as needed.

    Returns:
        The verified file.

    Raises:
        UserError: the address does not answer or the checksum differs; says how to do it by hand.
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
    found = _digest_of(file, algorithm)
    if not found.startswith(expected):
        raise UserError(
            f"{file}: has {_CHECKSUM_NAMES[algorithm]} {found[:12]}..., but {archive.url} has "
            f"{expected[:12]}...; delete it and {by_hand}"
        )


def _download(url: str, partial: Path) -> None:
    """Append what is missing to a partial file; start again where a server cannot resume."""
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_FETCH_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:  # 416: nothing is missing any more
            raise
        return
    with answer, partial.open("ab" if answer.status == 206 else "wb") as file:
        total = int(answer.headers.get("Content-Length") or 0) + (have if file.mode == "ab" else 0)
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


def _digest_of(path: Path, algorithm: str) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
