"""How many trunk passes could skip their backward pass: shares of the gradient in a real training.

python -m benchmarks.gradient_shares --dataset omniglot --data-root DIR

Trains `contrastive+wpm` on fold 0. Every `--every` steps it measures the share that each image in
each pass has of the gradient's norm (at the embeddings), how many shares are at most a threshold,
and how wrong the gradient of the weights would be without these images.
"""

import argparse
import dataclasses
import statistics
from collections import defaultdict
from collections.abc import Callable
from unittest.mock import patch

import torch
from torch import Tensor

from benchmarks.image_data import add_image_flags, open_trainval
from benchmarks.machine import find_device
from benchmarks.views import PARAMETERS
from wpm.model.embedding import EmbeddingModel
from wpm.model.views import ViewMasks
from wpm.protocol_files import find_protocol
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.mined_step import MinedStep
from wpm.training.training import Training

THRESHOLDS = (0.0, 1e-6, 1e-4, 1e-3, 1e-2)
# By threshold: percent of the images in passes, percent of the passes, and a relative error.
Shares = dict[float, list[tuple[float, float, float]]]


def flatten_gradient(model: EmbeddingModel) -> Tensor:
    """Return the gradient of all weights as one vector."""
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def measure(
    step: MinedStep, images: Tensor, classes: Tensor, masks: ViewMasks
) -> dict[float, tuple[float, float, float]]:
    """Measure one batch; afterwards the weights have no gradient, as before.

    Args:
        images: (B, C, H, W) float.
        classes: (B,) class numbers.

    Returns:
        By threshold: percent of the images in passes at or below it, percent of the passes at or
        below it, and the relative error of the weights' gradient without these images in passes.
    """
    model = step.model
    with torch.no_grad():
        embeddings = model.embed_passes(model.run_stem(images), masks.channel)
    embeddings.requires_grad_()
    loss = step.loss(model.mask_embeddings(embeddings, masks), classes)
    (gradient,) = torch.autograd.grad(loss, embeddings)
    total = gradient.norm().clamp(min=torch.finfo(gradient.dtype).tiny)
    of_images = gradient.norm(dim=2) / total
    of_passes = gradient.flatten(1).norm(dim=1) / total

    def backward(gradient: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        model.embed_passes(model.run_stem(images), masks.channel).backward(gradient)
        return flatten_gradient(model)

    exact = backward(gradient)
    found = {}
    for threshold in THRESHOLDS:
        without = backward(gradient * (of_images > threshold)[:, :, None])
        error = (without - exact).norm() / exact.norm().clamp(min=torch.finfo(exact.dtype).tiny)
        small = [100 * float((of <= threshold).float().mean()) for of in (of_images, of_passes)]
        found[threshold] = (small[0], small[1], float(error))
    model.zero_grad(set_to_none=True)
    return found


def watch(found: Shares, every: int) -> Callable[..., Tensor]:
    """Return a `MinedStep.backward_fast` that also measures every `every` steps."""
    steps, backward_fast = 0, MinedStep.backward_fast

    def backward(step: MinedStep, images: Tensor, classes: Tensor, masks: ViewMasks) -> Tensor:
        nonlocal steps
        if steps % every == 0:
            for threshold, values in measure(step, images, classes, masks).items():
                found[threshold].append(values)
        steps += 1
        return backward_fast(step, images, classes, masks)

    return backward


def main() -> None:
    """Print a line for each epoch and threshold."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    add_image_flags(parser)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--every", type=int, default=5, help="steps between measurements [5]")
    parser.add_argument("--passes", type=int, default=8, help="trunk passes T [8]")
    parser.add_argument("--sharpness", type=float, default=PARAMETERS["sharpness"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    protocol = dataclasses.replace(
        find_protocol("small", args.dataset), max_epochs=args.epochs, trunk_passes=args.passes
    )
    parameters = {**PARAMETERS, "sharpness": args.sharpness}
    config = TrainingConfig(Row("contrastive", "wpm"), protocol, parameters, 0, (0,))
    training = Training(config, open_trainval(args, protocol), find_device()[0])
    print(f"{protocol.trunk_passes} x {protocol.embedding_masks} views, sharpness "
          f"{args.sharpness:g}, {protocol.iterations_per_epoch} steps in an epoch\n"
          "epoch  share <=  images in passes        passes  error of the gradient (largest)"
          )  # fmt: skip
    while not training.finished:
        found: Shares = defaultdict(list)
        with patch.object(MinedStep, "backward_fast", watch(found, args.every)):
            training.run_epoch()
        for threshold, values in found.items():
            images, passes, errors = zip(*values, strict=True)
            print(f"{training.epoch:>5}  {threshold:>8g}  {statistics.mean(images):>15.1f}%"
                  f"  {statistics.mean(passes):>11.1f}%  {statistics.mean(errors):.1e} "
                  f"({max(errors):.1e}, n = {len(errors)})", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
