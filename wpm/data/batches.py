"""Make batches: choose images by class, then crop, flip and normalise them for the trunk."""

import torch
from torch import Tensor

from wpm.data.crop_boxes import centre_crop_boxes, sample_crop_boxes
from wpm.data.crops import InputSpec, crop_images, normalise_pixels, to_device
from wpm.data.pixels import Pixels
from wpm.errors import UserError
from wpm.protocols import Protocol


class ClassBalancedSampler:
    """Deals batches of `classes_per_batch` classes with `images_per_class` images each.

    Classes come from a shuffled deck of all of them, and a new deck is shuffled where the old one
    ends, as in the sampler of pytorch-metric-learning. So every class is trained on equally often
    within an epoch. A batch that takes the end of one deck and the beginning of the next may hold
    a class twice; one of few classes holds each of them several times.
    """

    def __init__(
        self,
        labels: Tensor,
        candidates: Tensor,
        *,
        classes_per_batch: int,
        images_per_class: int,
        generator: torch.Generator,
    ) -> None:
        """Group the candidates by class.

        Args:
            labels: (N,) label of every image of the set.
            candidates: (M,) positions of the images to draw from.
            classes_per_batch: cards that a batch takes from the deck.
            images_per_class: images of each; drawn with replacement only where a class has fewer.
            generator: source of randomness, on the CPU.

        Raises:
            UserError: there are no candidates.
        """
        if len(candidates) == 0:
            raise UserError("no images to train on: the fold's training classes are empty")
        # Sort once: searching all images for every class takes minutes with 8,488 classes.
        found, order = labels[candidates].sort(stable=True)
        counts = found.unique_consecutive(return_counts=True)[1]
        self._members = candidates[order].split(counts.tolist())
        self._classes_per_batch = classes_per_batch
        self._images_per_class = images_per_class
        self._generator = generator
        # (at most C,) classes that are left of the deck, numbered as in `_members`. Together with
        # the generator it is all that the next batch depends on.
        self.deck = torch.empty(0, dtype=torch.int64)

    def draw(self) -> Tensor:
        """Return (B,) positions of the next batch, class after class."""
        while len(self.deck) < self._classes_per_batch:
            shuffled = torch.randperm(len(self._members), generator=self._generator)
            self.deck = torch.cat([self.deck, shuffled])
        chosen, self.deck = self.deck.tensor_split([self._classes_per_batch])
        return torch.cat([self._draw_members(self._members[i]) for i in chosen.tolist()])

    def _draw_members(self, members: Tensor) -> Tensor:
        count, generator = self._images_per_class, self._generator
        if len(members) >= count:
            return members[torch.randperm(len(members), generator=generator)[:count]]
        return members[torch.randint(len(members), (count,), generator=generator)]


class BatchMaker:
    """Turns positions in a pixel cache into the trunk's input, on the device that trains."""

    def __init__(
        self, pixels: Pixels, protocol: Protocol, spec: InputSpec, device: torch.device
    ) -> None:
        self._pixels = pixels
        self._protocol = protocol
        self._spec = spec
        self._device = device

    def training_batch(self, indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Crop and flip at random.

        Args:
            indices: (B,) positions in the pixel cache.
            generator: source of randomness, on the CPU.

        Returns:
            (B, C, crop, crop) float images and (B,) labels.
        """
        protocol = self._protocol
        boxes = sample_crop_boxes(
            self._pixels.sizes[indices], protocol.crop_scale, protocol.crop_ratio, generator
        )
        flipped = torch.rand(len(indices), generator=generator) < protocol.flip
        return self._finish(indices, boxes, flipped)

    def evaluation_batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Crop the centre.

        Args:
            indices: (B,) positions in the pixel cache.

        Returns:
            (B, C, crop, crop) float images and (B,) labels.
        """
        boxes = centre_crop_boxes(self._pixels.sizes[indices], self._protocol.crop)
        return self._finish_unflipped(indices, boxes)

    def _finish_unflipped(self, indices: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        return self._finish(indices, boxes, torch.zeros(len(indices), dtype=torch.bool))

    def _finish(self, indices: Tensor, boxes: Tensor, flipped: Tensor) -> tuple[Tensor, Tensor]:
        crop = self._protocol.crop
        images = crop_images(self._pixels, indices, boxes, crop, flipped, self._device)
        labels = to_device(self._pixels.labels[indices], self._device)
        return normalise_pixels(images, self._spec), labels
