"""The disk that wrong inputs meet: a finished study, its images, and ways to damage them."""

import contextlib
import dataclasses
import os
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import run_trial
from wpm.files import hold_lock, read_json, write_json
from wpm.records import StudyPlace, TrainingFolder, TrialState
from wpm.rows import Row
from wpm.studies.study import Study


@dataclass(frozen=True)
class Stage:
    """A folder `tmp` with images, a finished study of three trials, and decoded pixels."""

    tmp: Path

    @property
    def images(self) -> Path:
        return self.tmp / "images"

    @property
    def runs(self) -> Path:
        return self.tmp / "runs"

    @property
    def place(self) -> StudyPlace:
        return StudyPlace(self.runs, "folder", "smoke", Row("contrastive"))

    @property
    def cache(self) -> Path:
        (cache,) = (self.tmp / "work" / "pixels").glob("folder-*px-*/meta.json")
        return cache.parent

    @property
    def spaces(self) -> Path:
        """A copy of the search spaces."""
        folder = self.tmp / "spaces"
        if not folder.exists():
            shutil.copytree("search_spaces", folder)
        return folder


# Changes a stage. A context manager that it returns stays open while the input is tried.
Prepare = Callable[[Stage], contextlib.AbstractContextManager[None] | None]


def leave_as_it_is(stage: Stage) -> None:
    """Change nothing."""


def make_stage(tmp: Path) -> Stage:
    """Search the tiny images with three trials, none of which is trained."""
    make_image_folder(tmp / "images")
    with Study(make_plan(tmp, trials=3)) as study:
        while run_trial(study, lambda n: (0.3, 0.8, 0.1)[n]) is not None:
            pass
    return Stage(tmp)


def copy_stage(stage: Stage, tmp: Path) -> Stage:
    shutil.copytree(stage.tmp, tmp)
    return Stage(tmp)


def write(name: str, text: str) -> Prepare:
    """Write a file below the stage's folder, or replace it."""

    def prepare(stage: Stage) -> None:
        path = stage.tmp / name
        if name.startswith("spaces/"):
            path = stage.spaces / name.removeprefix("spaces/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return prepare


def space(text: str) -> Prepare:
    """Replace the search space of the contrastive loss."""
    return write("spaces/contrastive.toml", text)


def images(classes: int = 16, count: int = 4) -> Prepare:
    """Replace the images by others."""

    def prepare(stage: Stage) -> None:
        shutil.rmtree(stage.images)
        stage.images.mkdir()
        if classes:
            make_image_folder(stage.tmp / "others", classes, count)
            (stage.tmp / "others").rename(stage.images.with_name("images2"))
            shutil.rmtree(stage.images)
            stage.images.with_name("images2").rename(stage.images)

    return prepare


def truncate(pattern: str) -> Prepare:
    """Cut a file in half."""

    def prepare(stage: Stage) -> None:
        path = next(stage.tmp.glob(pattern))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return prepare


def remove(pattern: str) -> Prepare:
    """Delete files."""

    def prepare(stage: Stage) -> None:
        for path in stage.tmp.glob(pattern):
            path.unlink()

    return prepare


def flip_a_pixel(stage: Stage) -> None:
    path = stage.cache / "pixels.bin"
    data = bytearray(path.read_bytes())
    data[100] ^= 4
    path.write_bytes(bytes(data))


def of_another_format(stage: Stage) -> None:
    path = stage.place.folder / "study.json"
    content = read_json(path)
    write_json(path, {**content, "format": 99, "provenance": {"wpm": "7.0"}})


def without_a_key(stage: Stage) -> None:
    path = stage.place.folder / "study.json"
    content = read_json(path)
    del content["trials"]
    write_json(path, content)


def unfinished(stage: Stage) -> None:
    (stage.place.trial_folder(2) / "result.json").unlink()


def all_failed(stage: Stage) -> None:
    for number in range(3):
        folder = TrainingFolder(stage.place.trial_folder(number))
        result = folder.read_result()
        assert result is not None
        failed = dataclasses.replace(result, state=TrialState.FAILED, score=None)
        folder.write_result(failed)


def two_studies(stage: Stage) -> None:
    shutil.copytree(stage.place.folder, stage.place.folder.with_name("triplet"))


def in_use(stage: Stage) -> contextlib.AbstractContextManager[None]:
    return hold_lock(stage.place.lock, wait_s=0, what="study")


def zip_that_escapes(stage: Stage) -> None:
    with zipfile.ZipFile(stage.tmp / "images.zip", "w") as archive:
        for path in stage.images.glob("*/*.png"):
            archive.write(path, path.relative_to(stage.images))
        archive.writestr("../../evil.png", b"x")


def halves(stage: Stage) -> None:
    for half in ("train", "val"):
        shutil.copytree(stage.images, stage.tmp / "halves" / half)


def images_below_a_class(stage: Stage) -> None:
    shutil.copytree(stage.images / "class_01", stage.images / "class_00" / "crops")


def name_of_latin1(stage: Stage) -> None:
    path = stage.images / "class_00" / "0.png"
    path.rename(path.with_name(os.fsdecode(b"caf\xe9.png")))


def seven_zip(stage: Stage) -> None:
    (stage.tmp / "images.7z").write_bytes(b"7z\xbc\xaf\x27\x1c\0\4")


def torn_zip(stage: Stage) -> None:
    with zipfile.ZipFile(stage.tmp / "images.zip", "w") as archive:
        for path in stage.images.glob("*/*.png"):
            archive.write(path, path.relative_to(stage.images))
    data = (stage.tmp / "images.zip").read_bytes()
    (stage.tmp / "images.zip").write_bytes(data[: len(data) // 2])


def unreadable_images(stage: Stage) -> None:
    (stage.images / "class_00" / "0.png").write_bytes(b"not an image")
    torn = stage.images / "class_01" / "1.png"
    torn.write_bytes(torn.read_bytes()[:60])


def no_write_permission(stage: Stage) -> None:
    (stage.tmp / "closed").mkdir(mode=0o500)


def leave_without_checkpoint(stage: Stage) -> None:
    """Start a fourth trial, and delete its checkpoint."""
    with Study(make_plan(stage.tmp, trials=4)) as study:
        asked = study.ask()
    assert asked is not None
    folder = TrainingFolder(Path(asked[1]["folder"]))
    folder.write_progress([], {"epoch": 1})
    (folder.folder / "checkpoint-1.pt").unlink()
