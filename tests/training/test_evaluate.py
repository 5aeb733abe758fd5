"""Scores of models: one alone, and several concatenated."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from tests.support.image_trees import ImageTree
from wpm.data.batches import BatchMaker
from wpm.data.class_folders import index_class_folders
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.model import embedding
from wpm.model.embedding import EmbeddingModel, build_model, concatenate_embeddings
from wpm.protocol_files import find_protocol
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.training.evaluate import (
    count_coinciding,
    embed_images,
    mean_scores,
    score_models,
)

PROTOCOL = find_protocol("smoke", "folder")


@pytest.fixture
def pixels(image_tree: ImageTree, tmp_path: Path) -> Pixels:
    """Noisy greyscale images of five patterns, four images each."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 256, (5, 20, 20))
    root = image_tree(
        {
            f"class_{label}/{i}.png": (patterns[label] + rng.normal(0, 150, (20, 20)))
            .clip(0, 255)
            .astype(np.uint8)
            for label in range(5)
            for i in range(4)
        }
    )
    index = index_class_folders("folder", root, 1)
    return Pixels(build_pixel_cache(index, PROTOCOL.resize, tmp_path / "work"))


def make_model(seed: int = 0) -> EmbeddingModel:
    return build_model(PROTOCOL, channels=1, seed=seed)


def make_batches(pixels: Pixels, model: EmbeddingModel) -> BatchMaker:
    return BatchMaker(pixels, PROTOCOL, model.trunk.input_spec, torch.device("cpu"))


def test_embeddings_are_the_models_normalised_and_in_order(pixels: Pixels) -> None:
    model = make_model().train()
    batches = make_batches(pixels, model)
    indices = torch.tensor([7, 0, 19, 7])
    found = embed_images(model, batches, indices)
    assert not model.training
    assert not found.requires_grad
    assert found.dtype == torch.float32
    assert found.shape == (4, PROTOCOL.embedding_dim)
    assert torch.allclose(found.norm(dim=1), torch.ones(4))
    images, _ = batches.evaluation_batch(indices)
    with torch.no_grad():
        assert torch.allclose(found, normalize(model(images), dim=1), atol=1e-6)
    assert torch.equal(found[0], found[3])


@pytest.mark.parametrize("batch", [1, 3, 20, 1000])
def test_embeddings_do_not_depend_on_the_batch(
    pixels: Pixels, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    model, indices = make_model(), torch.arange(20)
    expected = embed_images(model, make_batches(pixels, model), indices)
    monkeypatch.setattr(embedding, "EVALUATION_BATCH", batch)
    found = embed_images(model, make_batches(pixels, model), indices)
    assert torch.allclose(found, expected, atol=1e-5)


def test_concatenation_weighs_models_equally_by_hand() -> None:
    # Norms 5 and 2 do not count: (0.6, 0.8) and (0, 1), then all over the root of 2.
    found = concatenate_embeddings([torch.tensor([[3.0, 4.0]]), torch.tensor([[0.0, 2.0]])])
    root = math.sqrt(2)
    assert found[0].tolist() == pytest.approx([0.6 / root, 0.8 / root, 0.0, 1 / root])


def test_concatenation_of_one_model_is_its_own() -> None:
    embeddings = torch.randn((6, 4), generator=torch.Generator().manual_seed(0))
    assert torch.allclose(concatenate_embeddings([embeddings]), normalize(embeddings, dim=1))


@pytest.mark.parametrize(
    ("distance", "others", "expected"),
    [(0.0, 0, 100), (0.0, 4, 96), (3e-5, 4, 96), (3e-3, 0, 1), (1.0, 0, 1)],
)
def test_coinciding_embeddings_are_counted(distance: float, others: int, expected: int) -> None:
    generator = torch.Generator().manual_seed(0)
    shift = normalize(torch.randn((100, 64), generator=generator), dim=1)
    embeddings = torch.eye(1, 64) + distance * shift
    embeddings[:others] = shift[:others]
    assert count_coinciding(normalize(embeddings, dim=1)) == expected


def test_embeddings_without_a_norm_coincide() -> None:
    assert count_coinciding(torch.zeros(3, 4)) == 3
    assert count_coinciding(torch.ones(1, 4)) == 1


def test_mean_scores_by_hand() -> None:
    scores = [RetrievalScores(0.2, 0.4, 0.6), RetrievalScores(0.4, 0.5, 0.9)]
    mean = mean_scores(scores)
    assert mean.precision_at_1 == pytest.approx(0.3)
    assert mean.r_precision == pytest.approx(0.45)
    assert mean.map_at_r == pytest.approx(0.75)
    assert mean_scores(scores[:1]) == scores[0]


def test_mean_of_a_score_without_queries_is_nan() -> None:
    mean = mean_scores([RetrievalScores(0.2, 0.4, 0.6), RetrievalScores(*[math.nan] * 3)])
    assert math.isnan(mean.map_at_r)


def test_separated_and_concatenated_scores_equal_their_definition(pixels: Pixels) -> None:
    models = [make_model(seed) for seed in range(3)]
    batches = make_batches(pixels, models[0])
    indices = torch.arange(4, 20)
    labels = pixels.labels[indices]
    separated, concatenated = score_models(models, batches, indices, labels)
    each = [embed_images(model, batches, indices) for model in models]
    scores = [retrieval_scores(e, labels) for e in each]
    assert len({s.map_at_r for s in scores}) == 3
    assert separated.map_at_r == pytest.approx(sum(s.map_at_r for s in scores) / 3)
    joined = normalize(torch.cat(each, dim=1), dim=1)
    assert concatenated == retrieval_scores(joined, labels)
    assert concatenated != separated


def test_one_model_scores_the_same_separated_and_concatenated(pixels: Pixels) -> None:
    model = make_model()
    separated, concatenated = score_models(
        [model], make_batches(pixels, model), torch.arange(20), pixels.labels
    )
    assert separated == concatenated
    assert 0 < separated.map_at_r < 1
