"""The pixel cache: decoded once, right for every kind of image, never stale, never half built."""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resize as torchvision_resize

from tests.conftest import ImageTree
from wpm import pixels
from wpm.atomic import DamagedFileError, write_json
from wpm.datasets import ImageIndex, index_class_folders
from wpm.errors import UserError
from wpm.pixels import Pixels, build_pixels, decode_image

REPOSITORY = Path(__file__).resolve().parent.parent
COLOURS = np.array(
    [[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], dtype=np.uint8
).repeat(2, axis=1)  # (2, 4, 3)
GREYS = np.arange(0, 256, 8, dtype=np.uint8).reshape(4, 8)


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


# Decoding


def test_grey_image_is_decoded_exactly(tmp_path: Path) -> None:
    Image.fromarray(GREYS).save(tmp_path / "x.png")
    assert np.array_equal(decode_image(tmp_path / "x.png", 1, resize=4), GREYS[None])
    in_colour = decode_image(tmp_path / "x.png", 3, resize=4)
    assert np.array_equal(in_colour, np.stack([GREYS] * 3))
    assert in_colour.dtype == np.uint8


def test_colour_image_is_decoded_as_red_green_blue(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "x.png")
    assert np.array_equal(decode_image(tmp_path / "x.png", 3, 2), COLOURS.transpose(2, 0, 1))
    # Luma weights 0.299, 0.587, 0.114 (ITU-R 601), as in torchvision.
    grey = decode_image(tmp_path / "x.png", 1, 2)
    assert grey.tolist() == [[[76, 76, 150, 150], [29, 29, 255, 255]]]


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_image_is_decoded_by_its_colours(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(COLOURS).quantize(8).save(tmp_path / f"x.{suffix}")
    with Image.open(tmp_path / f"x.{suffix}") as image:
        assert image.mode == "P"
    found = decode_image(tmp_path / f"x.{suffix}", 3, 2)
    assert np.array_equal(found, COLOURS.transpose(2, 0, 1))


def test_palette_image_with_transparency_is_decoded_without_a_warning(tmp_path: Path) -> None:
    image = Image.fromarray(COLOURS).quantize(8)
    image.save(tmp_path / "x.png", transparency=bytes([255] * 7 + [0]))
    found = decode_image(tmp_path / "x.png", 3, 2)
    assert np.array_equal(found, COLOURS.transpose(2, 0, 1))


def test_opaque_alpha_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).convert("RGBA").save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", 3, 2)
    assert np.array_equal(found, COLOURS.transpose(2, 0, 1))


def test_print_colours_are_decoded(tmp_path: Path) -> None:
    inks = np.zeros((2, 4, 4), dtype=np.uint8)
    inks[0, :, 0] = 255  # cyan above, no ink below
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "x.tif")
    found = decode_image(tmp_path / "x.tif", 3, 2)
    assert found[:, 0, 0].tolist() == [0, 255, 255]
    assert found[:, 1, 0].tolist() == [255, 255, 255]
    Image.fromarray(inks, mode="CMYK").resize((16, 8), 0).save(tmp_path / "x.jpg", quality=95)
    photograph = decode_image(tmp_path / "x.jpg", 3, 8)
    assert np.abs(photograph[:, 0, 0].astype(int) - [0, 255, 255]).max() < 12
    assert photograph[:, 7, 0].min() > 243


def test_black_and_white_image_is_decoded(tmp_path: Path) -> None:
    Image.fromarray(GREYS > 100).save(tmp_path / "x.png")
    found = decode_image(tmp_path / "x.png", 1, 4)
    assert np.array_equal(found[0], np.where(GREYS > 100, 255, 0))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bit_image_is_scaled_to_eight(tmp_path: Path, suffix: str, channels: int) -> None:
    levels = np.linspace(0, 65535, 32).astype(np.uint16).reshape(4, 8)
    Image.fromarray(levels).save(tmp_path / f"x.{suffix}")
    found = decode_image(tmp_path / f"x.{suffix}", channels, 4)
    assert found.shape == (channels, 4, 8)
    assert np.abs(found - levels / 257).max() <= 1


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
    assert found.shape == (3, *expected)
    with Image.open(tmp_path / "x.png") as image:
        reference = np.asarray(torchvision_resize(image, 20, InterpolationMode.BILINEAR))
    assert np.array_equal(found, reference.transpose(2, 0, 1))


