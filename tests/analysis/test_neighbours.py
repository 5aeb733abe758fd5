"""Neighbours of query images: the right ones, remembered embeddings, and images that are broken."""

import csv
import io
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save

from analysis.neighbours import main
from analysis.numbers.nearest import find_nearest
from tests.support.tiny import make_image_folder, smoke_protocol
from wpm.model.embedded_folder import embed_folder
from wpm.model.embedding import build_model
from wpm.model.exported import ExportedModels, load_exported
from wpm.records.exports import ExportedModel, write_export

FIRST = "class_00/0.png"
SAME = (f"photos/{FIRST}", "photos/second_name.png")  # two names of one file


def write_model(folder: Path, seed: int = 0) -> Path:
    """Write an untrained exported model of two folds."""
    protocol = smoke_protocol(folds=2)
    for fold in range(2):
        model = build_model(protocol, channels=3, seed=seed + fold)
        about = ExportedModel(
            dataset="folder", row="contrastive", fold=fold, seed=seed, channels=3,
            protocol=protocol, parameters={}, test_scores={}, provenance={},
        )  # fmt: skip
        write_export(folder / f"fold-{fold}.safetensors", about, save(model.state_dict()))
    return folder


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and 12 images in `photos/class_NN/`, which is the current folder."""
    make_image_folder(tmp_path / "photos", classes=4, images=3)
    write_model(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def call(*queries: str, **changes: str) -> int:
    flags = {"model": "model", "images": "photos", "top": "3", **changes}
    named = [text for flag, value in flags.items() for text in (f"--{flag}", value)]
    return main([*named, "--query", *queries])


def find(
    capsys: pytest.CaptureFixture[str], *queries: str, **changes: str
) -> tuple[list[dict[str, str]], str]:
    """Return the neighbours that the command prints, and what it writes to stderr."""
    assert call(*queries, format="csv", **changes) == 0
    captured = capsys.readouterr()
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    for row in rows:  # a path that can be opened, or be the next query
        assert Path(row["image"]).is_file() or "\ufffd" in row["image"]
    return rows, captured.err


def rank_by_loops(query: str, images: Sequence[str]) -> list[str]:
    """Return images by falling dot product with a query, which is not among them."""
    embed = load_exported(Path("model"))
    (wanted,) = embed([query]).tolist()
    similarity = {}
    for image in images:
        (found,) = embed([image]).tolist()
        similarity[image] = sum(a * b for a, b in zip(wanted, found, strict=True))
    return sorted(similarity, key=lambda image: -similarity[image])


@pytest.mark.parametrize("outside", [False, True])
def test_neighbours_are_the_most_similar_images(
    place: Path, capsys: pytest.CaptureFixture[str], outside: bool
) -> None:
    query = Path("photos", FIRST)
    if outside:
        query = Path(shutil.move(query, place / "elsewhere.png"))
    rows, _ = find(capsys, str(query), top="5")
    others = [str(p) for p in sorted(Path("photos").glob("*/*.png")) if p != query]
    assert len(others) == 11
    assert [row["image"] for row in rows] == rank_by_loops(str(query), others)[:5]
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4", "5"]
    assert {row["query"] for row in rows} == {str(query)}
    similarities = [float(row["similarity"]) for row in rows]
    assert similarities == sorted(similarities, reverse=True)


def test_a_query_is_not_its_own_neighbour_but_its_copy_is(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    original = place / "photos" / FIRST
    shutil.copy(original, place / "copy.png")
    (place / "link.png").symlink_to(original)
    os.link(original, place / "photos" / "second_name.png")
    rows, _ = find(capsys, "copy.png", "link.png", f"photos/{FIRST}", top="1")
    nearest = {row["query"]: row for row in rows}
    assert nearest["copy.png"]["image"] in SAME
    assert float(nearest["copy.png"]["similarity"]) == pytest.approx(1.0, abs=1e-5)
    for same in ("link.png", f"photos/{FIRST}"):
        assert nearest[same]["image"] not in SAME


def test_every_image_but_the_query_is_found_if_more_are_asked_for(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = find(capsys, f"photos/{FIRST}", top="99")
    assert len({row["image"] for row in rows}) == len(rows) == 11


def test_a_flat_folder_will_do(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows, _ = find(capsys, f"photos/{FIRST}", images="photos/class_01")
    assert sorted(Path(row["image"]).name for row in rows) == ["0.png", "1.png", "2.png"]


@pytest.fixture
def prepared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The images that are prepared for a model from now on, in order."""
    seen: list[str] = []
    prepare = ExportedModels.prepare

    def spy(self: ExportedModels, image: Path) -> torch.Tensor:
        seen.append(str(image))
        return prepare(self, image)

    monkeypatch.setattr(ExportedModels, "prepare", spy)
    return seen


