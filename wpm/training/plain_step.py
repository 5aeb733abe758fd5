"""One step's gradient without within-pair mining."""

from torch import Tensor, nn

from wpm.model.embedding import EmbeddingModel
from wpm.reports import PLAIN
from wpm.training.loss_gradient import backward_to_outputs


class PlainStep:
    """Computes the gradient of a batch from one embedding per image."""

    mode = PLAIN

    def __init__(self, model: EmbeddingModel, loss: nn.Module) -> None:
        self._model = model
        self._loss = loss

    def backward(self, images: Tensor, classes: Tensor) -> Tensor:
        """Replace all gradients by those of a batch.

        Args:
            images: (B, C, H, W) float.
            classes: (B,) class numbers, as the loss expects them.

        Returns:
            The loss, a scalar without a graph.
        """
        return self.compute(images, classes, ())

    def draw(self, images: Tensor) -> tuple[()]:
        """Return what a step draws at random beside the images: nothing."""
        return ()

    peek = draw

    def compute(self, images: Tensor, classes: Tensor, drawn: tuple[()]) -> Tensor:
        """Do what `backward` does, given what `draw` returned."""
        self._model.zero_grad(set_to_none=True)
        self._loss.zero_grad(set_to_none=True)
        embeddings = self._model(images)
        loss, gradient = backward_to_outputs(self._loss, embeddings, classes)
        embeddings.backward(gradient)
        return loss
