"""Images that cannot be read are named, or left out on request and recorded."""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.support.image_trees import ImageTree
from wpm.data import pixel_cache
from wpm.data.class_folders import index_class_folders
from wpm.data.decoding import DecodedPart, DecodingTask, decode_parts
from wpm.data.digests import UnreadableImagesError
from wpm.data.index import ImageIndex
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels, read_left_out
from wpm.errors import UserError
from wpm.files import read_json, write_json

PATHS = [f"{name}/{i}.png" for name in ("a", "b", "c") for i in range(3)]


@pytest.fixture
def root(image_tree: ImageTree) -> Path:
    """Three classes of three images."""
    rng = np.random.default_rng(0)
    return image_tree({path: rng.integers(0, 256, (9, 9)).astype(np.uint8) for path in PATHS})


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the paths of images that are decoded."""
    paths: list[str] = []

    def remember(parts: Sequence[DecodingTask]) -> Iterator[DecodedPart]:
        paths.extend(path for part in parts for path in part.paths)
        return decode_parts(parts)

    monkeypatch.setattr(pixel_cache, "decode_parts", remember)
    return paths


def index_of(root: Path) -> ImageIndex:
    return index_class_folders("folder", root, channels=1)


def build(
    root: Path, tmp_path: Path, *, skip: bool = True, index: ImageIndex | None = None
) -> Path:
    return build_pixel_cache(index or index_of(root), 9, tmp_path / "work", skip_unreadable=skip)


def damage(root: Path, path: str = "b/1.png") -> None:
    (root / path).write_bytes((root / path).read_bytes()[:70])


def test_damaged_image_is_left_out_and_recorded(root: Path, tmp_path: Path) -> None:
    whole = Pixels(build(root, tmp_path))
    damage(root)
    folder = build(root, tmp_path)
    rest = Pixels(folder)
    assert len(rest) == 8
    assert rest.labels.tolist() == [0, 0, 0, 1, 1, 2, 2, 2]
    assert rest.class_names == ("a", "b", "c")
    assert [rest.image(i).tolist() for i in range(8)] == [
        whole.image(i).tolist() for i in range(9) if i != 4
    ]
    ((path, reason),) = read_json(folder / "meta.json")["left_out"]
    assert path == "b/1.png"
    assert "truncated" in reason
    assert rest.left_out == read_left_out(folder) == [(path, reason)]
    assert whole.left_out == []


def test_what_is_left_out_is_part_of_the_name(root: Path, tmp_path: Path) -> None:
    """With an image left out it is another study than on all images, or on a tree without it."""
    whole = build(root, tmp_path)
    damage(root)
    without = build(root, tmp_path)
    (root / "b/1.png").unlink()
    never = build(root, tmp_path)
    assert len({whole, without, never}) == 3
    assert read_left_out(never) == []


def test_image_that_is_gone_is_left_out(root: Path, tmp_path: Path) -> None:
    index = index_of(root)
    (root / "c/0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 9 images .*c/0.png \(No such file or directory\)"):
        build(root, tmp_path, skip=False, index=index)
    folder = build(root, tmp_path, index=index)
    assert read_left_out(folder) == [("c/0.png", "No such file or directory")]


def test_without_the_flag_all_are_named_and_the_flag_is_offered(root: Path, tmp_path: Path) -> None:
    damage(root, "a/0.png")
    damage(root, "c/2.png")
    build(root, tmp_path)  # that they are remembered changes nothing
    with pytest.raises(UnreadableImagesError, match=r"2 of 9 .*or add --skip-unr") as caught:
        build(root, tmp_path, skip=False)
    assert [path for path, _ in caught.value.images] == ["a/0.png", "c/2.png"]
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_next_launch_decodes_nothing_again(root: Path, tmp_path: Path, decoded: list[str]) -> None:
    damage(root)
    folder = build(root, tmp_path)
    assert len(decoded) == 9 + 8
    assert build(root, tmp_path) == folder
    assert len(decoded) == 9 + 8


def test_damaged_memory_of_images_is_rebuilt(root: Path, tmp_path: Path) -> None:
    damage(root)
    folder = build(root, tmp_path)
    for memory in (tmp_path / "work" / "pixels").glob("*.json"):
        memory.write_bytes(memory.read_bytes()[:-9])
    assert build(root, tmp_path) == folder


def test_fixed_image_is_read(root: Path, tmp_path: Path) -> None:
    good = (root / "b/1.png").read_bytes()
    whole = build(root, tmp_path)
    damage(root)
    assert build(root, tmp_path) != whole
    (root / "b/1.png").write_bytes(good)
    assert build(root, tmp_path) == whole


def test_class_with_fewer_than_two_left_is_named_and_refused(root: Path, tmp_path: Path) -> None:
    index = index_of(root)
    damage(root, "b/0.png")
    (root / "b/2.png").unlink()
    damage(root, "c/0.png")  # two of it are left
    with pytest.raises(
        UserError, match=r"1 classes have fewer than 2 left: b \(1 left\)"
    ) as caught:
        build(root, tmp_path, index=index)
    assert "b/0.png (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_class_of_one_readable_image_is_no_matter(root: Path, tmp_path: Path) -> None:
    """The class never had two images; only what --skip-unreadable takes away is refused."""
    shutil.rmtree(root / "b")
    (root / "b").mkdir()
    shutil.copy(root / "a/0.png", root / "b/0.png")
    damage(root, "c/0.png")
    assert Pixels(build(root, tmp_path)).labels.tolist() == [0, 0, 0, 1, 2, 2]


def test_all_images_gone_is_refused(root: Path, tmp_path: Path) -> None:
    index = index_of(root)
    shutil.rmtree(root)
    with pytest.raises(UserError, match="3 classes have fewer than 2 left: a \\(0 left\\), b"):
        build(root, tmp_path, index=index)


def test_cache_from_before_lacks_nothing(root: Path, tmp_path: Path) -> None:
    folder = build(root, tmp_path)
    meta = read_json(folder / "meta.json")
    del meta["left_out"]
    write_json(folder / "meta.json", meta)
    assert build(root, tmp_path) == folder
    assert Pixels(folder).left_out == read_left_out(folder) == []
