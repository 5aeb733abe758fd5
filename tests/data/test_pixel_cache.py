"""The pixel cache is decoded once, right for every kind of image, and never stale or incomplete."""

import errno
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
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.image_trees import ImageTree
from wpm.data import pixel_cache, pixels
from wpm.data.class_folders import index_class_folders
from wpm.data.decoding import DecodedPart, DecodingTask, decode_parts
from wpm.data.image_file import decode_image
from wpm.data.index import ImageIndex
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import DamagedFileError, StorageError, UserError
from wpm.files import read_json, write_json

REPOSITORY = Path(__file__).resolve().parents[2]


def noise(*shape: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


# Reading


def index_of(root: Path, channels: int = 1) -> ImageIndex:
    return index_class_folders("folder", root, channels)


def build(index: ImageIndex, tmp_path: Path, resize: int = 20) -> Path:
    return build_pixel_cache(index, resize, tmp_path / "work")


@pytest.fixture
def six_images(image_tree: ImageTree) -> ImageIndex:
    """Three classes of two images, all of one size."""
    paths = [f"{name}/{i}.bmp" for name in ("a", "b", "c") for i in range(2)]
    return index_of(image_tree({path: noise(20, 20, seed=i) for i, path in enumerate(paths)}))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "shapes", [[(30, 40)] * 3, [(20, 20), (20, 33), (41, 20)]], ids=["one_size", "several_sizes"]
)
def test_images_are_read_as_decoded(
    image_tree: ImageTree, tmp_path: Path, channels: int, shapes: list[tuple[int, int]]
) -> None:
    images = {
        f"{name}/{i}.png": noise(*shape, 3, seed=i)
        for i, shape in enumerate(shapes)
        for name in "ab"
    }
    index = index_of(image_tree(images), channels)
    pixels = Pixels(build(index, tmp_path))
    assert len(pixels) == 6
    assert pixels.channels == channels
    assert pixels.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert pixels.class_names == ("a", "b")
    for position, path in enumerate(index.paths):
        found, expected = pixels.image(position), decode_image(index.root / path, channels, 20)
        assert found.dtype == torch.uint8
        assert pixels.sizes[position].tolist() == list(expected.shape[:2])
        assert np.array_equal(found.numpy(), expected)


def test_what_is_written_to_an_image_stays_in_the_process(
    six_images: ImageIndex, tmp_path: Path
) -> None:
    """Nothing should write into pixels; if something does, disk and other trials keep theirs."""
    folder = build(six_images, tmp_path)
    first, second = Pixels(folder), Pixels(folder)
    before = second.image(1).clone()
    first.image(1).zero_()
    assert torch.equal(second.image(1), before)
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
    caplog.set_level("INFO", logger="wpm.data.pixel_cache")
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
    assert np.array_equal(Pixels(new).image(3)[..., 0].numpy(), noise(20, 20, seed=99))


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
    assert torch.equal(first.image(2), last.image(0))


def test_class_names_of_a_subset_follow_the_set(six_images: ImageIndex, tmp_path: Path) -> None:
    """Splits depend on the number of class names, which must not be that of an earlier set."""
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
    """However a file is cut, no exception is raised that the cache does not expect."""
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
    with pytest.raises(UserError, match=r"1 of 6 images .* cannot be read: b/1.bmp \(No such"):
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


def test_cache_of_another_format_is_refused(six_images: ImageIndex, tmp_path: Path) -> None:
    folder = build(six_images, tmp_path)
    write_json(folder / "meta.json", {**read_json(folder / "meta.json"), "format": 1})
    with pytest.raises(UserError, match="of format 1, this version reads 2; give the launch"):
        Pixels(folder)


def test_folder_without_description_is_built_again(six_images: ImageIndex, tmp_path: Path) -> None:
    folder = build(six_images, tmp_path)
    (folder / "meta.json").unlink()
    (folder / "pixels.bin").write_bytes(b"half")
    assert build(six_images, tmp_path) == folder
    Pixels(folder).verify()


# Several processes

BUILDER = """
import logging, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored below a shell's background job
from pathlib import Path
from wpm.data import decoding, pixel_cache, pixels
from wpm.data.class_folders import index_class_folders
logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
decoding.PROCESS_IMAGES, decoding.PROCESS_CORES = int(sys.argv[3]), 1
pixels.PART_IMAGES = pixel_cache.PART_IMAGES = 8
index = index_class_folders("folder", Path(sys.argv[1]), 1)
print("ready", flush=True)
sys.stdin.readline()
print(pixel_cache.build_pixel_cache(index, 20, Path(sys.argv[2])), flush=True)
"""
IN_THREADS, IN_PROCESSES = 10**9, 0


def start_builder(root: Path, work_root: Path, way: int = IN_THREADS) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", BUILDER, str(root), str(work_root), str(way)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # by which its own processes are known
    )


def let_go(builder: "subprocess.Popen[str]") -> None:
    assert builder.stdin is not None
    builder.stdin.write("\n")
    builder.stdin.flush()


def read_line(builder: "subprocess.Popen[str]") -> str:
    assert builder.stdout is not None
    return builder.stdout.readline()


