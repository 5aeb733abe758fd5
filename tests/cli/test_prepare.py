"""Before a search, images in which little can be seen are counted, named and recorded."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from tests.support.tiny import make_image_folder, smoke_protocol
from wpm.cli.prepare_images import prepare_images
from wpm.data.index import DataSource


@pytest.fixture
def plan(tmp_path: Path) -> Any:
    """Return what the preparation of the cache needs of a launch's plan."""
    source = DataSource("folder", make_image_folder(tmp_path / "images"), tmp_path / "work")
    options = SimpleNamespace(fetch=False)
    return SimpleNamespace(source=source, protocol=smoke_protocol(), options=options)


def prepare(plan: Any) -> tuple[Path, list[str]]:
    """Prepare the cache; return its folder and the lines that a person sees."""
    lines: list[str] = []
    console: Any = SimpleNamespace(line=lines.append, live=lambda describe: None)
    return prepare_images(plan, console).pixel_cache, lines


def test_images_in_which_little_can_be_seen_are_named_in_one_line(plan: Any) -> None:
    root = plan.source.data_root
    for number in range(4):
        Image.new("L", (20, 20)).save(root / "class_03" / f"{number}.png")
    Image.new("RGBA", (20, 20), (255, 255, 255, 0)).save(root / "class_05" / "0.png")
    folder, lines = prepare(plan)
    assert lines[1:] == [
        "warning: little can be seen in 5 of 32 images to train and validate on: 5 show one colour "
        "everywhere: class_03/0.png, class_03/1.png, class_03/2.png, ... "
        f"(all in {folder / 'meta.json'})"
    ]


def test_ordinary_images_give_no_warning(plan: Any) -> None:
    _, lines = prepare(plan)
    assert len(lines) == 1
