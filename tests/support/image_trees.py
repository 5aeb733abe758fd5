"""Folders and archives of images that are small, but real files."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def image_bytes(level: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), level).save(buffer, "PNG")
    return buffer.getvalue()


def make_tree(root: Path, *paths: str) -> Path:
    """Write a different image at every path."""
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(image_bytes(number))
    return root


def make_zip(path: Path, *members: str, content: bytes | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for number, member in enumerate(members):
            file.writestr(member, image_bytes(number) if content is None else content)
    return path


ImageTree = Callable[[Mapping[str, NDArray[np.uint8]]], Path]
