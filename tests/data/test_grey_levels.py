"""Grey levels of every kind are read with black as black and white as white, or refused."""

import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from wpm.data.image_file import UndecodableError, decode_image

REFERENCE = np.arange(256, dtype=np.uint8).reshape(16, 16)  # what every readable file here shows
S_MIN, S_MAX, MAX_VALUE, PHOTOMETRIC, SAMPLE_FORMAT = 340, 341, 281, 262, 339


def save_tiff(path: Path, levels: NDArray[Any], **tags: float) -> None:
    """Write an image of any kind of number, with tags of its own."""
    names = {"s_min": S_MIN, "s_max": S_MAX, "max_value": MAX_VALUE, "photometric": PHOTOMETRIC,
             "sample_format": SAMPLE_FORMAT}  # fmt: skip
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for name, value in tags.items():
        info[names[name]] = value
        if name in ("s_min", "s_max"):
            info.tagtype[names[name]] = 12  # a double
    Image.fromarray(levels).save(path, tiffinfo=info)


def read(path: Path) -> NDArray[np.uint8]:
    return decode_image(path, 1, 16)[..., 0]


def assert_shows_reference(path: Path, within: int = 1) -> None:
    assert np.abs(read(path).astype(int) - REFERENCE).max() <= within


SHARE = REFERENCE.astype(np.float64) / 255


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_fill_their_range(tmp_path: Path, suffix: str) -> None:
    Image.fromarray((SHARE * 65535).astype(np.uint16)).save(tmp_path / f"x.{suffix}")
    assert_shows_reference(tmp_path / f"x.{suffix}", within=0)


@pytest.mark.parametrize(
    ("levels", "tags"),
    [
        (SHARE.astype(np.float32), {}),
        (1 - SHARE.astype(np.float32), {"photometric": 0}),
        ((SHARE * 65535).astype(np.float32), {"s_min": 0.0, "s_max": 65535.0}),
        ((SHARE * 40 - 20).astype(np.float32), {"s_min": -20.0, "s_max": 20.0}),
        (((1 - SHARE) * 65535).astype(np.uint16), {"photometric": 0}),
        ((SHARE * 4095).astype(np.uint16), {"max_value": 4095}),
        ((SHARE * 4095).astype(np.uint16), {"s_max": 4095.0}),
        ((SHARE * 1000 + 500).astype(np.uint16), {"s_min": 500.0, "s_max": 1500.0}),
        ((SHARE * 1e6).astype(np.int32), {"s_min": 0.0, "s_max": 1e6}),
        ((SHARE * 2e6 - 1e6).astype(np.int32), {"s_min": -1e6, "s_max": 1e6}),
        (REFERENCE, {"photometric": 0}),  # Pillow stores 8 bits inverted then
    ],
    ids=[
        "float", "float_white_is_zero", "float_stated", "float_stated_negative",
        "16_bit_white_is_zero", "12_of_16_by_max_value", "12_of_16_by_s_max", "16_bit_stated",
        "32_bit_stated", "32_bit_signed_stated", "8_bit_white_is_zero",
    ],
)  # fmt: skip
def test_stated_range_is_scaled(
    tmp_path: Path, levels: NDArray[Any], tags: dict[str, float]
) -> None:
    save_tiff(tmp_path / "x.tif", levels, **tags)
    assert_shows_reference(tmp_path / "x.tif")


def write_plain_tiff(
    path: Path, levels: bytes, bits: int, sample_format: int, **more: float
) -> None:
    """Write a 16 x 16 TIFF file of a kind that Pillow itself does not write."""
    fields = {256: (4, 16), 257: (4, 16), 258: (3, bits), 259: (3, 1), 262: (3, 1),
              273: (4, 0), 277: (3, 1), 278: (4, 16), 279: (4, len(levels)),
              339: (3, sample_format)}  # fmt: skip
    for name, value in more.items():
        fields[{"s_min": S_MIN, "s_max": S_MAX}[name]] = (9, int(value))
    start = 8 + 2 + 12 * len(fields) + 4
    fields[273] = (4, start)
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack("<i" if kind != 3 else "<Hxx", value)
        for tag, (kind, value) in sorted(fields.items())
    )
    header = b"II*\0" + struct.pack("<IH", 8, len(fields))
    path.write_bytes(header + entries + bytes(4) + levels)


