"""The folder that `analysis.embed` writes: embeddings and thumbnails of test images."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wpm.errors import UserError
from wpm.files import read_json, write_bytes, write_json
from wpm.records import StudyPlace, provenance

if TYPE_CHECKING:
    from wpm.jobs.held_out_embeddings import EmbeddedImages

FORMAT = 1
_ARRAYS = ("embeddings", "labels", "thumbnails")


@dataclass(frozen=True)
class Embedded:
    """Test images as the models of a run embed them.

    Attributes:
        about: where they come from: trial, seed, test scores, provenance.
        class_names: of the data set.
        embeddings: (N, D) unit-norm float32.
        labels: (N,) positions in `class_names`.
        thumbnails: (N, side, side, C) uint8.
    """

    about: Mapping[str, Any]
    class_names: tuple[str, ...]
    embeddings: NDArray[np.float32]
    labels: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]


def folder_of(root: Path, place: StudyPlace) -> Path:
    """Return where a study's embeddings lie."""
    return root / place.dataset / place.protocol / place.row


def write_embedded(folder: Path, images: "EmbeddedImages", about: Mapping[str, Any]) -> None:
    """Write embeddings; a folder that was there is replaced file by file, its index last.

    Args:
        folder: where to.
        images: to write.
        about: where they come from.
    """
    digests = {}
    for name in _ARRAYS:
        buffer = io.BytesIO()
        np.save(buffer, getattr(images, name))
        data = buffer.getvalue()
        write_bytes(folder / f"{name}.npy", data)
        digests[name] = hashlib.sha256(data).hexdigest()
    content = {
        **about,
        "format": FORMAT,
        "class_names": list(images.class_names),
        "sha256": digests,
        "provenance": provenance(),
    }
    write_json(folder / "embeddings.json", content)


def read_embedded(root: Path, place: StudyPlace) -> Embedded | None:
    """Read a study's embeddings, None where there are none.

    Raises:
        UserError: they are damaged, or half replaced.
    """
    folder = folder_of(root, place)
    index = folder / "embeddings.json"
    if not index.exists():
        return None
    about = read_json(index)
    if about.get("format") != FORMAT:
        raise UserError(f"{index}: of another format; write it again with python -m analysis.embed")
    arrays = {}
    for name, digest in about["sha256"].items():
        path = folder / f"{name}.npy"
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{path}: damaged or missing; python -m analysis.embed writes it again")
        arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return Embedded(about, tuple(about["class_names"]), **arrays)
