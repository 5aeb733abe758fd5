"""An exported model gives the same scores as the model in the records."""

import dataclasses
import shutil
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.export import main
from analysis.studies.best_runs import export_run
from tests.support.final_runs import drain, final_plan
from tests.support.tiny import make_pixels
from wpm.errors import UserError
from wpm.files import read_json
from wpm.model.exported import load_exported
from wpm.records import Chosen, StudyPlace, read_finals
from wpm.retrieval import retrieval_scores
from wpm.rows import Row
from wpm.studies.final_runs import FinalRunsWork
from wpm.studies.plan import StudyPlan
from wpm.training.evaluate import mean_scores


@pytest.fixture
def exported(tested_plan: StudyPlan, tmp_path: Path) -> Path:
    out = tmp_path / "exported"
    assert main(["--run-root", str(tmp_path / "runs"), "--out", str(out)]) == 0
    return out


def test_row_without_training_has_nothing_to_export(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "glyphs", "small", Row("pretrained"))
    with pytest.raises(UserError, match="trains no model: there is nothing to export"):
        export_run(place, 1, tmp_path / "out")


def test_exported_models_reproduce_the_stored_test_scores(
    exported: Path, tested_plan: StudyPlan, tmp_path: Path
) -> None:
    (final,), _ = read_finals(tested_plan.place)
    (result,) = final.tested
    shutil.rmtree(tmp_path / "runs")  # the files must be enough
    files = sorted((tmp_path / "images").glob("class_*/*.png"))[32:]
    labels = torch.arange(8).repeat_interleave(4)
    together = retrieval_scores(load_exported(exported)(files), labels)
    assert asdict(together) == pytest.approx(result.concatenated, abs=1e-6)
    alone = [
        retrieval_scores(load_exported(exported / f"fold-{k}.safetensors")(files), labels)
        for k in range(4)
    ]
    assert asdict(mean_scores(alone)) == pytest.approx(result.separated, abs=1e-6)


def test_storage_forms_of_one_picture_embed_alike(exported: Path, tmp_path: Path) -> None:
    model = load_exported(exported)
    (file, *_) = sorted((tmp_path / "images").glob("class_00/*.png"))
    with Image.open(file) as image:
        upright = np.asarray(image)
    sideways = Image.Exif()
    sideways[0x0112] = 6
    forms = [file]
    for suffix in ("png", "webp", "tif"):
        forms.append(tmp_path / f"turned.{suffix}")
        stored = Image.fromarray(upright.T[::-1].copy())  # what orientation 6 means
        stored.save(forms[-1], exif=sideways, lossless=True)
    deep = upright.astype(np.uint16) * 257
    forms += [tmp_path / name for name in ("deep.png", "float.tif", "white_is_zero.tif")]
    Image.fromarray(deep).save(forms[-3])
    Image.fromarray(upright.astype(np.float32) / 255).save(forms[-2])
    Image.fromarray(65535 - deep).save(forms[-1], tiffinfo={262: 0})
    embeddings = model(forms)
    assert float((embeddings @ embeddings[0]).min()) > 0.99999


def test_image_that_cannot_be_read_is_named(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"x.png: image cannot be read \(cannot identify") as caught:
        load_exported(exported)([tmp_path / "x.png"])
    assert "\n" not in str(caught.value)


def test_files_and_open_images_embed_alike(exported: Path, tmp_path: Path) -> None:
    model = load_exported(exported)
    (file, other) = sorted((tmp_path / "images").glob("class_00/*.png"))[:2]
    embeddings = model([file, str(other)])
    assert embeddings.shape == (2, 4 * make_pixels(tmp_path).channels // 3 * 16)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2))
    with Image.open(file) as image, Image.open(other) as second:
        assert torch.equal(model([image.copy(), second.copy()]), embeddings)


def test_wrong_exports_are_one_line(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--run-root", str(tmp_path / "runs")]
    assert main([*root, "--out", str(exported)]) == 2
    assert "is not empty" in capsys.readouterr().err
    assert main([*root, "--run", "2", "--out", str(tmp_path / "more")]) == 2
    assert "has 1 tested runs, not 2" in capsys.readouterr().err
    with pytest.raises(UserError, match="no exported model"):
        load_exported(tmp_path / "nowhere")
    weights = exported / "fold-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(UserError, match=r"fold-0.safetensors: model cannot be loaded"):
        load_exported(exported)


def test_models_of_the_best_configuration_are_exported(
    study_plan: StudyPlan, tmp_path: Path
) -> None:
    """The names of folders are hashes, and must not matter."""
    best = final_plan(study_plan, tmp_path, runs=1)
    for neg_margin in (0.5, 0.6, 0.7, 0.8):
        other = dataclasses.replace(
            best, parameters={"pos_margin": 0.0, "neg_margin": neg_margin},
            chosen=Chosen(7, 0.1),
        )  # fmt: skip
        with FinalRunsWork([other], lambda line: None) as source:
            drain(source)
        if other.folder.name < best.folder.name:
            break
    assert other.folder.name < best.folder.name
    with FinalRunsWork([best], lambda line: None) as source:
        drain(source)
    export_run(study_plan.place, 1, tmp_path / "out")
    content = read_json(tmp_path / "out" / "fold-0.json")
    assert content["parameters"] == best.parameters
    for model in best.folder.glob("*/fold-2/*.safetensors"):
        model.unlink()
    with pytest.raises(UserError, match=r"fold-2: its model is missing; restore it"):
        export_run(study_plan.place, 1, tmp_path / "more")
    assert not (tmp_path / "more").exists()
