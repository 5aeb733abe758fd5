"""Whatever a damaged image file makes its decoder raise, the file is named and the rest decoded.

`WPM_FUZZ_FILES=100000 WPM_FUZZ_SEED=1 python -m pytest -s tests/data/test_fuzzed_images.py` tries
more files than the default run, of another seed.
"""

import io
import os
import random
import struct
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from wpm.data.decoding import DecodingTask, decode_part
from wpm.data.image_file import cached_size
from wpm.data.readings import _describe

FILES = int(os.environ.get("WPM_FUZZ_FILES", "2500"))
SEED = int(os.environ.get("WPM_FUZZ_SEED", "0"))
FORMATS = ["png", "tif", "jpg", "webp", "gif"]
RESIZE = 8


def encode(image: Image.Image, suffix: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, {"tif": "TIFF", "jpg": "JPEG"}.get(suffix, suffix.upper()), **options)
    return buffer.getvalue()


def intact_files(suffix: str) -> list[bytes]:
    """Return small files of one format, of as many kinds as Pillow writes."""
    noise = np.random.default_rng(0).integers(0, 256, (12, 10, 4)).astype(np.uint8)
    transparent, colour = Image.fromarray(noise), Image.fromarray(noise[..., :3].copy())
    grey, deep = colour.convert("L"), Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "a camera", {0x829A: 0.01}
    if suffix == "png":
        images = [transparent, colour, grey, deep, colour.quantize(9), grey.convert("1")]
        files = [encode(image, "png") for image in images]
        files.append(encode(colour.quantize(9), "png", transparency=b"\0\x80\xff"))
        return [*files, encode(colour, "png", exif=exif, icc_profile=b"profile" * 9, dpi=(72, 72))]
    if suffix == "tif":
        images = [grey, colour, deep, Image.fromarray(noise[..., 0] / np.float32(255))]
        files = [encode(image, "tif") for image in [*images, colour.convert("CMYK"), transparent]]
        ways = ["tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg"]
        files += [encode(colour, "tif", compression=way) for way in ways]
        files.append(encode(grey.convert("1"), "tif", compression="group4"))
        return [*files, encode(grey, "tif", exif=exif, tiffinfo={700: b"<x tiff:Orientation='3'"})]
    if suffix == "jpg":
        files = [encode(image, "jpg") for image in (grey, colour, colour.convert("CMYK"))]
        return [*files, encode(colour, "jpg", progressive=True, exif=exif, icc_profile=b"p" * 9)]
    if suffix == "webp":
        files = [encode(image, "webp") for image in (colour, transparent)]
        files.append(encode(transparent, "webp", lossless=True, exif=exif, xmp=b"<x/>"))
        return [*files, encode(colour, "webp", save_all=True, append_images=[grey])]
    files = [encode(image, "gif") for image in (grey, colour.quantize(9), transparent)]
    return [*files, encode(grey, "gif", save_all=True, append_images=[colour], comment=b"hello")]


def overwrite(data: bytearray, rng: random.Random) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))


def overwrite_number(data: bytearray, rng: random.Random) -> None:
    number = rng.choice((0, 1, 2**31 - 1, 2**31, 2**32 - 1, rng.randrange(70000)))
    at = rng.randrange(max(1, len(data) - 4))
    data[at : at + 4] = struct.pack(rng.choice(("<I", ">I")), number)


def cut(data: bytearray, rng: random.Random) -> None:
    del data[rng.randrange(len(data)) :]


def remove(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.randrange(1, 30)]


def repeat(data: bytearray, rng: random.Random) -> None:
    start, to = rng.randrange(len(data)), rng.randrange(len(data))
    data[to:to] = data[start : start + rng.randrange(1, 60)]


DAMAGES: list[Callable[[bytearray, random.Random], None]] = [
    overwrite, overwrite, overwrite_number, cut, remove, repeat,
]  # fmt: skip


def insert_chunk(data: bytes, rng: random.Random) -> bytes:
    """Put a chunk with a few bytes of anything before or behind the pixels of a PNG file."""
    names = (b"iCCP", b"zTXt", b"iTXt", b"tEXt", b"tRNS", b"PLTE", b"eXIf", b"pHYs", b"sRGB",
             b"cHRM", b"gAMA", b"acTL", b"fcTL", b"fdAT", b"IHDR", b"IDAT")  # fmt: skip
    content = rng.choice(names) + rng.choice(
        (b"", b"XML:com.adobe.xmp\0\1\0\0\0", b"a\0\0", b"a\0")
    )
    content += rng.randbytes(rng.choice((0, 0, 1, 2, 3, 5, 9, 30)))
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    at = rng.choice((data.find(b"IDAT"), data.rfind(b"IEND"))) - 4
    return data[:at] + chunk + data[at:]


