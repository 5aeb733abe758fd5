"""Trunk, embedder and views: views equal separate passes, masks have the dropout's statistics."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn

from wpm.errors import UserError
from wpm.model.convnet import ConvNet
from wpm.model.embedding import EmbeddingModel, build_model, freeze_batch_norm
from wpm.model.views import ViewMasks, ViewSettings
from wpm.protocol_files import find_protocol

PROTOCOL = find_protocol("small", "glyphs")


def make_model(channels: int = 1, seed: int = 0) -> EmbeddingModel:
    return build_model(PROTOCOL, channels, seed).double()


def make_images(batch: int = 3, channels: int = 1, side: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn((batch, channels, side, side), generator=generator, dtype=torch.float64)


def sample(
    model: EmbeddingModel,
    images: Tensor,
    seed: int = 0,
    passes: int = 3,
    masks: int = 2,
    channel_dropout: float = 0.3,
    embedding_dropout: float = 0.2,
) -> ViewMasks:
    views = ViewSettings(passes, masks, channel_dropout, embedding_dropout)
    return model.sample_masks(images, views, torch.Generator().manual_seed(seed))


def views_by_loops(model: EmbeddingModel, images: Tensor, masks: ViewMasks) -> Tensor:
    """One forward pass a trunk pass and mask, image by image."""
    passes, count = masks.embedding.shape[:2]
    views = []
    for t in range(passes):
        for k in range(count):
            rows = []
            for i in range(len(images)):
                features = model.trunk.stem(images[i : i + 1])
                for channel in range(features.shape[1]):
                    features[:, channel] = features[:, channel] * masks.channel[t, i, channel]
                embedding = model.embedder(model.trunk.body(features))[0]
                rows.append(embedding * masks.embedding[t, k, i])
            views.append(torch.stack(rows))
    return torch.stack(views)


@pytest.mark.parametrize("channels", [1, 3])
def test_views_equal_separate_passes(channels: int) -> None:
    model, images = make_model(channels), make_images(channels=channels)
    masks = sample(model, images)
    with torch.no_grad():
        views = model.make_views(images, masks)
        expected = views_by_loops(model, images, masks)
    assert views.shape == (6, 3, PROTOCOL.embedding_dim)
    assert float((views - expected).norm() / expected.norm()) < 1e-10
    assert not torch.allclose(views[0], views[2])  # passes differ
    assert not torch.allclose(views[0], views[1])  # masks of a pass differ


def test_view_gradients_equal_separate_passes() -> None:
    model, images = make_model(), make_images()
    masks = sample(model, images)
    weights = torch.randn((6, 3, 128), generator=torch.Generator().manual_seed(1)).double()
    gradients = []
    for views in (model.make_views(images, masks), views_by_loops(model, images, masks)):
        model.zero_grad()
        (views * weights).sum().backward()
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters()})  # type: ignore[union-attr]
    assert "trunk.first.weight" in gradients[0]
    for name, gradient in gradients[0].items():
        assert float(gradient.norm()) > 0
        assert float((gradient - gradients[1][name]).norm() / gradient.norm()) < 1e-10


def test_views_without_dropout_equal_the_plain_embeddings() -> None:
    model, images = make_model(), make_images()
    masks = sample(model, images, channel_dropout=0.0, embedding_dropout=0.0)
    with torch.no_grad():
        views, plain = model.make_views(images, masks), model(images)
    assert plain.shape == (3, 128)
    assert torch.allclose(views, plain.expand(6, -1, -1), rtol=1e-12, atol=1e-13)


def test_images_do_not_influence_one_another() -> None:
    model = make_model().train()
    images = make_images(batch=4)
    changed = images.clone()
    changed[1] += 1
    others = [0, 2, 3]
    with torch.no_grad():
        before, after = model(images), model(changed)
        alone = torch.cat([model(image[None]) for image in images])
    assert torch.allclose(after[others], before[others], rtol=1e-12, atol=1e-13)
    assert not torch.allclose(after[1], before[1])
    assert torch.allclose(alone, before, rtol=1e-10, atol=1e-12)


def test_masks_have_one_factor_each() -> None:
    model, images = make_model(), make_images(batch=5)
    masks = sample(model, images, passes=4, masks=2)
    assert masks.channel.shape == (4, 5, 32)
    assert masks.embedding.shape == (4, 2, 5, 128)
    assert masks.channel.dtype == masks.embedding.dtype == torch.float64


def test_masks_drop_the_requested_share_and_keep_the_mean() -> None:
    model, images = make_model(), make_images(batch=32)
    masks = sample(model, images, passes=8, masks=8, channel_dropout=0.1, embedding_dropout=0.05)
    for mask, dropout in ((masks.channel, 0.1), (masks.embedding, 0.05)):
        values = mask.unique()
        assert values.tolist() == pytest.approx([0.0, 1 / (1 - dropout)])
        # Four standard deviations of a mean of independent draws.
        tolerance = 4 * math.sqrt(dropout * (1 - dropout) / mask.numel())
        assert float((mask == 0).double().mean()) == pytest.approx(dropout, abs=tolerance)
        assert float(mask.mean()) == pytest.approx(1.0, abs=tolerance / (1 - dropout))
    # No two axes share their draws.
    for axis in range(4):
        first, second = masks.embedding.select(axis, 0), masks.embedding.select(axis, 1)
        assert not torch.equal(first, second)


def test_same_generator_seed_gives_same_masks() -> None:
    model, images = make_model(), make_images()
    first, again, other = (sample(model, images, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.channel, again.channel)
    assert torch.equal(first.embedding, again.embedding)
    assert not torch.equal(first.channel, other.channel)
    assert not torch.equal(first.embedding, other.embedding)


def test_masks_leave_the_global_generator_alone() -> None:
    model, images = make_model(), make_images()
    state = torch.get_rng_state()
    sample(model, images)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, math.nan])
def test_dropout_outside_its_range_is_refused(dropout: float) -> None:
    model, images = make_model(), make_images()
    with pytest.raises(ValueError, match=f"dropout is {dropout}"):
        sample(model, images, channel_dropout=dropout)
    with pytest.raises(ValueError, match=f"dropout is {dropout}"):
        sample(model, images, embedding_dropout=dropout)


def test_same_seed_gives_same_weights() -> None:
    first, again, other = (make_model(seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["embedder.weight"], other["embedder.weight"])
    assert not torch.equal(first["trunk.first.weight"], other["trunk.first.weight"])


def test_building_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    make_model(seed=5)
    assert torch.equal(torch.get_rng_state(), state)


def test_embedding_size_comes_from_the_protocol() -> None:
    protocol = dataclasses.replace(PROTOCOL, embedding_dim=7)
    assert build_model(protocol, 1, seed=0).embedder.out_features == 7


@pytest.mark.parametrize("side", [16, 24, 40])
def test_convnet_takes_images_of_several_sides(side: int) -> None:
    trunk, images = ConvNet(3), make_images(2, 3, side).float()
    assert trunk.body(trunk.stem(images)).shape == (2, ConvNet.feature_dim)


def test_unknown_trunk_lists_the_choices() -> None:
    protocol = dataclasses.replace(PROTOCOL, trunk="resnet50")
    with pytest.raises(UserError, match=r"unknown trunk 'resnet50'; choose from .*convnet"):
        build_model(protocol, 1, seed=0)


def test_frozen_batch_norm_stays_frozen() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Sequential(nn.BatchNorm1d(4)))
    model.train()
    freeze_batch_norm(model)
    assert model.training
    assert model[0].training
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(torch.randn((8, 3), generator=torch.Generator().manual_seed(0)) * 5)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    model.train()  # as the docstring says: thaws again
    model(torch.randn((8, 3), generator=torch.Generator().manual_seed(0)) * 5)
    assert not torch.equal(model.state_dict()["1.running_mean"], before["1.running_mean"])