def test_only_new_and_changed_images_are_embedded_again(
    place: Path, capsys: pytest.CaptureFixture[str], prepared: list[str]
) -> None:
    query = "photos/class_03/2.png"
    first, errors = find(capsys, query)
    assert "12 images: 0 were embedded before, 12 to embed" in errors
    prepared.clear()
    assert find(capsys, query)[0] == first
    assert prepared == [query]

    changed, new = place / "photos/class_01/0.png", place / "photos/new.png"
    shutil.copyfile(place / "photos/class_02/0.png", changed)
    shutil.copyfile(place / query, new)
    (place / "photos/class_00/1.png").unlink()
    prepared.clear()
    rows, errors = find(capsys, query, top="99")
    assert prepared == [query, "photos/class_01/0.png", "photos/new.png"]
    assert "12 images: 10 were embedded before, 2 to embed" in errors
    similarity = {row["image"].removeprefix("photos/"): float(row["similarity"]) for row in rows}
    assert "class_00/1.png" not in similarity
    assert similarity["new.png"] == pytest.approx(1.0, abs=1e-5)
    assert similarity["class_01/0.png"] == pytest.approx(similarity["class_02/0.png"], abs=1e-5)


def test_a_change_that_keeps_size_and_date_is_seen(
    place: Path, capsys: pytest.CaptureFixture[str], prepared: list[str]
) -> None:
    find(capsys, f"photos/{FIRST}")
    image = place / "photos/class_02/1.png"
    before, data = image.stat(), image.read_bytes()
    image.write_bytes(data)
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    prepared.clear()
    find(capsys, f"photos/{FIRST}")
    assert prepared == [f"photos/{FIRST}", "photos/class_02/1.png"]


def test_another_model_and_another_folder_have_their_own_embeddings(
    place: Path, capsys: pytest.CaptureFixture[str], prepared: list[str]
) -> None:
    query = f"photos/{FIRST}"
    first, _ = find(capsys, query)
    write_model(place / "other", seed=5)
    write_model(place / "same")
    shutil.copytree(place / "photos", place / "moved")
    for changes, embedded in (
        ({"model": "other"}, 12),
        ({"model": "same"}, 0),
        ({"model": "model/fold-0.safetensors"}, 12),
        ({"images": "moved"}, 12),
        ({}, 0),
    ):
        prepared.clear()
        rows, _ = find(capsys, query, **changes)
        assert len(prepared) == 1 + embedded, changes
        if not embedded:
            assert rows == first