# Reading


def index_of(root: Path, channels: int = 1) -> ImageIndex:
    return index_class_folders("folder", root, channels)


def build(index: ImageIndex, tmp_path: Path, resize: int = 20) -> Path:
    return build_pixels(index, resize, tmp_path / "work")


@pytest.fixture
def six_images(image_tree: ImageTree) -> ImageIndex:
    """Three classes of two images, all of one size."""
    paths = [f"{name}/{i}.bmp" for name in ("a", "b", "c") for i in range(2)]
    return index_of(image_tree({path: noise(20, 20, seed=i) for i, path in enumerate(paths)}))


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_one_size_are_read_as_decoded(
    image_tree: ImageTree, tmp_path: Path, channels: int
) -> None:
    images = {f"{name}/{i}.png": noise(30, 40, 3, seed=i) for i in range(3) for name in "ab"}
    index = index_of(image_tree(images), channels)
    pixels = Pixels(build(index, tmp_path))
    assert len(pixels) == 6
    assert pixels.channels == channels
    assert pixels.sizes.tolist() == [[20, 26]] * 6
    assert pixels.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pixels.class_names == ("a", "b")
    order = [5, 0, 0, 3]
    found, sizes = pixels.read(torch.tensor(order))
    assert found.dtype == torch.uint8
    assert found.shape == (4, channels, 20, 26)
    assert sizes.tolist() == [[20, 26]] * 4
    for image, i in zip(found, order, strict=True):
        expected = decode_image(index.root / index.paths[i], channels, 20)
        assert np.array_equal(image.numpy(), expected)


@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_several_sizes_are_padded_with_zeros(
    image_tree: ImageTree, tmp_path: Path, channels: int
) -> None:
    shapes = [(20, 20), (20, 33), (41, 20)]
    images = {f"a/{i}.png": np.maximum(noise(*shape), 1) for i, shape in enumerate(shapes)}
    index = index_of(image_tree(images), channels)
    pixels = Pixels(build(index, tmp_path))
    for order, padded in (([2, 0], (41, 20)), ([0, 1, 2, 1], (41, 33)), ([1], (20, 33))):
        found, sizes = pixels.read(torch.tensor(order))
        assert found.shape == (len(order), channels, *padded)
        assert sizes.tolist() == [list(shapes[i]) for i in order]
        for image, i in zip(found, order, strict=True):
            height, width = shapes[i]
            expected = decode_image(index.root / index.paths[i], channels, 20)
            assert np.array_equal(image[:, :height, :width].numpy(), expected)
            assert int((image > 0).sum()) == channels * height * width


def test_batches_are_copies(six_images: ImageIndex, tmp_path: Path) -> None:
    folder = build(six_images, tmp_path)
    first, second = Pixels(folder), Pixels(folder)
    batch, _ = first.read(torch.tensor([0, 1]))
    before = batch.clone()
    batch.zero_()
    assert torch.equal(first.read(torch.tensor([0, 1]))[0], before)
    assert torch.equal(second.read(torch.tensor([0, 1]))[0], before)
    first.verify()


def test_positions_of_classes_are_in_order(six_images: ImageIndex, tmp_path: Path) -> None:
    pixels = Pixels(build(six_images, tmp_path))
    assert pixels.indices_of([2, 0]).tolist() == [0, 1, 4, 5]
    assert pixels.indices_of([]).tolist() == []
    assert pixels.indices_of([7]).tolist() == []


# Reuse


def fingerprint(folder: Path) -> tuple[int, int]:
    stat = (folder / "pixels.bin").stat()
    return stat.st_ino, stat.st_mtime_ns


def test_cache_is_reused(
    six_images: ImageIndex, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="wpm.pixels")
    folder = build(six_images, tmp_path)
    assert "decoded 6 of 6 images" in caplog.text
    before = fingerprint(folder)
    caplog.clear()
    assert build(six_images, tmp_path) == folder
    assert fingerprint(folder) == before
    assert "decoded" not in caplog.text


