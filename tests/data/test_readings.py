"""A cache has another name than before exactly where an image is decoded otherwise than before."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from wpm.data.class_folders import index_class_folders
from wpm.data.digests import settle_readable
from wpm.data.index import ImageIndex
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import FORMAT, Pixels, read_findings
from wpm.data.readings import find_readings, read_former
from wpm.errors import UserError
from wpm.files import read_json

PICTURE = np.linspace(0, 255, 20 * 30).reshape(20, 30).astype(np.uint8)


def turned(value: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = value
    return exif


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes of ordinary images: all that versions up to 0.2.0 read as this one does."""
    root = tmp_path / "images"
    for name in "ab":
        (root / name).mkdir(parents=True)
        Image.fromarray(PICTURE).save(root / name / "0.png")
        Image.fromarray(PICTURE).save(root / name / "1.jpg", exif=turned(1))
        Image.fromarray(PICTURE.astype(np.uint16) * 257).save(root / name / "2.png")
        Image.fromarray(np.dstack([PICTURE] * 3)).save(root / name / "3.tif", exif=turned())
    return root


def index_of(root: Path, dataset: str = "folder") -> ImageIndex:
    return index_class_folders(dataset, root, channels=1)


def build(root: Path, tmp_path: Path, dataset: str = "folder") -> Path:
    return build_pixel_cache(index_of(root, dataset), 20, tmp_path / "work")


def name_before(index: ImageIndex) -> str:
    """Name the cache as version 0.2.0 did."""
    digest = hashlib.sha256(f"{FORMAT} 20 1\n".encode())
    digest.update("\0".join(index.class_names).encode())
    for path, label in zip(index.paths, index.labels.tolist(), strict=True):
        content = hashlib.sha256((index.root / path).read_bytes()).hexdigest()
        digest.update(f"{path}\0{label}\0{content}\n".encode())
    return f"{index.dataset}-20px-{digest.hexdigest()[:16]}"


def test_ordinary_images_keep_the_name_of_their_cache(root: Path, tmp_path: Path) -> None:
    folder = build(root, tmp_path)
    assert folder.name == name_before(index_of(root))
    assert read_former(folder) is None


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_turned_photograph_changes_the_name_and_says_so(
    root: Path, tmp_path: Path, suffix: str
) -> None:
    Image.fromarray(PICTURE).save(root / "a" / f"4.{suffix}", exif=turned(), lossless=True)
    folder = build(root, tmp_path)
    former = read_former(folder)
    assert former is not None
    assert former.name == name_before(index_of(root)) != folder.name
    assert former.reason == "1 images are turned upright as their metadata say"
    pixels = Pixels(folder)
    assert pixels.sizes[4].tolist() == [30, 20]  # the last of class a
    assert build(root, tmp_path) == folder


def test_published_set_is_read_and_named_as_ever(root: Path, tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(root / "a" / "4.png", exif=turned())
    folder = build(root, tmp_path, "cub200")
    assert folder.name == name_before(index_of(root, "cub200"))
    assert Pixels(folder).sizes[4].tolist() == [20, 30]


def test_grey_levels_that_were_guessed_before_change_the_name(root: Path, tmp_path: Path) -> None:
    Image.fromarray(PICTURE.astype(np.float32) / 255).save(root / "a" / "4.tif")
    Image.fromarray(PICTURE.astype(np.float32) / 255).save(root / "b" / "4.tif")
    folder = build(root, tmp_path)
    former = read_former(folder)
    assert former is not None
    assert former.name == name_before(index_of(root)) != folder.name
    assert former.reason == "2 images are read with the grey levels that their headers state"
    assert np.array_equal(Pixels(folder).image(4)[..., 0].numpy(), PICTURE)


def test_grey_levels_without_a_range_are_refused_or_left_out(root: Path, tmp_path: Path) -> None:
    Image.fromarray(PICTURE.astype(np.int32)).save(root / "a" / "4.tif")
    with pytest.raises(UserError, match=r"a/4\.tif \(grey levels of 32 bits signed without"):
        build(root, tmp_path)
    folder = build_pixel_cache(index_of(root), 20, tmp_path / "work", skip_unreadable=True)
    assert len(Pixels(folder)) == 8


def test_readings_are_remembered_until_a_file_changes(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def readings() -> dict[str, str]:
        readable = settle_readable(index_of(root), tmp_path / "work", skip_unreadable=False)
        return find_readings(readable, tmp_path / "work")

    looked_at: list[Path] = []

    def answer(reading: str) -> None:
        def describe(path: Path) -> str:
            looked_at.append(path)
            return reading

        monkeypatch.setattr("wpm.data.readings._describe", describe)

    answer("upright")
    assert len(readings()) == len(looked_at) == 8
    answer("")
    assert len(readings()) == len(looked_at) == 8
    Image.fromarray(PICTURE[::-1].copy()).save(root / "a" / "0.png")
    assert len(readings()) == 7
    assert looked_at[8:] == [root / "a" / "0.png"]


def test_findings_are_recorded_in_order(root: Path, tmp_path: Path) -> None:
    for name in ("b/5.png", "a/5.png"):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / name)
    Image.fromarray(PICTURE.astype(np.uint16)).save(root / "a" / "6.png")
    folder = build(root, tmp_path)
    expected = [("a/5.png", "flat"), ("a/6.png", "few bits"), ("b/5.png", "flat")]
    assert read_findings(folder) == expected
    assert read_json(folder / "meta.json")["findings"] == [list(pair) for pair in expected]


def test_findings_of_parts_that_were_decoded_before_a_kill_are_kept(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pixels", "pixel_cache"):
        monkeypatch.setattr(f"wpm.data.{module}.PART_IMAGES", 2)
    for name in ("a/5.png", "b/5.png"):
        Image.fromarray(np.zeros((20, 30), np.uint8)).save(root / name)

    def stop(done: int, total: int) -> None:
        if done > 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_pixel_cache(index_of(root), 20, tmp_path / "work", stop)
    folder = build(root, tmp_path)
    assert read_findings(folder) == [("a/5.png", "flat"), ("b/5.png", "flat")]