def test_damaged_embeddings_are_computed_again(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, _ = find(capsys, f"photos/{FIRST}")
    (file,) = (place / "data" / "embeddings").glob("*.npz")
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(b"embeddings.npy") + 300] ^= 0xFF  # beyond the header of the array
    for damaged in (b"", b"no archive", data[: len(data) // 2], bytes(flipped)):
        file.write_bytes(damaged)
        rows, errors = find(capsys, f"photos/{FIRST}")
        assert rows == first
        assert "0 were embedded before" in errors
        assert file.read_bytes() == data


def test_embeddings_survive_an_interruption(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wpm.model.embedded_folder.EVALUATION_BATCH", 5)
    embed = ExportedModels.embed
    calls = iter(range(99))

    def interrupt(self: ExportedModels, images: Sequence[torch.Tensor]) -> torch.Tensor:
        if next(calls) == 3:  # the query, then two batches of five images
            raise KeyboardInterrupt
        return embed(self, images)

    monkeypatch.setattr(ExportedModels, "embed", interrupt)
    assert call(f"photos/{FIRST}") == 130
    assert not (place / "neighbours.html").exists()
    _, errors = find(capsys, f"photos/{FIRST}")
    assert "12 images: 10 were embedded before, 2 to embed" in errors


def test_unreadable_images_are_counted_and_named(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "photos/class_01/0.png").write_bytes(b"no image")
    (place / "photos/gone.jpg").symlink_to("nowhere")
    for _ in range(2):
        rows, errors = find(capsys, f"photos/{FIRST}", top="99")
        assert "2 images cannot be read and are left out:" in errors
        assert "  class_01/0.png (cannot identify image file" in errors
        assert "  gone.jpg (No such file or directory)" in errors
        assert len(rows) == 10


def test_wrong_input_is_one_line_and_writes_nothing(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir()
    (place / "broken").mkdir()
    (place / "broken/1.png").write_bytes(b"no image")
    query = f"photos/{FIRST}"
    for queries, changes, message in (
        (["none.png"], {}, "query none.png cannot be read as an image ([Errno 2] No such file"),
        (["broken/1.png"], {}, "query broken/1.png cannot be read as an image (cannot identify"),
        ([query], {"images": "empty"}, "empty holds no images (.png, .jpg, ..."),
        ([query], {"images": "none"}, "none is not a folder; give the folder of the images"),
        ([query], {"images": "broken"}, "broken: none of its 1 images can be read, the first is"),
        ([query], {"model": "none"}, "none: no exported model; write one with python -m analysis"),
    ):
        assert call(*queries, **changes) == 2
        error = capsys.readouterr().err.splitlines()[-1]
        assert error.startswith(f"neighbours: error: {message}")
        assert not (place / "neighbours.html").exists()


def test_page_shows_every_query_and_neighbour(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(place / "photos" / FIRST, place / "photos" / "<b>&.png")
    assert call(f"photos/{FIRST}", "photos/class_01/0.png", out="sheets/page.html") == 0
    captured = capsys.readouterr()
    assert "pictures: sheets/page.html" in captured.err
    assert f"neighbours of photos/{FIRST}\nrank  similarity  image\n" in captured.out
    page = (place / "sheets" / "page.html").read_text(encoding="utf-8")
    assert page.count('<img src="data:image/jpeg;base64,') == 2 + 2 * 3
    assert f"<h3>photos/{FIRST}</h3>" in page
    assert "1: 1.000</b>photos/&lt;b&gt;&amp;.png" in page
    assert "<b>&.png" not in page
    assert "http" not in page  # it opens offline


def test_names_that_are_no_utf8_are_refused(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(place / "photos" / FIRST, os.fsdecode(b"photos/caf\xe9.png"))
    assert call(f"photos/{FIRST}") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "caf" in line
    assert "UTF-8" in line
    assert not (place / "neighbours.html").exists()


@pytest.mark.parametrize("has_faiss", [True, False])
def test_nearest_agrees_with_loops_with_and_without_faiss(
    monkeypatch: pytest.MonkeyPatch, has_faiss: bool
) -> None:
    monkeypatch.setattr("analysis.numbers.nearest.HAS_FAISS", has_faiss)
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(20, 4)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    queries = embeddings[:3].copy()
    own: list[list[int]] = [[0], [], [2, 7]]
    for row, near in enumerate(find_nearest(embeddings, queries, own, 4)):
        similarity = [float(sum(a * b)) for a, b in ((queries[row], e) for e in embeddings)]
        order = sorted(set(range(20)) - set(own[row]), key=lambda i: -similarity[i])
        assert [n.position for n in near] == order[:4]
        assert [n.similarity for n in near] == pytest.approx(
            [similarity[i] for i in order[:4]], abs=1e-6
        )
    (near,) = find_nearest(embeddings[:1], embeddings[:1], [[0]], 3)
    assert near == []
    (near,) = find_nearest(embeddings[:1], embeddings[:1], [[]], 3)
    assert [n.position for n in near] == [0]


def test_embeddings_are_those_of_the_models(place: Path) -> None:
    models = ExportedModels(Path("model"))
    lines: list[str] = []
    images = embed_folder(models, Path("photos"), Path("data"), lines.append)
    expected = models([Path("photos") / path for path in images.paths])
    assert torch.allclose(torch.from_numpy(images.embeddings), expected, atol=1e-6)
    assert images.embeddings.shape == (12, 2 * 16)
    assert lines == ["12 images: 0 were embedded before, 12 to embed"]