def test_unsigned_32_bits_are_not_read_as_negative(tmp_path: Path) -> None:
    levels = (SHARE * (2**31 - 1)).astype("<u4")
    write_plain_tiff(tmp_path / "x.tif", levels.tobytes(), 32, 1, s_max=2**31 - 1)
    assert_shows_reference(tmp_path / "x.tif")
    levels = (SHARE * 2 * (2**31 - 1)).astype("<u4")
    write_plain_tiff(tmp_path / "y.tif", levels.tobytes(), 32, 1, s_max=2**31 - 1)
    with pytest.raises(UndecodableError, match=r"from 0 to 4\.29497e\+09 exceed the range"):
        read(tmp_path / "y.tif")


@pytest.mark.parametrize(("bits", "kind"), [(8, "<i1"), (16, "<i2"), (32, "<i4")])
def test_signed_levels_are_scaled_where_stated_and_refused_where_not(
    tmp_path: Path, bits: int, kind: str
) -> None:
    levels = (REFERENCE.astype(int) - 128).astype(kind).tobytes()
    write_plain_tiff(tmp_path / "x.tif", levels, bits, 2, s_min=-128, s_max=127)
    assert_shows_reference(tmp_path / "x.tif", within=0)
    write_plain_tiff(tmp_path / "y.tif", levels, bits, 2)
    with pytest.raises(UndecodableError, match=f"of {bits} bits signed without the tags"):
        read(tmp_path / "y.tif")


def test_unsigned_32_bits_without_a_range_are_refused(tmp_path: Path) -> None:
    write_plain_tiff(tmp_path / "x.tif", REFERENCE.astype("<u4").tobytes(), 32, 1)
    with pytest.raises(UndecodableError, match="of 32 bits unsigned without the tags SMinSample"):
        read(tmp_path / "x.tif")


def test_twelve_bits_a_pixel_fill_their_range(tmp_path: Path) -> None:
    levels = np.rint(SHARE * 4095).astype(int).reshape(-1, 2)
    packed = [[a >> 4, (a & 15) << 4 | b >> 8, b & 255] for a, b in levels]
    write_plain_tiff(tmp_path / "x.tif", np.array(packed, dtype=np.uint8).tobytes(), 12, 1)
    assert_shows_reference(tmp_path / "x.tif")


@pytest.mark.parametrize(
    "levels",
    [SHARE * 255, SHARE * 2 - 1, np.where(SHARE == 0, np.nan, SHARE), SHARE * 1e30],
    ids=["to_255", "negative", "nan", "huge"],
)
def test_floats_that_are_not_between_0_and_1_are_refused(
    tmp_path: Path, levels: NDArray[np.float64]
) -> None:
    Image.fromarray(levels.astype(np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(UndecodableError, match="exceed the range of 0 to 1; scale them"):
        read(tmp_path / "x.tif")


def test_floats_that_overshoot_by_rounding_are_clipped(tmp_path: Path) -> None:
    levels = (SHARE * 1.001 - 0.0005).astype(np.float32)
    Image.fromarray(levels).save(tmp_path / "x.tif")
    assert_shows_reference(tmp_path / "x.tif")


@pytest.mark.parametrize("maximum", [255, 1023, 4095, 65535])
def test_pgm_states_its_range(tmp_path: Path, maximum: int) -> None:
    levels = np.rint(SHARE * maximum).astype(">u2" if maximum > 255 else "u1")
    (tmp_path / "x.pgm").write_bytes(f"P5 16 16 {maximum}\n".encode() + levels.tobytes())
    assert_shows_reference(tmp_path / "x.pgm")


def test_images_in_memory_follow_the_same_rules() -> None:
    def shown(levels: NDArray[Any]) -> NDArray[np.uint8]:
        return decode_image(Image.fromarray(levels), 1, 16)[..., 0]

    assert np.array_equal(shown((SHARE * 65535).astype(np.uint16)), REFERENCE)
    assert np.array_equal(shown(SHARE.astype(np.float32)), REFERENCE)
    with pytest.raises(UndecodableError, match="grey levels of kind I do not say"):
        shown(REFERENCE.astype(np.int32))


def test_transparent_level_of_16_bits_goes_on_white(tmp_path: Path) -> None:
    levels = (SHARE * 65535).astype(np.uint16)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 16, 0, 0, 0, 0))
        + chunk(b"tRNS", struct.pack(">H", 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    expected = REFERENCE.copy()
    expected[0, 0] = 255
    assert np.array_equal(read(tmp_path / "x.png"), expected)
