"""Fixtures of all tests. Torch uses one thread, so that numbers do not depend on the machine."""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.final_runs import drain, final_plan
from tests.support.image_trees import ImageTree
from tests.support.tiny import make_image_folder, make_plan
from tests.support.trials import run_trial
from wpm.studies.final_runs import FinalRunsWork
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


@pytest.fixture(scope="session")
def searched_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with tiny images, their pixel cache and a finished study, to copy from."""
    root = tmp_path_factory.mktemp("searched")
    make_image_folder(root / "images")
    with Study(make_plan(root, trials=3)) as study:
        while run_trial(study, lambda n: (0.3, 0.8, 0.1)[n]) is not None:
            pass
    return root


@pytest.fixture(scope="session")
def tested_folder(searched_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with one final run of the best trial, whose models are kept, to copy from."""
    root = tmp_path_factory.mktemp("tested")
    shutil.copytree(searched_folder, root, dirs_exist_ok=True)
    plan = final_plan(make_plan(root, trials=3), root, runs=1)
    with FinalRunsWork([plan], lambda line: None) as source:
        drain(source)
    return root


@pytest.fixture
def study_plan(searched_folder: Path, tmp_path: Path) -> StudyPlan:
    """The plan of a finished study under `tmp_path`."""
    shutil.copytree(searched_folder, tmp_path, dirs_exist_ok=True)
    return make_plan(tmp_path, trials=3)


@pytest.fixture
def tested_plan(tested_folder: Path, tmp_path: Path) -> StudyPlan:
    """The plan of a finished study under `tmp_path`, of which one final run was tested."""
    shutil.copytree(tested_folder, tmp_path, dirs_exist_ok=True)
    return make_plan(tmp_path, trials=3)