def change_field(data: bytes, rng: random.Random) -> bytes:
    """Give a field of a TIFF file another tag, type, count or value."""
    (directory,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[directory : directory + 2])
    at = directory + 2 + 12 * rng.randrange(count)
    tag, kind, length, value = struct.unpack("<HHII", data[at : at + 12])
    tag = rng.choice((tag, tag, tag, 258, 270, 274, 277, 339, 340, 341, 700, 34665, 33723, 34377))
    kind = rng.choice((kind, kind, rng.randrange(1, 14)))
    length = rng.choice((length, length, 0, 1, 2, 3, 200))
    value = rng.choice((value, 0, 1, 2, 3, 8, 65535, rng.randrange(2**32)))
    return data[:at] + struct.pack("<HHII", tag, kind, length, value) + data[at + 12 :]


def damage(data: bytes, rng: random.Random) -> bytes:
    if data.startswith(b"\x89PNG") and rng.random() < 0.4:
        return insert_chunk(data, rng)
    if data.startswith(b"II*") and rng.random() < 0.4:
        return change_field(data, rng)
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        if damaged:
            rng.choice(DAMAGES)(damaged, rng)
    # Half of the PNG files get right checksums again, so that what is in them is looked at.
    return _sum_again(bytes(damaged)) if rng.random() < 0.5 else bytes(damaged)


def _sum_again(data: bytes) -> bytes:
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    parts, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        checksum = zlib.crc32(data[at + 4 : end])
        parts.append(data[at:end] + struct.pack(">I", checksum))
        at = end + 4
    return b"".join([*parts, data[at:]])


@pytest.mark.filterwarnings("ignore")  # of Pillow; building a cache silences them
@pytest.mark.parametrize("suffix", FORMATS)
def test_damaged_files_are_named_and_the_rest_is_decoded(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100_000)  # or huge ones take most of the time
    rng = random.Random(f"{suffix} {SEED}")
    intact = intact_files(suffix)
    outcomes: Counter[str] = Counter()
    for first in range(0, FILES // len(FORMATS), 50):
        names = [f"{number}.{suffix}" for number in range(first, first + 50)]
        for number, name in enumerate(names):
            data = rng.choice(intact)
            # One file of a part is as it should be.
            (tmp_path / name).write_bytes(data if number == 25 else damage(data, rng))
        outcomes += decode(tmp_path, names, intact_name=names[25])
    print(f"{suffix}: {sum(outcomes.values())} files,", dict(outcomes.most_common(12)))
    assert outcomes["decoded"] >= FILES // len(FORMATS) // 50
    assert len(outcomes) > 2, "nothing was damaged"
    if suffix in ("png", "tif"):  # Pillow's own errors do not name their class
        assert any(kind.endswith("Error") or kind == "error" for kind in outcomes), "all is usual"


def decode(folder: Path, names: list[str], intact_name: str) -> Counter[str]:
    """Decode files as a part of a cache; return how many were decoded, or why they were not."""
    sizes = [cached_size(folder / name, RESIZE) for name in names]
    for name in names:
        assert set(_describe(folder / name).split()) <= {"upright", "levels"}
    (folder / "pixels.bin").write_bytes(bytes(3 * sum(a * b for a, b in sizes)))
    task = DecodingTask(0, str(folder / "pixels.bin"), 0, str(folder), names, sizes, 3, RESIZE)
    decoded = decode_part(task)
    reasons = {path: reason for path, reason in decoded.unreadable if path in names}
    assert intact_name not in reasons
    assert all(reason and "\n" not in reason for reason in reasons.values())
    readable = [size for name, size in zip(names, sizes, strict=True) if name not in reasons]
    size = 3 * sum(a * b for a, b in readable)
    with (folder / "pixels.bin").open("rb") as file:
        assert zlib.crc32(file.read(size)) == decoded.crc32
    kinds = Counter(reason.split(":")[0][:30] for reason in reasons.values())
    return kinds + Counter(decoded=len(readable))
