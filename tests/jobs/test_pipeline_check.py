"""A fault planted in a pipeline is named by the verdict; without one the figures agree."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from tests.support.pipeline_images import (
    CLASSES,
    draw_images,
    make_check,
    pipeline_protocol,
    write_images,
)
from wpm.cli.pipeline_verdict import PublishedFigures, Verdict, judge
from wpm.jobs.pipeline_check import PipelineCheck, PipelineScores, wrong_test_classes
from wpm.jobs.pipeline_readings import Suspect
from wpm.jobs.pretrained import score_pretrained
from wpm.retrieval import RetrievalScores
from wpm.rows import Reduction

SIZES = (4, 16)
Images = list[list[NDArray[np.uint8]]]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> tuple[PipelineCheck, list[PipelineScores]]:
    root = tmp_path_factory.mktemp("right")
    write_images(root / "images", draw_images())
    check = make_check(root / "images", pipeline_protocol(), root / "work")
    return check, list(check.run())


@pytest.fixture(scope="module")
def published(right: tuple[PipelineCheck, list[PipelineScores]]) -> PublishedFigures:
    """Figures as a table would print them: of the right pipeline, with two digits."""
    check, (ours, *_) = right
    return figures_of(ours, check.test_half.images)


def figures_of(pipeline: PipelineScores, images: int) -> PublishedFigures:
    separated = pipeline.scores[Reduction.RAW][0]
    concatenated = pipeline.scores[Reduction.UNIT][1]
    return PublishedFigures(separated, concatenated, images)


def check_faulty(
    tmp_path: Path, published: PublishedFigures, images: Images, **changes: int
) -> Verdict:
    write_images(tmp_path / "images", images)
    check = make_check(tmp_path / "images", pipeline_protocol(**changes), tmp_path / "work")
    return judge(list(check.run()), check.test_half, published, SIZES)


def test_right_pipeline_agrees_and_is_told_from_all_wrong_ones(
    right: tuple[PipelineCheck, list[PipelineScores]], published: PublishedFigures
) -> None:
    check, pipelines = right
    verdict = judge(pipelines, check.test_half, published, SIZES)
    assert verdict.agrees
    assert verdict.lines[0].startswith("16-d: agrees within 0.05 points: unit (off by 0.00)")
    assert verdict.lines[1].startswith("4-d: agrees within 0.05 points: raw (off by 0.00)")
    assert verdict.lines[2].startswith("so weights, decoding, sizes, colours, classes and metrics")
    assert len(verdict.lines) == 3
    assert len(pipelines) == check.count


def test_scores_of_the_right_pipeline_are_those_of_the_row(
    right: tuple[PipelineCheck, list[PipelineScores]],
) -> None:
    check, (ours, *_) = right
    row = score_pretrained(
        pipeline_protocol(), "random", check._trainval, check._test, torch.device("cpu")
    )
    assert ours.scores == row


def test_each_wrong_pipeline_is_named_if_the_figures_are_its_own(
    right: tuple[PipelineCheck, list[PipelineScores]],
) -> None:
    check, (_, *wrong) = right
    assert {pipeline.suspect for pipeline in wrong} == set(Suspect) - {Suspect.WEIGHTS}
    for pipeline in wrong:
        assert pipeline.suspect is not None
        figures = figures_of(pipeline, check.test_half.images)
        verdict = judge([right[1][0], *wrong], check.test_half, figures, SIZES)
        assert not verdict.agrees
        reasons = verdict.lines[1:]
        assert f"the published figures are those of {pipeline.name} (" in " ".join(reasons)
        assert pipeline.suspect.where in " ".join(reasons)


def test_swapped_colours_are_named(tmp_path: Path, published: PublishedFigures) -> None:
    swapped = [[image[:, :, ::-1] for image in of_class] for of_class in draw_images()]
    verdict = check_faulty(tmp_path, published, swapped)
    assert not verdict.agrees
    assert verdict.lines[0].startswith("does not agree: the nearest of the three reductions")
    (reason,) = verdict.lines[1:]
    assert reason.startswith(
        "likely wrong: the order of the colours: the published figures are those of colours in "
        "the order BGR in place of RGB (raw at 4-d, unit at 16-d); look at wpm/model/bninception.py"
    )


def test_shuffled_classes_are_named(tmp_path: Path, published: PublishedFigures) -> None:
    images = draw_images()
    random.Random(1).shuffle(images)
    verdict = check_faulty(tmp_path, published, images)
    assert not verdict.agrees
    (reason,) = verdict.lines[1:]
    assert reason.startswith("likely wrong: the order of the classes")
    assert f"the published one {published.test_images}; look at the data set's own" in reason


def test_swapped_halves_of_the_classes_are_named(
    tmp_path: Path, published: PublishedFigures
) -> None:
    images = draw_images()
    half = CLASSES // 2
    verdict = check_faulty(tmp_path, published, images[half:] + images[:half])
    assert not verdict.agrees
    assert "figures are those of the other half of the classes (" in verdict.lines[1]


def test_wrong_resize_is_named(tmp_path: Path, published: PublishedFigures) -> None:
    verdict = check_faulty(tmp_path, published, draw_images(), resize=24)
    assert not verdict.agrees
    (reason,) = verdict.lines[1:]
    assert reason.startswith("likely wrong: the resizing: the published figures are those of a ")
    assert "a shorter side of 27 px in place of 24" in reason


def test_images_that_were_squeezed_before_are_named(
    tmp_path: Path, published: PublishedFigures
) -> None:
    squeezed = [
        [np.asarray(Image.fromarray(image).resize((27, 27))) for image in of_class]
        for of_class in draw_images()
    ]
    verdict = check_faulty(tmp_path, published, squeezed)
    assert not verdict.agrees
    (reason,) = verdict.lines[1:]
    assert reason.startswith("likely wrong: the resizing: every test image is square")


def test_labels_of_other_images_are_named(tmp_path: Path, published: PublishedFigures) -> None:
    images = draw_images()
    flat = [image for of_class in images for image in of_class]
    random.Random(0).shuffle(flat)
    mixed = [[flat.pop() for _ in of_class] for of_class in images]
    verdict = check_faulty(tmp_path, published, mixed)
    assert not verdict.agrees
    (reason,) = verdict.lines[1:]
    assert reason.startswith("likely wrong: the labels: P@1 is ")


def test_what_no_mistake_explains_is_said(
    right: tuple[PipelineCheck, list[PipelineScores]], published: PublishedFigures
) -> None:
    check, pipelines = right
    unreachable = RetrievalScores(0.99, 0.98, 0.97)
    far = PublishedFigures(unreachable, unreachable, published.test_images)
    verdict = judge(pipelines, check.test_half, far, SIZES)
    assert not verdict.agrees
    (reason,) = verdict.lines[1:]
    assert f"none of the {len(pipelines) - 1} mistakes that were tried; the nearest, " in reason


def test_test_images_are_opened_behind_the_door(
    right: tuple[PipelineCheck, list[PipelineScores]],
) -> None:
    place = right[0]._place
    lines = (place.folder / "test_access.jsonl").read_text().splitlines()
    reasons = [json.loads(line)["reason"] for line in lines]
    assert reasons == [
        "check of our pipeline",
        "check of a shorter side of 24 px in place of 27",
    ]


def test_other_orders_of_classes_give_other_test_halves() -> None:
    names = [f"{n:03}.{name}" for n, name in enumerate("dbcaijklmnop", 1)]
    labels = torch.arange(12).repeat(2)
    halves = dict(wrong_test_classes(names, labels))
    assert halves["the other half of the classes"] == [0, 1, 2, 3, 4, 5]
    # 1 10 11 12 2 3 | 4 5 6 7 8 9
    assert halves["class numbers in the order of text"] == [3, 4, 5, 6, 7, 8]
    assert "classes in the order of their names" not in halves  # the same half
    odd = dict(wrong_test_classes(names, torch.arange(9)))
    assert odd["the other half of the classes"] == [8, 0, 1, 2, 3]
