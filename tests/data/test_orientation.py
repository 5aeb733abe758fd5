"""Photographs are turned as their metadata say, alike in every format, where this is asked for."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from wpm.data.image_file import cached_size, decode_image

FORMATS = ["jpg", "png", "webp", "tif"]
# An L of blocks, which looks different after every turn and flip, and survives JPEG.
UPRIGHT = np.kron(
    np.array([[1, 0, 0], [1, 0, 0], [1, 0, 0], [1, 1, 0]], dtype=np.uint8), np.full((8, 8), 255)
).astype(np.uint8)
# How a camera stores the picture, by the value of the tag: TIFF 6.0 says where the first row and
# the first column of what is stored belong.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: UPRIGHT.T[::-1],
    7: UPRIGHT.T[::-1, ::-1],
    8: UPRIGHT.T[:, ::-1],
}
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF><rdf:Description tiff:Orientation="6"/>'
    b"</rdf:RDF></x:xmpmeta>"
)


def save(path: Path, value: int, **options: Any) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(STORED[value].copy()).save(path, **({"exif": exif} | options))


def assert_upright(path: Path) -> None:
    found = decode_image(path, 1, 24, upright=True)
    assert cached_size(path, 24, upright=True) == found.shape[:2] == (32, 24)
    assert np.abs(found[..., 0].astype(int) - UPRIGHT).max() < 60  # lossy formats blur edges


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("value", STORED)
def test_every_orientation_is_turned_upright(tmp_path: Path, suffix: str, value: int) -> None:
    path = tmp_path / f"x.{suffix}"
    save(path, value, quality=95)
    assert_upright(path)
    # By another implementation; of a file without a name, which Pillow does not map into memory.
    with path.open("rb") as file, Image.open(file) as image:
        turned = np.asarray(ImageOps.exif_transpose(image).convert("L"))
    assert np.array_equal(decode_image(path, 1, 24, upright=True)[..., 0], turned)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_published_sets_are_read_as_they_are_stored(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    save(path, 6, quality=95)
    found = decode_image(path, 1, 24)
    assert cached_size(path, 24) == found.shape[:2] == (24, 32)
    assert np.abs(found[..., 0].astype(int) - STORED[6]).max() < 60


@pytest.mark.parametrize("suffix", FORMATS)
def test_orientation_in_xmp_is_followed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x.{suffix}"
    image = Image.fromarray(STORED[6].copy())
    if suffix == "tif":
        image.save(path, tiffinfo={700: XMP})
    elif suffix == "png":
        image.save(path, pnginfo=_itxt())
    else:
        image.save(path, xmp=XMP, quality=95)
    assert_upright(path)


def _itxt() -> Any:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP.decode())
    return info


def test_metadata_behind_the_pixels_of_a_png_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "x.png", 6)
    data = (tmp_path / "x.png").read_bytes()
    at = data.index(b"eXIf") - 4
    length = 12 + struct.unpack(">I", data[at : at + 4])[0]
    end = data.index(b"IEND") - 4
    moved = data[:at] + data[at + length : end] + data[at : at + length] + data[end:]
    (tmp_path / "x.png").write_bytes(moved)
    assert_upright(tmp_path / "x.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow; building a cache silences it
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize(
    "exif", [b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0", b"\xff" * 9]
)
def test_broken_metadata_leave_the_image_as_it_is(tmp_path: Path, suffix: str, exif: bytes) -> None:
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(UPRIGHT).save(path, exif=exif, quality=95)
    assert_upright(path)


@pytest.mark.parametrize("value", [0, 9, 77])
def test_values_without_meaning_turn_nothing(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    Image.fromarray(UPRIGHT).save(tmp_path / "x.png", exif=exif)
    assert_upright(tmp_path / "x.png")


def test_image_that_was_turned_in_memory_is_not_turned_again(tmp_path: Path) -> None:
    save(tmp_path / "x.jpg", 6, quality=95)
    with Image.open(tmp_path / "x.jpg") as image:
        turned = ImageOps.exif_transpose(image)
    found = decode_image(turned, 1, 24, upright=True)[..., 0]
    assert np.array_equal(found, decode_image(tmp_path / "x.jpg", 1, 24, upright=True)[..., 0])


def test_sixteen_bits_are_turned_too(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    levels = STORED[6].astype(np.uint16) * 257
    Image.fromarray(levels).save(tmp_path / "x.png", exif=exif)
    assert_upright(tmp_path / "x.png")