@pytest.fixture
def slow_images(tmp_path: Path) -> ImageIndex:
    """96 names of one large photograph: 12 parts that take long to decode, and little to store."""
    root = tmp_path / "slow" / "a"
    root.mkdir(parents=True)
    Image.fromarray(np.kron(noise(10, 10), np.ones((100, 100), np.uint8))).save(root / "0.jpg")
    for number in range(1, 96):
        os.link(root / "0.jpg", root / f"{number}.jpg")
    return index_of(root.parent)


@pytest.mark.slow
def test_processes_that_build_at_once_share_one_cache(
    slow_images: ImageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builders = [start_builder(slow_images.root, tmp_path / "work") for _ in range(3)]
    for builder in builders:
        assert read_line(builder) == "ready\n"
    for builder in builders:
        let_go(builder)
    outputs = [builder.communicate(timeout=120)[0].splitlines() for builder in builders]
    assert [builder.returncode for builder in builders] == [0, 0, 0]
    (folder,) = {Path(lines[-1]) for lines in outputs}
    assert sum(any("decoded" in line for line in lines) for lines in outputs) == 1
    assert [p for p in (tmp_path / "work" / "pixels").iterdir() if p.is_dir()] == [folder]
    for module in (pixels, pixel_cache):
        monkeypatch.setattr(module, "PART_IMAGES", 8)
    assert len(Pixels(folder)) == 96
    Pixels(folder).verify()


# Cut short


@pytest.fixture
def decoded_parts(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of 8 images; collects the numbers of those that are decoded in this process."""
    numbers: list[int] = []
    decode = decode_parts

    def remember(parts: Sequence[DecodingTask]) -> Iterator[DecodedPart]:
        numbers.extend(part.number for part in parts)
        return decode(parts)

    for module in (pixels, pixel_cache):
        monkeypatch.setattr(module, "PART_IMAGES", 8)
    monkeypatch.setattr(pixel_cache, "decode_parts", remember)
    return numbers


def processes_of_session(session: int) -> list[str]:
    """Return the state of every process that a builder left running."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] != "Z":
                states.append(fields[0])
    return states


@pytest.mark.parametrize(
    ("stop", "way"),
    [
        (signal.SIGKILL, IN_PROCESSES),
        (signal.SIGINT, IN_THREADS),
        pytest.param(signal.SIGKILL, IN_THREADS, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, IN_PROCESSES, marks=pytest.mark.slow),
    ],
)
def test_stopped_builder_is_continued(
    slow_images: ImageIndex,
    tmp_path: Path,
    decoded_parts: list[int],
    stop: signal.Signals,
    way: int,
) -> None:
    undisturbed = build_pixel_cache(slow_images, 20, tmp_path / "undisturbed")
    assert sorted(decoded_parts) == list(range(12))
    decoded_parts.clear()
    builder = start_builder(slow_images.root, tmp_path / "work", way)
    lines = [read_line(builder)]
    let_go(builder)
    lines += [read_line(builder) for _ in range(3)]
    builder.send_signal(stop)
    output, errors = builder.communicate(timeout=60)
    lines += output.splitlines()
    assert builder.returncode in (-stop, 128 + stop), errors
    logged = sum(line.startswith("decoded") for line in lines)
    assert 3 <= logged < 12, "stopped too late to leave something to do"

    caches = tmp_path / "work" / "pixels"
    (partial,) = (p for p in caches.iterdir() if p.is_dir())
    kept = len((partial / "parts.jsonl").read_text().splitlines())
    assert kept >= logged
    folder = build(slow_images, tmp_path)
    assert len(decoded_parts) == len(set(decoded_parts)) == 12 - kept
    assert [p for p in caches.iterdir() if p.is_dir()] == [folder]
    assert sorted(p.name for p in folder.iterdir()) == ["meta.json", "pixels.bin"]
    assert folder.name == undisturbed.name
    for name in ("meta.json", "pixels.bin"):
        assert (folder / name).read_bytes() == (undisturbed / name).read_bytes()
    deadline = time.monotonic() + 30
    while processes_of_session(builder.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes_of_session(builder.pid) == []


class StoppedError(Exception):
    pass


def stop_building(index: ImageIndex, work_root: Path, after: int) -> Path:
    """Build until some images are decoded; return the folder of the unfinished cache."""

    def progress(done: int, total: int) -> None:
        if done >= after:
            raise StoppedError

    with pytest.raises(StoppedError):
        build_pixel_cache(index, 20, work_root, progress)
    (partial,) = (work_root / "pixels").glob(".partial-*")
    return partial


def test_damaged_part_is_decoded_again(
    slow_images: ImageIndex, tmp_path: Path, decoded_parts: list[int]
) -> None:
    partial = stop_building(slow_images, tmp_path / "work", after=40)
    decoded_parts.clear()
    with (partial / "pixels.bin").open("r+b") as file:
        file.seek(20 * 20 * (8 + 3))  # in the second part
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    Pixels(build(slow_images, tmp_path)).verify()
    assert sorted(decoded_parts) == [1, *range(5, 12)]


@pytest.mark.parametrize("content", ["[0, 12", "[99, 1]\n", "[-1, 1]\n", "nonsense\n{}\n[1]\n"])
def test_journal_that_was_cut_or_damaged_does_no_harm(
    slow_images: ImageIndex, tmp_path: Path, decoded_parts: list[int], content: str
) -> None:
    partial = stop_building(slow_images, tmp_path / "work", after=16)
    decoded_parts.clear()
    (partial / "parts.jsonl").write_text(content)
    Pixels(build(slow_images, tmp_path)).verify()
    assert sorted(decoded_parts) == list(range(12))


def test_progress_counts_what_was_kept(
    slow_images: ImageIndex, tmp_path: Path, decoded_parts: list[int]
) -> None:
    stop_building(slow_images, tmp_path / "work", after=40)
    reported: list[tuple[int, int]] = []
    build_pixel_cache(slow_images, 20, tmp_path / "work", lambda *counts: reported.append(counts))
    assert reported == [(done, 96) for done in range(48, 97, 8)]


def test_disk_that_is_too_small_is_noticed_before_decoding(
    slow_images: ImageIndex,
    tmp_path: Path,
    decoded_parts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(StorageError, match=r"of 0.0 GB cannot be written \(No space left"):
        build(slow_images, tmp_path)
    assert decoded_parts == []
    assert [p for p in (tmp_path / "work" / "pixels").iterdir() if p.is_dir()] == []


def test_disk_that_fills_up_while_decoding_keeps_what_is_done(
    slow_images: ImageIndex,
    tmp_path: Path,
    decoded_parts: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By then the pixels have their space on the disk, but not the list of parts."""

    def fill_up(parts: Sequence[DecodingTask]) -> Iterator[DecodedPart]:
        for count, part in enumerate(decode_parts(parts)):
            if count == 4:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            yield part

    with monkeypatch.context() as patch:
        patch.setattr(pixel_cache, "decode_parts", fill_up)
        with pytest.raises(StorageError, match=r"cannot be written \(No space left") as caught:
            build(slow_images, tmp_path)
    assert "then give the same command again" in str(caught.value)
    assert not [p for p in (tmp_path / "work" / "pixels").iterdir() if p.name.startswith("folder-")
                and p.is_dir()]  # fmt: skip
    decoded_parts.clear()
    Pixels(build(slow_images, tmp_path)).verify()
    assert len(decoded_parts) == 12 - 4


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
    monkeypatch.setattr(pixels, "_READ_BYTES", 2**16)
    total = 200 * noise.nbytes  # 6 MB
    tracemalloc.start()
    try:
        cache = build_pixel_cache(index, 100, tmp_path / "work")
        _, peak = tracemalloc.get_traced_memory()
        assert peak < total / 4
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        mapped = Pixels(cache)
        image = mapped.image(150)
        _, peak = tracemalloc.get_traced_memory()
        assert peak - before < total / 20
    finally:
        tracemalloc.stop()
    assert torch.equal(image, torch.from_numpy(noise))


def test_processes_share_one_copy_in_memory(image_tree: ImageTree, tmp_path: Path) -> None:
    """With two mappings, as of two trials, half of each page counts for either."""
    index = index_of(image_tree({f"a/{i}.png": noise(500, 500, seed=i) for i in range(4)}))
    folder = build_pixel_cache(index, 500, tmp_path / "work")
    first, second = Pixels(folder), Pixels(folder)
    assert int(first.bytes.sum()) == int(second.bytes.sum())  # reads all pages
    mappings = (Path("/proc/self/smaps")).read_text().split("\n")
    sizes: dict[str, list[int]] = {}
    for position, line in enumerate(mappings):
        if line.endswith(str(folder / "pixels.bin")):
            for entry in mappings[position + 1 : position + 20]:
                name, _, size = entry.partition(":")
                sizes.setdefault(name, []).append(int((size.split() or ["0"])[0] or 0))
    assert sizes["Rss"] == [4 * 500 * 500 // 4096 * 4 + 4] * 2
    assert max(sizes["Private_Dirty"]) == 0
    assert max(sizes["Pss"]) < 0.6 * sizes["Rss"][0]


def test_cache_larger_than_memory_is_mapped(tmp_path: Path) -> None:
    """SOP's cache exceeds the memory of many machines, and not every way to map it is allowed."""
    sizes = dict(re.findall(r"(\w+): +(\d+) kB", Path("/proc/meminfo").read_text()))
    memory = 1024 * (int(sizes["MemTotal"]) + int(sizes["SwapTotal"]))
    side = 2048
    images = 1 + 2 * memory // (3 * side**2)
    with (tmp_path / "pixels.bin").open("wb") as file:
        file.truncate(images * 3 * side**2)  # a hole: nothing is stored
    meta = {"format": pixels.FORMAT, "class_names": ["a"], "channels": 3, "labels": [0] * images}
    write_json(tmp_path / "meta.json", {**meta, "sizes": [[side, side]] * images})
    mapped = Pixels(tmp_path)
    assert len(mapped.bytes) == images * 3 * side**2
    assert not mapped.bytes[-100:].any()
