"""Batches: boxes are torchvision's, classes are balanced, draws repeat."""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.functional import center_crop

from tests.support.image_trees import ImageTree
from tests.support.pillow import resize_by_pillow
from wpm.data import crop_boxes
from wpm.data.batches import BatchMaker, ClassBalancedSampler
from wpm.data.class_folders import index_class_folders
from wpm.data.crop_boxes import centre_crop_boxes, sample_crop_boxes
from wpm.data.crops import InputSpec
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol

MLRC_SCALE, MLRC_RATIO = (0.16, 1.0), (0.75, 1.33)
GREY_SPEC = InputSpec("RGB", 1.0, (0.5,), (0.25,))
CPU = torch.device("cpu")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Boxes


def boxes_of_torchvision(draws: int, height: int, width: int) -> Tensor:
    image = torch.empty(1, height, width)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return torch.tensor(
            [
                RandomResizedCrop.get_params(image, list(MLRC_SCALE), list(MLRC_RATIO))
                for _ in range(draws)
            ]
        )


def largest_gap(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Return the Kolmogorov-Smirnov statistic: the largest gap between cumulative distributions."""
    values = np.union1d(first, second)
    below = [np.searchsorted(np.sort(x), values, side="right") / len(x) for x in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


@pytest.mark.parametrize(("height", "width"), [(256, 256), (256, 400), (60, 28)])
def test_boxes_are_distributed_as_in_torchvision(height: int, width: int) -> None:
    draws = 4000
    expected = boxes_of_torchvision(draws, height, width).double()
    sizes = torch.tensor([[height, width]]).expand(draws, 2)
    found = sample_crop_boxes(sizes, MLRC_SCALE, MLRC_RATIO, seeded()).double()

    def statistics_of(boxes: Tensor) -> dict[str, NDArray[np.float64]]:
        top, left, h, w = boxes.numpy().T
        share = {"top": top / np.maximum(height - h, 1), "left": left / np.maximum(width - w, 1)}
        return {"height": h, "width": w, "area": h * w, "ratio": w / h, **share}

    for name, values in statistics_of(found).items():
        reference = statistics_of(expected)[name]
        # Two samples of one distribution exceed this gap once in 100,000 times.
        assert largest_gap(values, reference) < 2.47 * np.sqrt(2 / draws), name
        error = np.sqrt((values.var() + reference.var()) / draws)
        assert abs(values.mean() - reference.mean()) < 4.5 * error, name


def test_boxes_lie_inside_their_image() -> None:
    sizes = torch.randint(1, 60, (3000, 2), generator=seeded())
    top, left, height, width = sample_crop_boxes(sizes, MLRC_SCALE, MLRC_RATIO, seeded()).T
    assert bool(((top >= 0) & (left >= 0) & (height >= 1) & (width >= 1)).all())
    assert bool((top + height <= sizes[:, 0]).all())
    assert bool((left + width <= sizes[:, 1]).all())


@pytest.mark.parametrize(("height", "width"), [(10, 1000), (1000, 11), (1, 1), (3, 200)])
def test_boxes_of_images_that_no_crop_fits_equal_torchvision(height: int, width: int) -> None:
    sizes = torch.tensor([[height, width]])
    found = sample_crop_boxes(sizes, (0.9, 1.0), (0.75, 1.33), seeded())
    expected = RandomResizedCrop.get_params(torch.empty(1, height, width), [0.9, 1.0], [0.75, 1.33])
    assert found[0].tolist() == list(expected)


def test_every_position_of_a_box_is_as_likely() -> None:
    # A square of 4 in an image of 5 by 6 pixels: 2 positions down, 3 across.
    sizes = torch.tensor([[5, 6]]).expand(3000, 2)
    boxes = sample_crop_boxes(sizes, (16 / 30, 16 / 30), (1.0, 1.0), seeded())
    assert bool((boxes[:, 2:] == 4).all())
    counts = Counter(map(tuple, boxes[:, :2].tolist()))
    assert counts.keys() == {(top, left) for top in range(2) for left in range(3)}
    assert all(abs(count - 500) < 5 * np.sqrt(500 * 5 / 6) for count in counts.values())


def test_boxes_of_an_image_do_not_depend_on_its_neighbours_size() -> None:
    sizes = torch.tensor([[40, 40], [40, 40], [40, 40]])
    other = torch.tensor([[10, 90], [40, 40], [40, 40]])
    first = sample_crop_boxes(sizes, MLRC_SCALE, MLRC_RATIO, seeded())
    second = sample_crop_boxes(other, MLRC_SCALE, MLRC_RATIO, seeded())
    assert torch.equal(first[1:], second[1:])


def test_same_generator_seed_gives_same_boxes() -> None:
    sizes = torch.tensor([[40, 60]]).expand(50, 2)
    first, again, other = (
        sample_crop_boxes(sizes, MLRC_SCALE, MLRC_RATIO, seeded(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("crop", [1, 2, 7, 8])
def test_centre_crop_equals_torchvision(crop: int) -> None:
    for height in range(8, 13):
        for width in range(8, 13):
            image = torch.arange(height * width).view(1, height, width)
            top, left, h, w = centre_crop_boxes(torch.tensor([[height, width]]), crop)[0].tolist()
            found = image[:, top : top + h, left : left + w]
            assert torch.equal(found, center_crop(image, [crop, crop]))


# Sampling


def sampler(
    labels: list[int], classes: int, images: int, candidates: list[int] | None = None, seed: int = 0
) -> ClassBalancedSampler:
    positions = torch.arange(len(labels)) if candidates is None else torch.tensor(candidates)
    return ClassBalancedSampler(
        torch.tensor(labels),
        positions,
        classes_per_batch=classes,
        images_per_class=images,
        generator=seeded(seed),
    )


def test_batches_hold_so_many_of_so_many_classes_without_repeats() -> None:
    labels = [label for label in (3, 7, 100, 8, 12, 13) for _ in range(6)]
    draws = sampler(labels, classes=3, images=4)
    for _ in range(50):
        batch = draws.draw().tolist()
        assert len(set(batch)) == len(batch) == 12
        drawn = [labels[i] for i in batch]
        assert set(Counter(drawn).values()) == {4}
        assert all(len(set(drawn[i : i + 4])) == 1 for i in (0, 4, 8))  # class after class


@pytest.mark.parametrize(("classes", "cards", "images"), [(5, 3, 4), (75, 8, 4), (75, 32, 1)])
def test_classes_come_from_shuffled_passes_over_all_of_them(
    classes: int, cards: int, images: int
) -> None:
    """As pytorch-metric-learning's sampler: whole passes, cut into batches wherever they end."""
    labels = [label for label in range(classes) for _ in range(6)]
    draws = sampler(labels, cards, images)
    batches = [[labels[i] for i in draws.draw().tolist()] for _ in range(3 * classes)]
    stream = [label for batch in batches for label in batch]
    # The original's loop: a pass deals every class once, `images` images each.
    length = classes * images
    passes = [stream[start : start + length] for start in range(0, len(stream), length)]
    assert len(passes) == 3 * cards
    for dealt in passes:
        order = dealt[::images]
        assert dealt == [label for label in order for _ in range(images)]
        assert sorted(order) == list(range(classes))
    assert len({tuple(dealt) for dealt in passes}) > 1


def test_dealing_resumes_in_the_middle_of_a_deck() -> None:
    labels = [label for label in range(7) for _ in range(4)]
    draws = sampler(labels, classes=3, images=2)
    draws.draw()
    generator, deck = draws._generator.get_state(), draws.deck.clone()
    expected = [draws.draw().tolist() for _ in range(5)]
    resumed = sampler(labels, classes=3, images=2, seed=1)
    resumed._generator.set_state(generator)
    resumed.deck = deck
    assert [resumed.draw().tolist() for _ in range(5)] == expected
    resumed = sampler(labels, classes=3, images=2, seed=1)
    resumed._generator.set_state(generator)
    assert [resumed.draw().tolist() for _ in range(5)] != expected


def test_every_class_and_image_is_drawn_equally_often() -> None:
    labels = [0] * 4 + [1] * 12 + [2] * 6 + [3] * 6
    draws = sampler(labels, classes=2, images=3)
    counts = Counter(i for _ in range(2000) for i in draws.draw().tolist())
    per_class = Counter(dict.fromkeys(range(4), 0))
    for image, count in counts.items():
        per_class[labels[image]] += count
    # 2000 batches: a class is in half of them, 3 images each; 5 standard deviations.
    assert all(abs(per_class[label] - 3000) < 5 * 3 * np.sqrt(500) for label in range(4))
    assert all(abs(counts[i] - 3000 / 12) < 5 * np.sqrt(250) for i in range(4, 16))


def test_small_classes_are_drawn_with_replacement() -> None:
    labels = [0, 0, 1, 1, 1, 1]
    draws = sampler(labels, classes=2, images=4)
    seen = set()
    for _ in range(50):
        batch = draws.draw().tolist()
        drawn = Counter(labels[i] for i in batch)
        assert drawn == {0: 4, 1: 4}
        assert {i for i in batch if labels[i] == 1} == {2, 3, 4, 5}
        seen |= {i for i in batch if labels[i] == 0}
    assert seen == {0, 1}


def test_fewer_classes_than_asked_are_dealt_several_times() -> None:
    draws = sampler([0, 0, 5, 5], classes=8, images=2)
    for _ in range(5):
        assert sorted(draws.draw().tolist()) == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4


def test_only_candidates_are_drawn() -> None:
    labels = [0, 0, 0, 1, 1, 1, 2, 2, 2]
    draws = sampler(labels, classes=2, images=2, candidates=[0, 2, 6, 7])
    drawn = {i for _ in range(50) for i in draws.draw().tolist()}
    assert drawn == {0, 2, 6, 7}


def test_same_generator_seed_gives_same_batches() -> None:
    labels = [label for label in range(6) for _ in range(6)]

    def batches_of(seed: int) -> list[list[int]]:
        draws = sampler(labels, classes=3, images=4, seed=seed)
        return [draws.draw().tolist() for _ in range(5)]

    assert batches_of(0) == batches_of(0)
    assert batches_of(0) != batches_of(1)


def test_classes_of_scattered_images_are_gathered_in_order() -> None:
    labels = torch.randint(5, (60,), generator=seeded())
    candidates = torch.randperm(60, generator=seeded(1))[:40]
    found = sampler(labels.tolist(), 5, 4, candidates.tolist())._members
    expected = [[i for i in candidates.tolist() if labels[i] == label] for label in range(5)]
    assert [members.tolist() for members in found] == expected


def test_images_are_not_searched_anew_for_every_class() -> None:
    """SOP's folds have 8,488 classes of 45,000 images."""

    def operations(classes: int) -> int:
        labels = torch.arange(classes).repeat(3).tolist()
        counted = Operations()
        with counted:
            sampler(labels, classes=8, images=4)
        return counted.number

    assert operations(400) == operations(10)


class Operations(TorchDispatchMode):
    """Counts the operations on tensors."""

    number: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += 1
        return func(*args, **(kwargs or {}))


def test_no_candidates_are_refused() -> None:
    with pytest.raises(UserError, match="no images to train on"):
        ClassBalancedSampler(
            torch.tensor([0, 1]),
            torch.tensor([], dtype=torch.int64),
            classes_per_batch=2,
            images_per_class=2,
            generator=seeded(),
        )


# Batches of a cache


@pytest.fixture
def ragged(image_tree: ImageTree, tmp_path: Path) -> Pixels:
    """Six greyscale images of three shapes, shorter side 20."""
    rng = np.random.default_rng(0)
    shapes = [(20, 20), (20, 33), (41, 20)]
    root = image_tree(
        {
            f"class_{label}/{i}.png": rng.integers(0, 256, shape).astype(np.uint8)
            for label in range(2)
            for i, shape in enumerate(shapes)
        }
    )
    return Pixels(build_pixel_cache(index_class_folders("folder", root, 1), 20, tmp_path / "work"))


def smoke() -> Protocol:
    return find_protocol("smoke", "folder")


def original(pixels: Pixels, index: int) -> Tensor:
    return pixels.image(index).permute(2, 0, 1)


def test_evaluation_batch_crops_the_centre(ragged: Pixels) -> None:
    maker = BatchMaker(ragged, smoke(), GREY_SPEC, CPU)
    indices = torch.tensor([5, 0, 1, 4])
    images, labels = maker.evaluation_batch(indices)
    assert labels.tolist() == [1, 0, 0, 1]
    assert images.shape == (4, 1, 16, 16)
    for index, image in zip(indices.tolist(), images, strict=True):
        cropped = center_crop(original(ragged, index), [16, 16]).float()
        assert torch.allclose(image, (cropped / 255 - 0.5) / 0.25, atol=1e-5)


def test_training_batch_crops_at_random_and_repeats(ragged: Pixels) -> None:
    maker = BatchMaker(ragged, smoke(), GREY_SPEC, CPU)
    indices = torch.tensor([1, 1, 1, 1, 3, 2])
    first, labels = maker.training_batch(indices, seeded())
    again, _ = maker.training_batch(indices, seeded())
    other, _ = maker.training_batch(indices, seeded(1))
    assert first.shape == (6, 1, 16, 16)
    assert labels.tolist() == [0, 0, 0, 0, 1, 0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert len(first[:4].unique(dim=0)) == 4  # one image, four crops


def test_training_batch_equals_pillow_on_its_own_boxes(ragged: Pixels) -> None:
    protocol = dataclasses.replace(smoke(), flip=0.5)
    indices = torch.tensor([0, 1, 2, 5] * 4)
    images, _ = BatchMaker(ragged, protocol, GREY_SPEC, CPU).training_batch(indices, seeded())
    boxes = crop_boxes.sample_crop_boxes(
        ragged.sizes[indices], protocol.crop_scale, protocol.crop_ratio, seeded()
    )
    num_flipped = 0
    for index, box, image in zip(indices.tolist(), boxes.tolist(), images, strict=True):
        levels = (image * 0.25 + 0.5) * 255
        plain, mirrored = (
            float(
                (levels - resize_by_pillow(original(ragged, index), tuple(box), 16, flip))
                .abs()
                .max()
            )
            for flip in (False, True)
        )
        assert min(plain, mirrored) <= 1.5
        num_flipped += mirrored < plain
    assert 0 < num_flipped < 16


@pytest.mark.parametrize(("flip", "mirrored"), [(0.0, 0), (1.0, 400), (0.3, 120)])
def test_share_of_mirrored_images_is_the_protocols(
    ragged: Pixels, flip: float, mirrored: int
) -> None:
    protocol = dataclasses.replace(
        smoke(), flip=flip, crop=20, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0)
    )
    maker = BatchMaker(ragged, protocol, GREY_SPEC, CPU)
    images, _ = maker.training_batch(torch.zeros(400, dtype=torch.int64), seeded())
    levels = ((images * 0.25 + 0.5) * 255).round()
    is_mirrored = (levels == original(ragged, 0).flip(-1)).flatten(1).all(dim=1)
    assert abs(int(is_mirrored.sum()) - mirrored) <= 4 * np.sqrt(400 * flip * (1 - flip))
