"""Rendered glyphs: what is declared, what is drawn; a folder is complete or refused."""

import errno
import inspect
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from wpm.data import glyphs
from wpm.data.glyphs import (
    MARKER,
    MIN_FONTS,
    SCRIPTS,
    SIDE,
    Distortion,
    draw_image,
    fonts_with,
    render_glyphs,
)
from wpm.errors import StorageError, UserError

FEW = (("greek", "ΔΞ"), ("latin", "A"))
UNDISTORTED = Distortion(
    rotation=0,
    scale_min=1,
    scale_max=1,
    squeeze=0,
    shear=0,
    stroke=0,
    translation=0,
    clutter=0,
    clutter_width=1,
    blur=0,
    contrast_min=1,
    inversion=0,
    noise=0,
)


def read_images(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.png")}


def draw_undistorted(character: str, font_index: int) -> NDArray[np.uint8]:
    font = fonts_with(character)[character][font_index]
    return draw_image(character, [font], np.random.default_rng(0), UNDISTORTED)


def test_scripts_declare_enough_distinct_classes() -> None:
    characters = "".join(text for _, text in SCRIPTS)
    assert len(characters) >= 120
    assert len(characters) % 2 == 0
    assert len(set(characters)) == len(characters)
    assert len(SCRIPTS) >= 5


def test_scripts_are_in_the_order_of_their_folders() -> None:
    names = [script for script, _ in SCRIPTS]
    assert names == sorted(set(names))


def test_default_is_at_least_twenty_images_per_class() -> None:
    assert inspect.signature(render_glyphs).parameters["images_per_class"].default >= 20


@pytest.mark.parametrize(("script", "characters"), SCRIPTS)
def test_every_glyph_has_ink_and_is_not_the_missing_glyph_box(script: str, characters: str) -> None:
    for character, fonts in fonts_with(characters).items():
        assert len(fonts) >= MIN_FONTS
        for font in fonts:
            drawn = bytes(font.getmask(character))
            missing = bytes(font.getmask("\U0010fffd"))  # private use: in none of the fonts
            assert any(drawn), f"{character} of {script} is blank in {font.path!r}"
            assert drawn != missing, f"{character} of {script} is missing in {font.path!r}"


def test_no_two_classes_look_the_same() -> None:
    characters = "".join(text for _, text in SCRIPTS)
    images = np.stack([draw_undistorted(character, 0).ravel() for character in characters])
    likeness = np.corrcoef(images.astype(float)) - np.eye(len(characters))
    first, second = np.unravel_index(likeness.argmax(), likeness.shape)
    assert likeness.max() < 0.85, f"{characters[first]} looks like {characters[second]}"


def test_undistorted_glyph_stays_off_the_border() -> None:
    for _, characters in SCRIPTS:
        image = draw_undistorted(characters[0], -1)
        inner = image[8:-8, 8:-8]
        assert inner.max() == 255
        assert image.sum(dtype=int) == inner.sum(dtype=int)


def test_character_that_no_font_has_is_refused() -> None:
    with pytest.raises(UserError, match=r"0 fonts in .* have U\+6C34"):
        fonts_with("A水")


def test_files_are_square_grey_images_in_script_and_code_point_folders(tmp_path: Path) -> None:
    root = tmp_path / "new" / "glyphs"
    render_glyphs(root, images_per_class=2, scripts=FEW)
    names = [str(path.relative_to(root)) for path in sorted(root.rglob("*.png"))]
    folders = ("greek/U+0394", "greek/U+039E", "latin/U+0041")
    assert names == [f"{folder}/{number}.png" for folder in folders for number in ("00", "01")]
    with Image.open(root / names[0]) as image:
        assert (image.mode, image.size) == ("L", (SIDE, SIDE))


def test_same_seed_gives_the_same_bytes_whatever_else_is_drawn(tmp_path: Path) -> None:
    render_glyphs(tmp_path / "few", images_per_class=2, scripts=FEW[:1])
    render_glyphs(tmp_path / "more", images_per_class=3, scripts=FEW[::-1])
    few, more = read_images(tmp_path / "few"), read_images(tmp_path / "more")
    assert len(few) == 4
    assert {name: more[name] for name in few} == few


def test_seeds_characters_and_numbers_all_give_different_images(tmp_path: Path) -> None:
    for seed in (0, 1):
        render_glyphs(tmp_path / f"{seed}", seed=seed, images_per_class=3, scripts=FEW)
    images = [*read_images(tmp_path / "0").values(), *read_images(tmp_path / "1").values()]
    assert len(set(images)) == 2 * 3 * 3


@pytest.mark.parametrize("name", [field.name for field in fields(Distortion)])
def test_every_distortion_changes_the_image(name: str) -> None:
    base = replace(UNDISTORTED, clutter=3) if name == "clutter_width" else UNDISTORTED
    strength = {"scale_min": 0.5, "scale_max": 1.5, "contrast_min": 0.2, "clutter": 3}
    strength["inversion"] = 0.5
    changed = replace(base, **{name: strength.get(name, getattr(Distortion(), name))})
    fonts = fonts_with("R")["R"]
    pairs = [
        [draw_image("R", fonts, np.random.default_rng(n), one) for one in (base, changed)]
        for n in range(8)
    ]
    assert any((before != after).any() for before, after in pairs)


def test_complete_folder_is_left_alone(tmp_path: Path) -> None:
    root = tmp_path / "glyphs"
    render_glyphs(root, images_per_class=1, scripts=FEW)
    (root / "latin" / "U+0041" / "00.png").unlink()  # a second drawing would bring it back
    render_glyphs(root, images_per_class=1, scripts=FEW)
    assert len(read_images(root)) == 2


@pytest.mark.parametrize("marker", [None, "", "{", "[]", "1"])
def test_incomplete_folder_is_refused_and_kept(tmp_path: Path, marker: str | None) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    if marker is not None:
        (tmp_path / MARKER).write_text(marker)
    with pytest.raises(UserError, match="not a complete set of glyphs; remove it") as caught:
        render_glyphs(tmp_path, scripts=FEW)
    assert str(tmp_path) in str(caught.value)
    assert mine.read_text() == "mine"


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "glyphs").write_text("mine")
    with pytest.raises(UserError, match="not a complete set"):
        render_glyphs(tmp_path / "glyphs", scripts=FEW)


