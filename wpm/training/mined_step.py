"""One step's gradient with within-pair mining: all trunk passes at once, or one after another.

Both ways give the same gradient. "fast" runs all T passes as one forward over T x B images and
keeps their activations for one backward. "low_memory" keeps the activations of one pass at a time:
it embeds every pass without a graph, takes the gradient with respect to the T x B embeddings,
which is small, and runs each pass again with the same masks to send its part of that gradient
through the trunk. That is two forwards, for the memory of a plain step.

References:
    Gao, Zhang, Han, Callan: Scaling Deep Contrastive Learning Batch Size under Memory Limited
    Setup, RepL4NLP 2021 (gradient caching).
"""

import torch
from torch import Tensor, nn

from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks, ViewSettings
from wpm.reports import FAST, LOW_MEMORY
from wpm.training.loss_gradient import backward_to_outputs
from wpm.training.out_of_memory import is_out_of_memory


class MinedStep:
    """Computes the gradient of a batch from stochastic views of its images.

    Attributes:
        model: trunk and embedder.
        loss: of the views.
        mode: "fast" until a step does not fit the GPU's memory, "low_memory" from then on.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        loss: nn.Module,
        views: ViewSettings,
        generator: torch.Generator,
    ) -> None:
        """Start in the fast mode.

        Args:
            model: trunk and embedder; the gradient goes to its parameters.
            loss: called with (V, B, D) views and (B,) classes; the gradient goes to its own
                parameters as well, where it has any.
            views: how many views there are and how much they differ.
            generator: source of the masks.
        """
        self.mode = FAST
        self.model = model
        self.loss = loss
        self._views = views
        self._generator = generator

    def backward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Replace all gradients by those of a batch.

        Args:
            images: (B, C, H, W) float.
            classes: (B,) class numbers, as the loss expects them.

        Returns:
            The loss, a scalar without a graph.
        """
        drawn = self.draw(images)
        if self.mode == FAST:
            try:
                return self.compute(images, classes, drawn)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The next batch is as large, so the mode stays. This batch is tried again below,
                # outside of this block: within it the traceback keeps activations alive.
                self.mode = LOW_MEMORY
            self._clear_gradients()
            torch.cuda.empty_cache()  # other trials on this GPU can use what the attempt had taken
        return self.compute(images, classes, drawn)

    def draw(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Draw the masks of a batch, see `ViewMasks`."""
        masks = self.model.sample_masks(images, self._views, self._generator)
        return masks.channel, masks.embedding

    def peek(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what `draw` will return next, and leave it to be drawn."""
        state = self._generator.get_state()
        drawn = self.draw(images)
        self._generator.set_state(state)
        return drawn

    def compute(self, images: Tensor, classes: Tensor, drawn: tuple[Tensor, Tensor]) -> Tensor:
        """Do what `backward` does, given what `draw` returned, in the present mode."""
        masks = ViewMasks(*drawn)
        if self.mode == FAST:
            return self.backward_fast(images, classes, masks)
        return self.backward_low_memory(images, classes, masks)

    def backward_fast(self, images: Tensor, classes: Tensor, masks: ViewMasks) -> Tensor:
        """Do what `backward` does under given masks, all trunk passes at once."""
        self._clear_gradients()
        views = self.model.make_views(images, masks)
        loss, gradient = backward_to_outputs(self.loss, views, classes)
        views.backward(gradient)
        return loss

    def backward_low_memory(self, images: Tensor, classes: Tensor, masks: ViewMasks) -> Tensor:
        """Do what `backward` does under given masks, with the activations of one pass at a time.

        Every image takes part in every second run, even one whose gradient is zero: to find such
        images the CPU would have to wait for the GPU, and in practice there are none
        (benchmarks/gradient_shares.py).
        """
        self._clear_gradients()
        model = self.model
        stem = model.run_stem(images)
        features = stem.detach().requires_grad_()
        with torch.no_grad():
            passes = [model.embed_passes(features, channel[None]) for channel in masks.channel]
        embeddings = torch.cat(passes).requires_grad_()
        views = model.mask_embeddings(embeddings, masks)
        loss, gradient_of_views = backward_to_outputs(self.loss, views, classes)
        views.backward(gradient_of_views)
        assert embeddings.grad is not None
        for channel, gradient in zip(masks.channel, embeddings.grad, strict=True):
            model.embed_passes(features, channel[None]).backward(gradient[None])
        stem.backward(features.grad)
        return loss

    def _clear_gradients(self) -> None:
        self.model.zero_grad(set_to_none=True)
        self.loss.zero_grad(set_to_none=True)
