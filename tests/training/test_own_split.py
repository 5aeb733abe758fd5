"""Training under a split that the user gives: which images are trained on and validated on."""

import csv
import dataclasses
from pathlib import Path

import pytest
import torch

from tests.support.tiny import make_config, make_image_folder, smoke_protocol
from wpm.data.datasets import load_index
from wpm.data.halves import divide_images, folds_of_split, select_test_images
from wpm.data.index import DataSource
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.training.fold import FoldTraining
from wpm.training.training import Training

CPU = torch.device("cpu")


def make_halves(tmp_path: Path) -> tuple[Pixels, Pixels]:
    """Of eight images of every class two are for the test; the others are in fold 0, 1 and 2."""
    root = make_image_folder(tmp_path / "images", images=8)
    with (tmp_path / "split.csv").open("w", newline="") as file:
        rows = [
            (p.relative_to(root), "test", "")
            if int(p.stem) > 5
            else (p.relative_to(root), "trainval", int(p.stem) // 2)
            for p in sorted(root.glob("*/*.png"))
        ]
        csv.writer(file).writerows([("image", "part", "fold"), *rows])
    source = DataSource(
        "folder", root, tmp_path / "work", split=str(tmp_path / "split.csv"), same_classes=True
    )
    index = load_index(source)
    halves = divide_images(index, source, 3)
    caches = [
        build_pixel_cache(part, 20, tmp_path / "work")
        for part in (halves.trainval, select_test_images(index, halves))
    ]
    return Pixels(caches[0]), Pixels(caches[1])


def test_folds_of_images_never_train_on_what_they_validate_on(tmp_path: Path) -> None:
    pixels, _ = make_halves(tmp_path)
    # `folds` of the protocol is the number of them; the configuration lists which are trained.
    protocol = dataclasses.replace(smoke_protocol(), folds=3, max_epochs=1)
    config = dataclasses.replace(make_config(folds=(0, 1, 2)), protocol=protocol)
    training = Training(config, pixels, CPU)
    for number, fold in enumerate(training.folds):
        drawn = {int(i) for _ in range(120) for i in fold.draw_batch()}
        assert drawn == {i for i in range(96) if i % 6 // 2 != number}
    report = training.run_epoch()
    assert report is not None
    assert [fold.fold for fold in report.folds] == [0, 1, 2]


def test_folds_of_images_validate_on_the_images_that_they_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels, _ = make_halves(tmp_path)
    asked: list[list[int]] = []

    def embed(model: object, batches: object, indices: torch.Tensor) -> torch.Tensor:
        asked.append(indices.tolist())
        return torch.eye(len(indices))

    monkeypatch.setattr("wpm.training.fold.embed_images", embed)
    folds = folds_of_split(pixels.labels.tolist(), (0, 0, 0, 0, 1, 1) * 16, 2)
    config = make_config(folds=(0, 1))
    fold = FoldTraining(config, 0, folds[0], pixels, CPU)
    fold.train_epoch(1)
    fold.validate(1)
    assert asked == [[i for i in range(96) if i % 6 < 4]]


def test_cache_of_test_images_is_refused(tmp_path: Path) -> None:
    _, test = make_halves(tmp_path)
    with pytest.raises(UserError, match="holds images of test classes"):
        Training(make_config(folds=(0,)), test, CPU)
