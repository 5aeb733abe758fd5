"""Decoding is right for every kind of image, in threads and in processes that end with us."""

import dataclasses
import json
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from wpm.data import decoding
from wpm.data.decoding import (
    DecodedPart,
    DecodingTask,
    decode_in_processes,
    decode_in_threads,
    decode_part,
    decode_parts,
)
from wpm.data.image_file import cached_size, decode_image
from wpm.data.image_tree import image_suffixes
from wpm.errors import UserError

REPOSITORY = Path(__file__).resolve().parents[2]
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8
).repeat(2, axis=1)  # (2, 4, 3)
GREYS = np.arange(0, 256, 8, dtype=np.uint8).reshape(4, 8)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


# Decoding


def test_grey_image_is_decoded_exactly(tmp_path: Path) -> None:
    Image.fromarray(GREYS).save(tmp_path / "x.png")
    assert np.array_equal(decode_image(tmp_path / "x.png", 1, resize=4), GREYS[..., None])
    in_colour = decode_image(tmp_path / "x.png", 3, resize=4)
    assert np.array_equal(in_colour, np.stack([GREYS] * 3, axis=2))
    assert in_colour.dtype == np.uint8


def test_colour_image_is_decoded_as_red_green_blue(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    assert np.array_equal(decode_image(tmp_path / "x.png", 3, 2), COLOURS)
    # Luma weights 0.299, 0.587, 0.114 (ITU-R 601), as in torchvision.
    grey = decode_image(tmp_path / "x.png", 1, 2)
    assert grey[..., 0].tolist() == [[76, 76, 150, 150], [29, 29, 255, 255]]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_image_is_decoded_by_its_colours(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(COLOURS).quantize(8).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        assert image.mode == "P"
    found = decode_image(tmp_path / f"x.{suffix}", 3, 2)
    assert np.array_equal(found, COLOURS)


def test_palette_image_with_transparency_is_decoded_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(8)
    image.save(tmp_path / "x.png", transparency=bytes([255] * 7 + [0]))
    found = decode_image(tmp_path / "x.png", 3, 2)
    assert np.array_equal(found, COLOURS)


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("RGBA").save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", 3, 2)
    assert np.array_equal(found, COLOURS)


def test_print_colours_are_decoded(tmp_path: Path) -> None:
    inks = np.zeros((2, 4, 4), dtype=np.uint8)
    inks[0, :, 0] = 255  # cyan above, no ink below
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "x.tif")
    found = decode_image(tmp_path / "x.tif", 3, 2)
    assert found[0, 0].tolist() == [0, 255, 255]
    assert found[1, 0].tolist() == [255, 255, 255]
    Image.fromarray(inks, mode="CMYK").resize((16, 8), 0).save(tmp_path / "x.jpg", quality=95)
    photograph = decode_image(tmp_path / "x.jpg", 3, 8)
    assert np.abs(photograph[0, 0].astype(int) - [0, 255, 255]).max() < 12
    assert photograph[7, 0].min() > 243


def test_black_and_white_image_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(GREYS > 100).save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", 1, 4)
    assert np.array_equal(found[..., 0], np.where(GREYS > 100, 255, 0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_image_is_scaled_to_eight(tmp_path: Path, suffix: str, channels: int) -> None:
    levels = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
    Image.fromarray(levels).save(tmp_path / f"x.{suffix}")
    found = decode_image(tmp_path / f"x.{suffix}", channels, 4)
    assert found.shape == (4, 8, channels)
    assert np.abs(found - levels[..., None] / 257).max() <= 1


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        (60, 40, (20, 30)),
        (40, 60, (30, 20)),
        (20, 20, (20, 20)),
        (33, 50, (30, 20)),  # 50 * 20 / 33 = 30.3: rounded down
        (7, 11, (31, 20)),  # enlarged
        (1, 100, (2000, 20)),
    ],
)
def test_shorter_side_is_resized(
    tmp_path: Path, width: int, height: int, expected: tuple[int, int]
) -> None:
    Image.fromarray(noise(height, width, 3)).save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", 3, 20)
    assert found.shape == (*expected, 3)
    with Image.open(tmp_path / "x.png") as image:
        reference = np.asarray(torchvision_resize(image, 20, InterpolationMode.BILINEAR))
    assert np.array_equal(found, reference)


# Sizes


# Some formats are read and never written, and some only for images of a few sizes or modes.
NOT_WRITTEN_AS_COLOUR = {".icns", ".ico", ".msp", ".xbm", ".pfm", ".blp"}
SAVED = sorted(
    suffix
    for suffix in image_suffixes() - NOT_WRITTEN_AS_COLOUR
    if Image.registered_extensions()[suffix] in Image.SAVE
)


@pytest.mark.parametrize("suffix", SAVED)
def test_size_of_the_header_is_that_of_the_decoded_image(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"x{suffix}"
    picture = noise(30, 47) if suffix == ".pgm" else noise(30, 47, 3)
    Image.fromarray(picture).save(path)
    assert cached_size(path, 20) == decode_image(path, 3, 20).shape[:2] == (20, 31)


@pytest.mark.parametrize("suffix", ["jpg", "tif", "png", "webp"])
def test_size_of_a_turned_photograph_is_that_of_the_decoded_image(
    tmp_path: Path, suffix: str
) -> None:
    orientation = Image.Exif()
    orientation[0x0112] = 6  # a quarter turn, which Pillow applies to some formats on loading
    Image.fromarray(noise(30, 47, 3)).save(tmp_path / f"x.{suffix}", exif=orientation)
    path = tmp_path / f"x.{suffix}"
    assert cached_size(path, 20) == decode_image(path, 3, 20).shape[:2]


def test_unreadable_image_has_no_size(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"not an image")
    assert cached_size(tmp_path / "x.png", 20) == (0, 0)
    assert cached_size(tmp_path / "gone.png", 20) == (0, 0)


# Parts


def make_parts(folder: Path, images: int = 12, each: int = 3) -> list[DecodingTask]:
    """Write images of several widths, and cut them into parts of one file full of 7s."""
    sizes = [(4, 4 + number % 3) for number in range(images)]
    for number, size in enumerate(sizes):
        Image.fromarray(noise(*size, seed=number)).save(folder / f"{number}.png")
    starts = np.cumsum([0, *(height * width for height, width in sizes)]).tolist()
    file = folder / "pixels.bin"
    file.write_bytes(b"\7" * starts[-1])
    return [
        DecodingTask(
            number=first // each,
            file=str(file),
            offset=starts[first],
            root=str(folder),
            paths=[f"{number}.png" for number in range(first, first + each)],
            sizes=sizes[first : first + each],
            channels=1,
            resize=4,
        )
        for first in range(0, images, each)
    ]


def expected_bytes(parts: Sequence[DecodingTask]) -> bytes:
    paths = [Path(part.root, path) for part in parts for path in part.paths]
    return b"".join(decode_image(path, 1, 4).tobytes() for path in paths)


def test_part_is_written_to_its_place_only(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    decoded = decode_part(parts[1])
    content = (tmp_path / "pixels.bin").read_bytes()
    whole = expected_bytes(parts)
    first, end = parts[1].offset, parts[2].offset
    assert content[first:end] == whole[first:end]
    assert set(content[:first] + content[end:]) == {7}
    assert decoded == DecodedPart(1, zlib.crc32(whole[first:end]), [])


def test_unreadable_images_of_a_part_are_named(tmp_path: Path) -> None:
    parts = make_parts(tmp_path)
    (tmp_path / "3.png").write_bytes(b"")
    Image.fromarray(noise(4, 9)).save(tmp_path / "5.png")  # not what its header said before
    (first, reason), (second, mismatch) = decode_part(parts[1]).unreadable
    assert (first, second) == ("3.png", "5.png")
    assert "cannot identify" in reason
    assert "promises" in mismatch


WAYS: list[Callable[[Sequence[DecodingTask], int], Iterator[DecodedPart]]] = [
    decode_in_threads,
    decode_in_processes,
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("workers", [1, 3])
def test_threads_and_processes_decode_every_part_once(
    tmp_path: Path,
    way: Callable[[Sequence[DecodingTask], int], Iterator[DecodedPart]],
    workers: int,
) -> None:
    parts = make_parts(tmp_path)
    (tmp_path / "11.png").write_bytes(b"")
    done = sorted(way(parts, workers), key=lambda decoded: decoded.number)
    assert [decoded.number for decoded in done] == [0, 1, 2, 3]
    assert [len(decoded.unreadable) for decoded in done] == [0, 0, 0, 1]
    whole, end = expected_bytes(parts[:3]), parts[3].offset
    assert (tmp_path / "pixels.bin").read_bytes()[:end] == whole
    assert done[2].crc32 == zlib.crc32(whole[parts[2].offset :])


@pytest.mark.parametrize("way", WAYS)
def test_file_that_cannot_be_written_is_an_os_error(
    tmp_path: Path, way: Callable[[Sequence[DecodingTask], int], Iterator[DecodedPart]]
) -> None:
    parts = make_parts(tmp_path)
    (tmp_path / "pixels.bin").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        list(way(parts, 2))
    assert caught.value.strerror == "No such file or directory"


def test_processes_are_for_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = make_parts(tmp_path)
    monkeypatch.setattr(decoding, "decode_in_threads", lambda parts, cores: "threads")
    monkeypatch.setattr(decoding, "decode_in_processes", lambda parts, cores: "processes")
    monkeypatch.setattr(decoding, "PROCESS_IMAGES", 12)
    monkeypatch.setattr(decoding, "PROCESS_CORES", 1)
    chosen = [str(decode_parts(some)) for some in ([], parts[:3], parts)]
    assert chosen == ["threads", "threads", "processes"]
    monkeypatch.setattr(decoding, "PROCESS_CORES", 10_000)  # on fewer cores threads are faster
    assert str(decode_parts(parts)) == "threads"


# Processes


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> list["subprocess.Popen[str]"]:
    """Collect the processes that are started."""
    started: list[subprocess.Popen[str]] = []
    start = decoding._start_worker

    def remember() -> "subprocess.Popen[str]":
        started.append(start())
        return started[-1]

    monkeypatch.setattr(decoding, "_start_worker", remember)
    return started


def test_no_process_is_left_when_decoding_is_cut_short(
    tmp_path: Path, workers: list["subprocess.Popen[str]"]
) -> None:
    decoding_now = decode_in_processes(make_parts(tmp_path), 2)
    next(decoding_now)
    assert [worker.poll() for worker in workers] == [None, None]
    decoding_now.close()  # type: ignore[attr-defined]
    assert None not in [worker.poll() for worker in workers]


def test_no_more_processes_than_parts_are_started(
    tmp_path: Path, workers: list["subprocess.Popen[str]"]
) -> None:
    list(decode_in_processes(make_parts(tmp_path)[:1], 8))
    assert len(workers) == 1


def test_part_of_a_killed_process_is_decoded_again(
    tmp_path: Path, workers: list["subprocess.Popen[str]"]
) -> None:
    parts = make_parts(tmp_path)
    decoding_now = decode_in_processes(parts, 1)
    done = [next(decoding_now)]
    workers[0].kill()
    done += decoding_now
    assert [(part.number, list(part.unreadable)) for part in done] == [(n, []) for n in range(4)]
    assert (tmp_path / "pixels.bin").read_bytes() == expected_bytes(parts)
    assert None not in [worker.poll() for worker in workers]


# A process whose decoder crashes at one image, hangs at another, and ends at any part of three.
HARMFUL = """
import os, sys, time
from wpm.data import decoding
read_image, decode_part = decoding.read_image, decoding.decode_part
def read(path, *args, **kwargs):
    if path.name == sys.argv[1]:
        os.kill(os.getpid(), 11)
    if path.name == sys.argv[2]:
        time.sleep(600)
    return read_image(path, *args, **kwargs)
def decode(part):
    if sys.argv[3] and len(part.paths) == 3:
        os.kill(os.getpid(), 9)
    return decode_part(part)
decoding.read_image, decoding.decode_part = read, decode
decoding._serve()
"""


@pytest.fixture
def harmful(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str, str], None]:
    """Return a function that makes decoding processes crash or hang at some images."""

    def prepare(crashes: str, hangs: str, at_parts: str = "") -> None:
        monkeypatch.setattr(decoding, "IMAGE_SECONDS", 2.0)
        monkeypatch.setattr(decoding, "PART_SECONDS", 3.0)
        monkeypatch.setattr(
            decoding, "_COMMAND", [sys.executable, "-c", HARMFUL, crashes, hangs, at_parts]
        )

    return prepare


def test_images_that_end_or_hang_a_process_are_named(
    tmp_path: Path, harmful: Callable[[str, str, str], None]
) -> None:
    parts = make_parts(tmp_path)
    harmful("4.png", "6.png", "")
    done = sorted(decode_in_processes(parts, 2), key=lambda part: part.number)
    assert [list(part.unreadable) for part in done] == [
        [],
        [("4.png", "the process that decoded it ended (exit code -11)")],
        [("6.png", "the process that decoded it was stopped after 2 seconds")],
        [],
    ]


def test_process_that_ends_without_a_harmful_image_is_an_error(
    tmp_path: Path, harmful: Callable[[str, str, str], None]
) -> None:
    harmful("", "", "always")
    with pytest.raises(
        UserError, match=r"ended \(exit code -9\) between 0.png and 2.png"
    ) as caught:
        list(decode_in_processes(make_parts(tmp_path), 1))
    assert "twice; free memory" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_isolated_parts_are_decoded_in_processes(
    tmp_path: Path, workers: list["subprocess.Popen[str]"]
) -> None:
    parts = [dataclasses.replace(part, isolated=True) for part in make_parts(tmp_path)]
    assert len(list(decode_parts(parts))) == 4
    assert workers


def test_process_answers_and_ends_with_its_input(tmp_path: Path) -> None:
    worker = decoding._start_worker()
    part = make_parts(tmp_path)[0]
    decoding._give(worker, part)
    answer, _ = worker.communicate(timeout=60)
    assert json.loads(answer)["number"] == 0
    assert worker.returncode == 0


def test_process_starts_without_torch() -> None:
    command = "import sys, wpm.data.decoding; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