def test_folder_of_another_recipe_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "glyphs"
    render_glyphs(root, images_per_class=1, scripts=FEW)
    with pytest.raises(UserError, match="of another seed, images_per_class; remove it"):
        render_glyphs(root, seed=1, images_per_class=2, scripts=FEW)
    with pytest.raises(UserError, match="of another classes, scripts; remove it"):
        render_glyphs(root, images_per_class=1, scripts=FEW[:1])
    with pytest.raises(UserError, match="of another distortion; remove it"):
        render_glyphs(root, images_per_class=1, scripts=FEW, distortion=UNDISTORTED)
    monkeypatch.setattr(glyphs, "VERSION", glyphs.VERSION + 1)
    with pytest.raises(UserError, match="of another version; remove it"):
        render_glyphs(root, images_per_class=1, scripts=FEW)


@pytest.mark.parametrize(("seed", "images_per_class"), [(-1, 1), (0, 0)])
def test_too_small_numbers_are_refused(tmp_path: Path, seed: int, images_per_class: int) -> None:
    with pytest.raises(UserError, match=f"seed is {seed} and images_per_class {images_per_class}"):
        render_glyphs(tmp_path / "glyphs", seed=seed, images_per_class=images_per_class)


def test_failure_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="U\\+6C34"):
        render_glyphs(tmp_path / "glyphs", images_per_class=1, scripts=(*FEW, ("han", "水")))
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_a_storage_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Image.Image.save

    def fill_up(image: Image.Image, path: Path) -> None:
        if path.name == "01.png":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(image, path)

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", fill_up)
        with pytest.raises(StorageError, match=r"glyphs: cannot be written \(No space left"):
            render_glyphs(tmp_path / "glyphs", images_per_class=2, scripts=FEW)
    assert list(tmp_path.iterdir()) == []
    render_glyphs(tmp_path / "glyphs", images_per_class=2, scripts=FEW)


def test_renderings_at_once_leave_one_complete_folder(tmp_path: Path) -> None:
    root = tmp_path / "glyphs"
    with ThreadPoolExecutor(2) as pool:
        for future in [
            pool.submit(render_glyphs, root, images_per_class=9, scripts=FEW) for _ in range(2)
        ]:
            future.result()
    assert len(read_images(root)) == 3 * 9
    assert list(tmp_path.iterdir()) == [root]


def test_threads_take_turns_at_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    both_wait = threading.Barrier(2)

    def name_the_folder(_: int) -> str:
        both_wait.wait()
        with glyphs._folder_for_matplotlib(tmp_path):
            named = os.environ["MPLCONFIGDIR"]
            time.sleep(0.05)  # so that the other would come in between, if it could
            assert os.environ["MPLCONFIGDIR"] == named
        return named

    with ThreadPoolExecutor(2) as pool:
        assert len(set(pool.map(name_the_folder, range(2)))) == 2
    assert "MPLCONFIGDIR" not in os.environ


@pytest.mark.parametrize("winner_seed", [0, 1])
def test_second_to_finish_keeps_the_first_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, winner_seed: int
) -> None:
    root = tmp_path / "glyphs"

    def draw_after_another_process_finished(character: str, *_: object) -> NDArray[np.uint8]:
        monkeypatch.undo()
        render_glyphs(root, seed=winner_seed, images_per_class=1, scripts=FEW)
        return draw_undistorted(character, 0)

    monkeypatch.setattr(glyphs, "draw_image", draw_after_another_process_finished)
    if winner_seed == 0:
        render_glyphs(root, images_per_class=1, scripts=FEW)
    else:
        with pytest.raises(UserError, match="another seed"):
            render_glyphs(root, images_per_class=1, scripts=FEW)
    assert list(tmp_path.iterdir()) == [root]
    expected = tmp_path / "expected"
    render_glyphs(expected, seed=winner_seed, images_per_class=1, scripts=FEW)
    assert read_images(root) == read_images(expected)


def test_fonts_are_found_where_nothing_but_the_data_folder_can_be_written(tmp_path: Path) -> None:
    """A random user and a full /tmp: matplotlib wants a folder for its settings."""
    (tmp_path / "file").touch()
    nowhere = str(tmp_path / "file" / "below")  # not even root can make it
    code = (
        "import sys, tempfile; from pathlib import Path; tempfile.tempdir = sys.argv[2]; "
        "from wpm.data.glyphs import render_glyphs; "
        "render_glyphs(Path(sys.argv[1]), images_per_class=1, scripts=(('latin', 'AB'),))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data" / "glyphs"), nowhere],
        env={**without_folder_for_matplotlib(), "HOME": nowhere},
        cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["glyphs"]


def without_folder_for_matplotlib() -> dict[str, str]:
    names = ("MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
    return {name: value for name, value in os.environ.items() if name not in names}
