"""Exported models: a file of weights, and a JSON file beside it that says how to use them."""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wpm.errors import DamagedFileError, storage_error
from wpm.files import read_json, write_bytes, write_json
from wpm.protocols import Protocol, protocol_from_json


@dataclass(frozen=True)
class ExportedModel:
    """What the JSON file says: how to use a fold's model, and where it comes from.

    Attributes:
        fold: position of the fold whose model this is, from 0.
        seed: seed of the final run.
        channels: 1 for grey images, 3 for colour images.
        parameters: the configuration that was trained.
        test_scores: scores of the run by view: "separated" and "concatenated".
        provenance: code, libraries and machine that trained the model.
    """

    dataset: str
    row: str
    fold: int
    seed: int
    channels: int
    protocol: Protocol
    parameters: Mapping[str, float]
    test_scores: Mapping[str, Mapping[str, float]]
    provenance: Mapping[str, Any]


def write_export(file: Path, model: ExportedModel, weights: bytes) -> None:
    """Write weights, and the JSON file beside them.

    Args:
        file: a `.safetensors` file; the JSON file has the same name with another ending.
    """
    write_bytes(file, weights)
    checksum = hashlib.sha256(weights).hexdigest()
    write_json(file.with_suffix(".json"), {**asdict(model), "sha256": checksum})


def read_export(file: Path) -> tuple[ExportedModel, bytes]:
    """Read what `write_export` wrote.

    Returns:
        What the JSON file says, and the weights.

    Raises:
        DamagedFileError: the JSON file is damaged, or the weights do not match their checksum.
        StorageError: a file cannot be read.
    """
    content = read_json(file.with_suffix(".json"))
    # The first versions wrote no checksum of the weights.
    checksum = content.pop("sha256", None)
    model = ExportedModel(**{**content, "protocol": protocol_from_json(content["protocol"])})
    try:
        weights = file.read_bytes()
    except OSError as error:
        raise storage_error(file, error, "read") from error
    if checksum not in (None, hashlib.sha256(weights).hexdigest()):
        raise DamagedFileError(
            f"{file}: model cannot be loaded (it does not match its checksum); export it again"
        )
    return model, weights
