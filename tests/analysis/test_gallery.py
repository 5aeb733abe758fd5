"""The report's part on embeddings: scores as the test computes them, hits and misses marked."""

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from analysis.report_page import gallery
from analysis.report_page.gallery import Gallery, draw_map, make_gallery, score_queries
from analysis.studies.embeddings import EmbeddedRun
from wpm.records.embedded_images import EmbeddedImages
from wpm.retrieval import retrieval_scores


def make_embedded(images: int = 60, classes: int = 6, channels: int = 1) -> EmbeddedImages:
    """Return embeddings in noisy groups; the grey level of a thumbnail is its class."""
    rng = np.random.default_rng(0)
    labels = np.arange(images) % classes
    centres = rng.normal(size=(classes, 8))
    embeddings = (centres[labels] + rng.normal(size=(images, 8))).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    thumbnails = np.repeat(labels * 40, 16 * 16 * channels).astype(np.uint8)
    return EmbeddedImages(
        class_names=tuple(f"class {c}" for c in range(classes)),
        embeddings=embeddings,
        labels=labels,
        thumbnails=thumbnails.reshape(images, 16, 16, channels),
    )


def show(images: EmbeddedImages) -> Gallery:
    run = EmbeddedRun(images, "glyphs/small/triplet", trial=3, seed=1000, test_scores={})
    return make_gallery(run)


def scores_of(embedded: EmbeddedImages) -> NDArray[np.float64]:
    return score_queries(embedded.embeddings, embedded.labels, np.arange(len(embedded.labels)))[0]


@pytest.mark.parametrize("chunk", [512, 7])
def test_mean_of_the_queries_scores_is_the_map_at_r_of_the_test(
    monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(gallery, "_CHUNK", chunk)
    embedded = make_embedded()
    tested = retrieval_scores(
        torch.from_numpy(embedded.embeddings), torch.from_numpy(embedded.labels)
    )
    assert scores_of(embedded).mean() == pytest.approx(tested.map_at_r, abs=1e-9)


def test_similarity_is_that_of_the_nearest_wrong_image() -> None:
    embeddings = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1]], dtype=np.float32)
    labels = np.array([0, 0, 1, 1])
    scores, similar = score_queries(embeddings, labels, np.array([0, 1]))
    assert similar == pytest.approx([0.6, 0.96])
    assert scores == pytest.approx([1.0, 0.0])  # of the second, image 2 is nearer than image 0


def test_sheet_marks_right_and_wrong_neighbours() -> None:
    embedded = make_embedded()
    shown = show(embedded)
    assert len(shown.random) == len(shown.worst) == 6
    assert shown.title == "run with seed 1000 of trial 3"
    for retrieval in (*shown.random, *shown.worst):
        assert len(retrieval.neighbours) == 8
        for neighbour in retrieval.neighbours:
            assert neighbour.right == (neighbour.label == retrieval.query.label)
    worst = [retrieval.score for retrieval in shown.worst]
    assert worst == sorted(worst)
    assert worst[0] == pytest.approx(scores_of(embedded).min())
    assert len({retrieval.query.label for retrieval in shown.worst}) == 6
    assert show(embedded).random == shown.random  # the same page every time


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB")])
def test_pictures_are_images_inside_the_page(channels: int, mode: str) -> None:
    shown = show(make_embedded(channels=channels))
    picture = shown.worst[0].query
    header, _, data = picture.source.partition(",")
    assert header == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (image.size, image.mode) == ((16, 16), mode)
        level = 40 * int(picture.label.removeprefix("class "))
        assert np.asarray(image).mean() == pytest.approx(level, abs=2)


def test_lone_images_are_no_queries() -> None:
    whole = make_embedded()
    labels = np.where(np.arange(60) == 0, 6, whole.labels)
    lone = dataclasses.replace(whole, labels=labels, class_names=(*whole.class_names, "lone"))
    assert show(lone).examined == 59


def test_few_images_do_without_a_map(tmp_path: Path) -> None:
    assert show(make_embedded(images=8, classes=2)).chart is None


def test_map_marks_classes_by_colour_and_symbol() -> None:
    import plotly.graph_objects

    figure = draw_map(make_embedded(images=130, classes=13))
    plotly.graph_objects.Figure(data=figure.data, layout=figure.layout)
    marked = figure.data[1:]
    assert len(marked) == 10
    looks = {(data["marker"]["color"], data["marker"]["symbol"]) for data in marked}
    assert len(looks) == 10
    assert sum(len(data["x"]) for data in figure.data) == 130
