"""Steps captured as CUDA graphs by the parts that trainings use, over one batch again and again."""

from collections.abc import Callable

from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.optim import Optimizer, RMSprop

from wpm.losses import PlainLoss
from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks
from wpm.training.loss_gradient import backward_to_outputs
from wpm.training.steps import CudaGraphs
from wpm.training.wait_free import remove_waits
from wpm.within_pair import WithinPairLoss

_WARM_UP = 3  # steps, in which cuDNN and the allocator settle; torch's advice


def make_losses(
    pos_margin: float, neg_margin: float, sharpness: float, classes: Tensor
) -> dict[str, nn.Module]:
    """Return the losses of plain and mined steps, rewritten as a training on a GPU has them.

    Args:
        pos_margin: distance below which a positive pair costs nothing.
        neg_margin: distance above which a negative pair costs nothing.
        sharpness: of mining.
        classes: (B,) of the only batch, on its device.
    """
    losses: dict[str, nn.Module] = {
        "plain": PlainLoss(ContrastiveLoss(pos_margin=pos_margin, neg_margin=neg_margin)),
        "mined": WithinPairLoss(
            ContrastiveLoss(pos_margin=pos_margin, neg_margin=neg_margin), sharpness=sharpness
        ),
    }
    for loss in losses.values():
        pairs = remove_waits(loss)
        assert pairs is not None
        pairs.set_labels(classes.cpu(), classes.device)
    return losses


def make_capturable_optimizer(model: nn.Module, lr: float) -> Optimizer:
    """Return the published protocol's optimiser, with step counters on the GPU."""
    parameters = list(model.parameters())
    return RMSprop(parameters, lr=lr, weight_decay=1e-4, momentum=0.9, capturable=True)


def make_backward(
    model: EmbeddingModel, loss: nn.Module, images: Tensor, classes: Tensor, masks: ViewMasks | None
) -> Callable[[], Tensor]:
    """Return a function that computes all gradients anew, over inputs that stay where they are.

    Args:
        model: trunk and embedder.
        loss: one of `make_losses`.
        images: (B, C, H, W) float.
        classes: (B,) class numbers.
        masks: of a mined step, None for a plain one.
    """

    def backward() -> Tensor:
        outputs = model(images) if masks is None else model.make_views(images, masks)
        value, gradient = backward_to_outputs(loss, outputs, classes)
        outputs.backward(gradient)
        return value

    return backward


class CapturedStep:
    """Backward pass and optimiser step, captured once and replayed at every call.

    The gradients are those of the last replay, in tensors that belong to the graph.
    """

    def __init__(
        self, model: nn.Module, backward: Callable[[], object], optimizer: Optimizer | None
    ) -> None:
        """Take a few real steps on a stream beside, then capture one without running it.

        Args:
            model: whose gradients `backward` computes.
            backward: asks the GPU nothing, and has no shape that depends on data.
            optimizer: capturable; None to capture the backward pass alone.
        """

        def step() -> None:
            backward()
            if optimizer is not None:
                optimizer.step()

        # A graph holds the addresses of weights and moments, not the tensors: without them a replay
        # reads memory that was given back, and the process may end by a segmentation fault.
        self._held = backward, optimizer
        graphs = CudaGraphs()
        for _ in range(_WARM_UP):
            model.zero_grad(set_to_none=True)
            graphs.warm_up(step)
        model.zero_grad(set_to_none=True)  # so that the graph owns the gradients it writes
        self._replay = graphs.capture(step)

    def __call__(self) -> None:
        """Replay the step."""
        self._replay()
