"""Embed the images of a folder with exported models, and remember the embeddings on disk."""

import hashlib
import io
import os
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wpm import __version__
from wpm.cpus import count_cpus
from wpm.data.image_file import UndecodableError
from wpm.data.image_tree import list_images
from wpm.errors import UserError
from wpm.files import write_bytes
from wpm.model.embedding import EVALUATION_BATCH
from wpm.model.exported import ExportedModels

# A file whose size and times are the same is taken for the same: (size, mtime and ctime in ns).
_Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class EmbeddedFolder:
    """The images of a folder as exported models see them.

    Attributes:
        paths: N images that can be read, relative to the folder and sorted.
        embeddings: (N, D) unit-norm float32.
        unreadable: path and reason of every image that cannot be read.
    """

    paths: tuple[str, ...]
    embeddings: NDArray[np.float32]
    unreadable: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Remembered:
    stamp: _Stamp
    embedding: NDArray[np.float32]


def embed_folder(
    models: ExportedModels, folder: Path, work_root: Path, report: Callable[[str], None]
) -> EmbeddedFolder:
    """Embed all images under a folder; those that were embedded before are read from disk.

    An image is embedded again if its file changed, and all are if the models did. Whatever ends
    this function, the images that are done by then need not be embedded again.

    Args:
        models: the exported models.
        folder: a tree of images; those in the folder itself count too.
        work_root: folder of the remembered embeddings.
        report: gets one line that says how many images are to be embedded.

    Raises:
        UserError: there is no such folder, or it holds no image that can be read.
        StorageError: the embeddings cannot be written.
    """
    paths = list_paths(folder)
    file = _cache_file(models, folder, work_root)
    known = _recall(file)
    stamps, unreadable = _read_stamps(folder, paths)
    done = {p: known[p] for p, stamp in stamps.items() if p in known and known[p].stamp == stamp}
    missing = [path for path in stamps if path not in done]
    report(f"{len(paths)} images: {len(done)} were embedded before, {len(missing)} to embed")
    try:
        for path, embedding in _embed_files(models, folder, missing):
            if isinstance(embedding, str):
                unreadable.append((path, embedding))
            else:
                done[path] = _Remembered(stamps[path], embedding)
    finally:  # what is done is kept, even if Ctrl-C ends this loop
        if done.keys() != known.keys() or missing:
            _remember(file, done)
    if not done:
        raise UserError(
            f"{folder}: none of its {len(paths)} images can be read, the first is "
            f"{unreadable[0][0]} ({unreadable[0][1]})"
        )
    readable = sorted(done)
    embeddings = np.stack([done[path].embedding for path in readable])
    return EmbeddedFolder(tuple(readable), embeddings, tuple(sorted(unreadable)))


def list_paths(folder: Path) -> list[str]:
    """Return the images of a tree, relative to its top and sorted.

    Raises:
        UserError: there is no such folder, it cannot be read, or it holds no images.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder; give the folder of the images")
    by_folder = list_images(folder)
    paths = [(Path(inner) / name).as_posix() for inner in by_folder for name in by_folder[inner]]
    if not paths:
        raise UserError(f"{folder} holds no images (.png, .jpg, ... in it or in folders below it)")
    return sorted(paths)


def _read_stamps(
    folder: Path, paths: Sequence[str]
) -> tuple[dict[str, _Stamp], list[tuple[str, str]]]:
    """Return the stamps of files, and path and reason of those that cannot be looked at."""
    stamps, unreadable = {}, []
    for path in paths:
        try:
            stat = (folder / path).stat()
        except OSError as error:
            unreadable.append((path, _reason(error)))
        else:
            stamps[path] = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return stamps, unreadable


def _embed_files(
    models: ExportedModels, folder: Path, paths: Sequence[str]
) -> Iterator[tuple[str, NDArray[np.float32] | str]]:
    """Yield every path with its (D,) embedding, or with the reason why it cannot be read."""

    def prepare(path: str) -> Tensor | str:
        try:
            return models.prepare(folder / path)
        except UndecodableError as error:
            return _reason(error)

    with ThreadPoolExecutor(count_cpus()) as pool:  # Pillow releases Python's lock to decode
        for start in range(0, len(paths), EVALUATION_BATCH):
            part = paths[start : start + EVALUATION_BATCH]
            prepared = dict(zip(part, pool.map(prepare, part), strict=True))
            images = {path: i for path, i in prepared.items() if isinstance(i, Tensor)}
            if images:
                embeddings = models.embed([*images.values()]).numpy()
                yield from zip(images, embeddings, strict=True)
            yield from ((path, why) for path, why in prepared.items() if isinstance(why, str))


def _reason(error: Exception) -> str:
    text = getattr(error, "strerror", None) or str(error)
    return text.splitlines()[0] if text else repr(error)


def _cache_file(models: ExportedModels, folder: Path, work_root: Path) -> Path:
    # Another version may prepare images in another way; "upright" marks a change since 0.2.0.
    key = f"{__version__} upright {models.digest} ".encode() + os.fsencode(folder.resolve())
    return work_root / "embeddings" / f"{hashlib.sha256(key).hexdigest()[:16]}.npz"


def _remember(file: Path, images: dict[str, _Remembered]) -> None:
    buffer = io.BytesIO()
    np.savez(
        buffer,
        paths=np.array([os.fsencode(path) for path in images], dtype=np.bytes_),
        stamps=np.array([image.stamp for image in images.values()], dtype=np.int64),
        embeddings=np.array([image.embedding for image in images.values()], dtype=np.float32),
    )
    write_bytes(file, buffer.getvalue())


def _recall(file: Path) -> dict[str, _Remembered]:
    """Read what was remembered; nothing if the file is missing or its checksums do not match."""
    try:
        with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
            paths = [os.fsdecode(path) for path in arrays["paths"].tolist()]
            stamps = [tuple(stamp) for stamp in arrays["stamps"].tolist()]
            embeddings = arrays["embeddings"]
        return {
            path: _Remembered(stamp, embedding)
            for path, stamp, embedding in zip(paths, stamps, embeddings, strict=True)
        }
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return {}  # it only holds what can be computed again
