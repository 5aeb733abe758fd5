"""Fixtures of all tests. Torch uses one thread, so that numbers do not depend on the machine."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.image_trees import ImageTree
from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import run_trial
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def image_tree(tmp_path: Path) -> ImageTree:
    """Return a function that writes images below `tmp_path/images`, in the format of the suffix."""

    def write(images: Mapping[str, NDArray[np.uint8]]) -> Path:
        root = tmp_path / "images"
        for path, pixels in images.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / path)
        return root

    return write


@pytest.fixture
def study_plan(tmp_path: Path) -> StudyPlan:
    make_image_folder(tmp_path / "images")
    plan = make_plan(tmp_path, trials=3)
    with Study(plan) as study:
        while run_trial(study, lambda n: (0.3, 0.8, 0.1)[n]) is not None:
            pass
    return plan
