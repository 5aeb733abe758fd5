"""Write and read the folder of `analysis.embed`: embeddings and thumbnails of the test images."""

import hashlib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wpm.errors import UserError
from wpm.files import read_json, write_bytes, write_json
from wpm.records import StudyPlace, provenance
from wpm.records.embedded_images import EmbeddedImages

FORMAT = 1
_ARRAYS = ("embeddings", "labels", "thumbnails")


@dataclass(frozen=True)
class EmbeddedRun:
    """The embedded test images of a final run, and which run it is.

    Attributes:
        images: the test images as the run's models see them.
        study: name of the study.
        trial: number of the trial that the configuration comes from; None if it is a published one.
        seed: seed of the run.
        test_scores: test scores of the concatenated embeddings, as the run's record has them.
    """

    images: EmbeddedImages
    study: str
    trial: int | None
    seed: int
    test_scores: Mapping[str, float]


def folder_of(root: Path, place: StudyPlace) -> Path:
    """Return the folder of a study's embeddings."""
    return root / place.dataset / place.protocol / place.label


def write_embedded(folder: Path, run: EmbeddedRun) -> None:
    """Write the embeddings of a run.

    A folder that exists is replaced file by file. Its index comes last: if the process is killed
    before, the checksums in the old index show that the folder is half replaced.
    """
    digests = {}
    for name in _ARRAYS:
        buffer = io.BytesIO()
        np.save(buffer, getattr(run.images, name))
        data = buffer.getvalue()
        write_bytes(folder / f"{name}.npy", data)
        digests[name] = hashlib.sha256(data).hexdigest()
    content = {
        "study": run.study,
        "trial": run.trial,
        "seed": run.seed,
        "test": run.test_scores,
        "format": FORMAT,
        "class_names": list(run.images.class_names),
        "sha256": digests,
        "provenance": provenance(),
    }
    write_json(folder / "embeddings.json", content)


def read_embedded(root: Path, place: StudyPlace) -> EmbeddedRun | None:
    """Read the embeddings of a study; None if it has none.

    Raises:
        UserError: they are damaged, or half replaced.
    """
    folder = folder_of(root, place)
    index = folder / "embeddings.json"
    if not index.exists():
        return None
    content = read_json(index)
    if content.get("format") != FORMAT:
        raise UserError(
            f"{index}: this file has another format; write it again with python -m analysis.embed"
        )
    arrays = {}
    for name, digest in content["sha256"].items():
        path = folder / f"{name}.npy"
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != digest:
            raise UserError(f"{path}: damaged or missing; python -m analysis.embed writes it again")
        arrays[name] = np.load(io.BytesIO(data), allow_pickle=False)
    return EmbeddedRun(
        images=EmbeddedImages(class_names=tuple(content["class_names"]), **arrays),
        study=content["study"],
        trial=content["trial"],
        seed=content["seed"],
        test_scores=content["test"],
    )