def test_cache_is_reused_for_the_same_images_elsewhere(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    folder = build(six_images, tmp_path)
    before = fingerprint(folder)
    shutil.copytree(six_images.root, tmp_path / "copy")
    assert build(index_of(tmp_path / "copy"), tmp_path) == folder
    for path in six_images.paths:  # new times, old content
        os.utime(six_images.root / path, (1, 1))
    assert build(six_images, tmp_path) == folder
    assert fingerprint(folder) == before


def test_cache_is_reused_without_its_memory_of_digests(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    folder = build(six_images, tmp_path)
    before = fingerprint(folder)
    (memory,) = (tmp_path / "work" / "pixels").glob("digests-*.json")
    memory.write_text("damaged")
    assert build(six_images, tmp_path) == folder
    assert fingerprint(folder) == before


def test_changed_image_of_the_same_size_and_time_is_decoded_again(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    old = build(six_images, tmp_path)
    path = six_images.root / six_images.paths[3]
    stat = path.stat()
    Image.fromarray(noise(20, 20, seed=99)).save(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    changed = path.stat()
    assert (changed.st_size, changed.st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)
    new = build(six_images, tmp_path)
    assert new != old
    found, _ = Pixels(new).read(torch.tensor([3]))
    assert np.array_equal(found[0, 0].numpy(), noise(20, 20, seed=99))


def test_caches_differ_by_what_they_hold(six_images: ImageIndex, tmp_path: Path) -> None:
    folders = [
        build(six_images, tmp_path),
        build(six_images, tmp_path, resize=10),
        build(index_of(six_images.root, channels=3), tmp_path),
        build(six_images.subset([0, 1]), tmp_path),
        build(six_images.subset([1, 2]), tmp_path),
    ]
    assert len(set(folders)) == 5
    first, last = Pixels(folders[3]), Pixels(folders[4])
    assert first.labels.tolist() == [0, 0, 1, 1]
    assert last.labels.tolist() == [1, 1, 2, 2]
    assert first.class_names == last.class_names == ("a", "b", "c")
    assert torch.equal(first.read(torch.tensor([2]))[0], last.read(torch.tensor([0]))[0])


def test_class_names_of_a_subset_follow_the_set(six_images: ImageIndex, tmp_path: Path) -> None:
    """Splits are cut by the number of class names: it must not be that of an earlier set."""
    build(six_images.subset([0]), tmp_path)
    shutil.copytree(six_images.root / "c", six_images.root / "d")
    grown = index_of(six_images.root)
    assert grown.class_names == ("a", "b", "c", "d")
    assert Pixels(build(grown.subset([0]), tmp_path)).class_names == grown.class_names


# What is refused


def damaged_png(**header: int) -> bytes:
    """A PNG whose header promises other sizes than follow."""
    data = struct.pack(">IIBBBBB", header["width"], header["height"], 8, 0, 0, 0, 0)
    chunk = struct.pack(">I", len(data)) + b"IHDR" + data
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", zlib.crc32(b"IHDR" + data))


def test_unreadable_images_are_counted_and_the_first_named(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    root = six_images.root
    good = (root / "a/0.bmp").read_bytes()
    bad = {
        "a/empty.png": b"",
        "a/text.jpg": b"<html>not found</html>",
        "b/truncated.bmp": good[: len(good) // 2],
        "c/bomb.png": damaged_png(width=60_000, height=60_000),
        "c/header.png": damaged_png(width=20, height=20),
    }
    for name, data in bad.items():
        (root / name).write_bytes(data)
    with pytest.raises(UserError, match="5 of 11 images") as caught:
        build(index_of(root), tmp_path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(root) in message
    assert all(name in message for name in list(bad)[:3])
    left = [p.name for p in (tmp_path / "work" / "pixels").iterdir() if p.is_dir()]
    assert left == []
    for name in bad:
        (root / name).unlink()
    assert len(Pixels(build(index_of(root), tmp_path))) == 6


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow, of what it reads in TIFFs
@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp", "ppm"])
def test_every_truncation_is_unreadable_or_decoded(tmp_path: Path, suffix: str) -> None:
    """Whatever is left of a file, it is never an exception that the cache does not expect."""
    (tmp_path / "tree" / "a").mkdir(parents=True)
    whole = tmp_path / f"whole.{suffix}"
    Image.fromarray(noise(12, 12, 3)).save(whole)
    data = whole.read_bytes()
    ends = range(0, len(data), max(1, len(data) // 40))
    for end in ends:
        (tmp_path / "tree" / "a" / f"{end:05d}.{suffix}").write_bytes(data[:end])
    with pytest.raises(UserError, match=f"of {len(ends)} images"):
        build(index_of(tmp_path / "tree", channels=3), tmp_path)


def test_image_that_is_gone_is_named(six_images: ImageIndex, tmp_path: Path) -> None:
    (six_images.root / "b/1.bmp").unlink()
    with pytest.raises(UserError, match=r"b/1.bmp: cannot be read"):
        build(six_images, tmp_path)


def test_cache_of_no_images_is_refused(six_images: ImageIndex, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no images"):
        build(six_images.subset([]), tmp_path)


def test_cache_that_cannot_be_written_is_a_user_error(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    (tmp_path / "work").touch()
    with pytest.raises(UserError, match="cannot be written"):
        build(six_images, tmp_path)


def test_folder_that_is_no_cache_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        Pixels(tmp_path)


# Damage


@pytest.mark.parametrize("position", [0, 1234, 20 * 20 * 6 - 1])
def test_flipped_byte_is_noticed(six_images: ImageIndex, tmp_path: Path, position: int) -> None:
    folder = build(six_images, tmp_path)
    data = bytearray((folder / "pixels.bin").read_bytes())
    assert len(data) == 20 * 20 * 6
    data[position] ^= 1
    (folder / "pixels.bin").write_bytes(data)
    with pytest.raises(DamagedFileError, match="delete the folder") as caught:
        build(six_images, tmp_path)
    assert str(folder) in str(caught.value)
    with pytest.raises(DamagedFileError):
        Pixels(folder).verify()
    shutil.rmtree(folder)  # as the message says
    assert build(six_images, tmp_path) == folder
    Pixels(folder).verify()


@pytest.mark.parametrize("change", ["truncated", "longer", "gone", "empty"])
def test_cache_of_the_wrong_size_is_noticed(
    six_images: ImageIndex, tmp_path: Path, change: str
) -> None:
    folder = build(six_images, tmp_path)
    file = folder / "pixels.bin"
    data = file.read_bytes()
    if change == "gone":
        file.unlink()
    else:
        file.write_bytes({"truncated": data[:-1], "longer": data + b"x", "empty": b""}[change])
    with pytest.raises(DamagedFileError):
        Pixels(folder)
    with pytest.raises(DamagedFileError):
        build(six_images, tmp_path)


def test_damaged_description_is_noticed(six_images: ImageIndex, tmp_path: Path) -> None:
    folder = build(six_images, tmp_path)
    meta = folder / "meta.json"
    content = json.loads(meta.read_text())
    content["content"]["labels"][0] = 2
    meta.write_text(json.dumps(content))
    with pytest.raises(DamagedFileError):
        Pixels(folder)
    meta.write_bytes(meta.read_bytes()[:50])
    with pytest.raises(DamagedFileError):
        build(six_images, tmp_path)


def test_folder_without_description_is_built_again(six_images: ImageIndex, tmp_path: Path) -> None:
    folder = build(six_images, tmp_path)
    (folder / "meta.json").unlink()
    (folder / "pixels.bin").write_bytes(b"half")
    assert build(six_images, tmp_path) == folder
    Pixels(folder).verify()


# Several processes

BUILDER = """
import logging, sys
from pathlib import Path
from wpm.datasets import index_class_folders
from wpm.pixels import build_pixels
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
index = index_class_folders("folder", Path(sys.argv[1]), 1)
print("ready", flush=True)
sys.stdin.readline()
print(build_pixels(index, 20, Path(sys.argv[2])), flush=True)
"""


def start_builder(root: Path, work_root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root), str(work_root)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def let_go(builder: subprocess.Popen[str]) -> None:
    assert builder.stdin is not None
    builder.stdin.write("\n")
    builder.stdin.flush()


def wait_until_ready(builder: subprocess.Popen[str]) -> None:
    assert builder.stdout is not None
    assert builder.stdout.readline() == "ready\n"


@pytest.fixture
def slow_images(tmp_path: Path) -> ImageIndex:
    """200 names of one large photograph: seconds to decode, nothing to store."""
    root = tmp_path / "slow" / "a"
    root.mkdir(parents=True)
    Image.fromarray(np.kron(noise(10, 10), np.ones((100, 100), np.uint8))).save(root / "0.jpg")
    for number in range(1, 200):
        os.link(root / "0.jpg", root / f"{number}.jpg")
    return index_of(root.parent)


def test_processes_that_build_at_once_share_one_cache(
    slow_images: ImageIndex, tmp_path: Path
) -> None:
    builders = [start_builder(slow_images.root, tmp_path / "work") for _ in range(3)]
    for builder in builders:
        wait_until_ready(builder)
    for builder in builders:
        let_go(builder)
    outputs = [builder.communicate(timeout=120)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    (folder,) = {Path(lines[-1]) for lines in outputs}
    assert sum(any("decoded" in line for line in lines) for lines in outputs) == 1
    assert [p for p in (tmp_path / "work" / "pixels").iterdir() if p.is_dir()] == [folder]
    assert len(Pixels(folder)) == 200
    Pixels(folder).verify()


def test_killed_builder_leaves_nothing_behind(slow_images: ImageIndex, tmp_path: Path) -> None:
    caches = tmp_path / "work" / "pixels"
    builder = start_builder(slow_images.root, tmp_path / "work")
    wait_until_ready(builder)
    let_go(builder)
    deadline = time.monotonic() + 60
    while not list(caches.glob(".partial-*/pixels.bin")) and time.monotonic() < deadline:
        time.sleep(0.001)
    builder.send_signal(signal.SIGKILL)
    builder.communicate()
    assert list(caches.glob(".partial-*/pixels.bin")), "killed too late to leave something"
    folder = build(slow_images, tmp_path)
    assert [p for p in caches.iterdir() if p.is_dir()] == [folder]
    Pixels(folder).verify()
    assert len(Pixels(folder)) == 200


# Memory


def test_cache_is_streamed_to_disk_and_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """120,053 images are 30 GB: only what is decoded ahead, and one batch, may be held."""
    root = tmp_path / "images"
    noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), dtype=np.uint8)
    for number in range(200):
        folder = root / f"class_{number % 4}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(folder / f"{number}.png")
    index = index_class_folders("folder", root, channels=3)
    monkeypatch.setattr(pixels, "_DECODE_WINDOW", 8)
    monkeypatch.setattr(pixels, "_CHECK_BYTES", 2**16)
    total = 200 * noise.nbytes  # 6 MB
    tracemalloc.start()
    try:
        cache = build_pixels(index, 100, tmp_path / "work")
        _, peak = tracemalloc.get_traced_memory()
        assert peak < total / 4
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        mapped = Pixels(cache)
        images, _ = mapped.read(torch.tensor([3, 150]))
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < total / 20
    finally:
        tracemalloc.stop()
    assert torch.equal(images[0], torch.from_numpy(noise).permute(2, 0, 1))


def test_cache_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """SOP's cache exceeds the memory of many machines, and not every way to map it is allowed."""
    sizes = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    memory = 1024 * (int(sizes["MemTotal"]) + int(sizes["SwapTotal"]))
    side = 2048
    images = 1 + 2 * memory // (3 * side**2)
    with (tmp_path / "pixels.bin").open("wb") as file:
        file.truncate(images * 3 * side**2)  # a hole: nothing is stored
    meta = {"class_names": ["a"], "channels": 3, "labels": [0] * images}
    write_json(tmp_path / "meta.json", {**meta, "sizes": [[side, side]] * images})
    mapped = Pixels(tmp_path)
    found, _ = mapped.read(torch.tensor([images - 1]))
    assert found.shape == (1, 3, side, side)
    assert not found.any()
