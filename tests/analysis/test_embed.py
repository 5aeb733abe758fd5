"""Embeddings of the test images, made with the best models and checked against the test."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from analysis.embed import main
from analysis.studies.best_runs import find_best_runs
from analysis.studies.embeddings import folder_of, read_embedded
from tests.support.stored import write_final, write_run, write_search
from tests.support.tiny import make_image_folder
from wpm.errors import UserError
from wpm.records import StudyPlace, read_finals
from wpm.retrieval import retrieval_scores
from wpm.studies.plan import StudyPlan

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def tested(tested_plan: StudyPlan) -> StudyPlace:
    return tested_plan.place


def embed(tmp_path: Path, *arguments: str, images: str = "images") -> int:
    where = ["--run-root", str(tmp_path / "runs"), "--work-root", str(tmp_path / "work")]
    data = ["--data-root", str(tmp_path / images), "--out", str(tmp_path / "embeddings")]
    return main([*where, *data, *arguments])


def test_embeddings_are_those_that_were_tested(tested: StudyPlace, tmp_path: Path) -> None:
    assert embed(tmp_path) == 0
    found = read_embedded(tmp_path / "embeddings", tested)
    assert found is not None
    (final,), _ = read_finals(tested)
    (result,) = final.tested
    images = found.images
    scores = retrieval_scores(torch.from_numpy(images.embeddings), torch.from_numpy(images.labels))
    assert scores.map_at_r == pytest.approx(result.concatenated["map_at_r"], abs=1e-6)
    assert images.embeddings.shape == (32, 4 * 16)
    assert images.thumbnails.shape == (32, 16, 16, 3)
    assert images.thumbnails.max() > 200  # grey levels, not fractions
    assert images.class_names[images.labels[0]] == "class_08"  # the test half
    assert (found.study, found.seed, found.trial) == (tested.name, 1000, 1)
    assert found.test_scores == result.concatenated
    lines = (tested.folder / "test_access.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["reason"].startswith("embeddings of ")


def test_other_images_than_tested_are_refused(
    tested: StudyPlace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_image_folder(tmp_path / "others", classes=20)
    assert embed(tmp_path, images="others") == 2
    assert "was tested on 32 with" in capsys.readouterr().err
    assert not (tmp_path / "embeddings").exists()


def test_damaged_or_foreign_embeddings_are_named(tested: StudyPlace, tmp_path: Path) -> None:
    root = tmp_path / "embeddings"
    assert read_embedded(root, tested) is None
    assert embed(tmp_path) == 0
    folder = folder_of(root, tested)
    whole = (folder / "labels.npy").read_bytes()
    (folder / "labels.npy").write_bytes(whole[:-8])
    with pytest.raises(UserError, match=r"labels.npy: damaged or missing"):
        read_embedded(root, tested)
    (folder / "labels.npy").unlink()
    with pytest.raises(UserError, match=r"labels.npy: damaged or missing"):
        read_embedded(root, tested)


def test_study_without_models_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_search(tmp_path / "runs", "triplet")
    write_search(tmp_path / "runs", "pretrained", states=[])
    assert embed(tmp_path) == 2
    err = capsys.readouterr().err
    assert "omniglot/small/triplet: no tested final run with a model, nothing to embed" in err
    assert "none of the 2 selected studies has a tested final run with a model" in err


def test_first_run_of_the_best_configuration_is_chosen(tmp_path: Path) -> None:
    place = write_search(tmp_path, "triplet")
    write_run(write_final(place, "aa", trial=2, score=0.3), 1000, 0.6)
    best = write_final(place, "bb", trial=1, score=0.4)
    write_run(best, 1000, None)
    write_run(best, 1001, 0.5)
    write_run(write_final(place, "cc", trial=None, score=None), 1000, 0.9)
    write_final(place, "dd", trial=0, score=0.9)  # not tested yet
    (run,) = find_best_runs(place)
    assert (run.folder, run.scores.seed, run.trial) == (best / "seed-1001", 1001, 1)


def test_embed_starts_without_torch() -> None:
    code = "import sys, analysis.embed as e; assert 'torch' not in sys.modules; e.main(['--help'])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m analysis.embed --dataset omniglot" in done.stdout


def test_arrays_are_read_back_as_written(tested: StudyPlace, tmp_path: Path) -> None:
    assert embed(tmp_path) == 0
    found = read_embedded(tmp_path / "embeddings", tested)
    assert found is not None
    images = found.images
    assert np.allclose(np.linalg.norm(images.embeddings, axis=1), 1)
    assert [str(images.embeddings.dtype), str(images.thumbnails.dtype)] == ["float32", "uint8"]
