"""One optimiser step with within-pair mining: ours against separate passes and a loop over views.

python -m benchmarks.within_pair_step            # bninception, batch 32 at 227 px, 8 x 8 views
python -m benchmarks.within_pair_step --quick    # batch 8 at 96 px
python -m benchmarks.within_pair_step --compile default --quick    # also with torch.compile
python -m benchmarks.within_pair_step --ungrouped    # also with all passes at once, on a CPU
"""

import argparse
import math
import statistics
import sys
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from unittest.mock import patch
from weakref import finalize

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import wpm.model.embedding
from benchmarks.machine import find_device
from wpm.model.embedding import EmbeddingModel, build_model, freeze_batch_norm
from wpm.model.layout import place
from wpm.model.views import ViewMasks, ViewSettings
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.training.mined_step import MinedStep
from wpm.within_pair import WithinPairLoss

SHARPNESS, CHANNEL_DROPOUT, EMBEDDING_DROPOUT = 32.0, 0.1, 0.05
THRESHOLDS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)  # shares of the gradient of a step


def backward_baseline(
    model: EmbeddingModel,
    images: Tensor,
    masks: ViewMasks,
    loss_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Follow the description of the method literally: one trunk pass for each mask, view by view.

    Args:
        images: (B, C, H, W) float.
        loss_of: returns the loss of (V, B, D) views.

    Returns:
        The loss.
    """
    views = []
    for channel, embedding_masks in zip(masks.channel, masks.embedding, strict=True):
        features = model.trunk.stem(images) * channel[:, :, None, None]
        embeddings = model.embedder(model.trunk.body(features))
        views += [embeddings * mask for mask in embedding_masks]
    loss = loss_of(torch.stack(views))
    loss.backward()
    return loss.detach()


class LoopedLoss(nn.Module):
    """Contrastive loss on pairs that a loop over the views mines, in plain operations.

    Each view has a matrix of the distances between its unit-norm embeddings. The mined distance of
    a pair is the mean over the views, with weights softmax(sharpness * distance) for positives and
    softmax(-sharpness * distance) for negatives.
    """

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self._labels = labels

    def forward(self, views: Tensor) -> Tensor:
        """Return the loss of (V, B, D) views."""
        same = self._labels[:, None] == self._labels
        sign = torch.where(same, 1.0, -1.0)
        distances = [torch.cdist(unit, unit) for unit in map(_unit, views)]
        total = torch.zeros_like(distances[0])
        mined = torch.zeros_like(distances[0])
        for distance in distances:
            weight = torch.exp(SHARPNESS * sign * (distance - 1))
            total, mined = total + weight, mined + weight * distance
        mined = mined / total
        apart = torch.eye(len(same), dtype=torch.bool, device=same.device)
        losses = (torch.relu(mined[same & ~apart] - 0.1), torch.relu(0.8 - mined[~same]))
        means = [values.sum() / (values > 0).sum().clamp(min=1) for values in losses]
        return means[0] + means[1]


def _unit(view: Tensor) -> Tensor:
    return nn.functional.normalize(view, dim=1)


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of live tensors that were made inside it, each storage once.

    Attributes:
        peak: the largest number of bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._live = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and count new storages; views and in-place results have none."""
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        result = operation(*args, **(kwargs or {}))
        for storage in [tensor.untyped_storage() for tensor in _tensors(result)]:
            key = storage.data_ptr()
            if key not in given and key not in self._sizes:
                self._sizes[key] = storage.nbytes()
                self._live += storage.nbytes()
                self.peak = max(self.peak, self._live)
                finalize(storage, self._release, key)
        return result

    def _release(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def calibrate_batch_norm(model: EmbeddingModel, images: Tensor) -> None:
    """Set the running statistics to those of a batch.

    Otherwise a model with random weights maps all images to nearly the same embedding, and only the
    last layer has a gradient.

    Args:
        model: changed in place; its batch norm is in evaluation mode afterwards.
        images: (B, C, H, W) float.
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
            module.momentum = 1.0
    with torch.no_grad():
        model(images)
    freeze_batch_norm(model)


def measure_shares(model: EmbeddingModel, images: Tensor, masks: ViewMasks, loss: Any) -> Tensor:
    """Return (T * B,) shares of the gradient's norm, one for every image in every pass."""
    with torch.no_grad():
        embeddings = model.embed_passes(model.run_stem(images), masks.channel)
    embeddings.requires_grad_()
    loss(model.mask_embeddings(embeddings, masks)).backward()
    assert embeddings.grad is not None
    norms = embeddings.grad.norm(dim=2).flatten()
    shares: Tensor = norms / norms.norm().clamp(min=torch.finfo(norms.dtype).tiny)
    return shares


def main() -> None:
    """Print seconds, memory and the error of the gradient for every way, side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument(
        "--compile", choices=["default", "reduce-overhead", "max-autotune"],
        help="also time fast steps through torch.compile, in this mode",
    )  # fmt: skip
    parser.add_argument(
        "--ungrouped", action="store_true",
        help="also time fast steps with all passes in one run of the trunk, as on a GPU",
    )  # fmt: skip
    parser.add_argument(
        "--seconds", type=float, help="seconds for all steps together [40 quick, 400 full]"
    )
    args = parser.parse_args()
    device, on = find_device()
    protocol = find_protocol("mlrc", "cub200")
    classes, per_class, side = (4, 2, 96) if args.quick else (8, 4, protocol.crop)
    labels = torch.arange(classes).repeat_interleave(per_class).to(device)
    model = build_model(protocol, 3, seed=0).to(device).train()
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), 3, side, side, generator=generator).to(device)
    calibrate_batch_norm(model, images)
    # The description says nothing about memory layouts, so the baseline keeps torch's default.
    baseline, contiguous = deepcopy(model), images
    place(model, device)
    images = images.contiguous(memory_format=torch.channels_last)  # as crops are
    compiled = deepcopy(model)
    owners = {"baseline": baseline, "compiled": compiled}  # models of the ways; else `model`
    views = ViewSettings(
        protocol.trunk_passes, protocol.embedding_masks, CHANNEL_DROPOUT, EMBEDDING_DROPOUT
    )
    masks = model.sample_masks(images, views, generator)
    optimizer_of = {
        owner: torch.optim.RMSprop(
            owner.parameters(), lr=0.0, momentum=0.9
        )  # weights do not change
        for owner in (model, baseline, compiled)
    }
    mined = WithinPairLoss(ContrastiveLoss(pos_margin=0.1, neg_margin=0.8), sharpness=SHARPNESS)
    plain, looped = ContrastiveLoss(pos_margin=0.1, neg_margin=0.8), LoopedLoss(labels)

    def of_mined(views: Tensor) -> Tensor:
        return mined(views, labels)  # type: ignore[no-any-return]

    def run_plain() -> None:
        plain(model(images), labels).backward()

    step, compiled_step = (MinedStep(owner, mined, views, generator) for owner in (model, compiled))
    ways: dict[str, Callable[[], object]] = {
        "baseline": lambda: backward_baseline(baseline, contiguous, masks, looped),
        "fast": lambda: step.backward_fast(images, labels, masks),
        "low_memory": lambda: step.backward_low_memory(images, labels, masks),
        "plain": run_plain,
    }
    if args.ungrouped:

        def run_ungrouped() -> None:
            with patch.object(wpm.model.embedding, "_CPU_ELEMENTS", sys.maxsize):
                step.backward_fast(images, labels, masks)

        ways["ungrouped"] = run_ungrouped
    if args.compile:
        compiled.embed_passes = torch.compile(compiled.embed_passes, mode=args.compile)  # type: ignore[method-assign]
        ways["compiled"] = lambda: compiled_step.backward_fast(images, labels, masks)
    print(f"{on}, {torch.get_num_threads()} threads, torch {torch.__version__}, bninception, batch "
          f"{len(labels)} at {side} px, {protocol.trunk_passes} x {protocol.embedding_masks} views "
          "(plain: one pass, no views)")  # fmt: skip
    gradients: dict[str, list[Tensor]] = {}
    memory: dict[str, float] = {}
    begin = time.perf_counter()
    for name, way in ways.items():
        owner = owners.get(name, model)
        owner.zero_grad(set_to_none=True)
        if device.type == "cuda":
            before = torch.cuda.memory_allocated()
            torch.cuda.reset_peak_memory_stats()
            way()
            memory[name] = torch.cuda.max_memory_allocated() - before
        elif name == "compiled":
            way()
            memory[name] = math.nan  # LiveBytes does not see what compiled code allocates
        else:
            with LiveBytes() as counted:
                way()
            memory[name] = counted.peak
        gradients[name] = [p.grad.clone() for p in owner.parameters() if p.grad is not None]
    # Layouts round differently, about as much as float32 differs from float64. So compare gradients
    # within one layout.
    model.zero_grad(set_to_none=True)
    backward_baseline(model, images, masks, looped)
    reference = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    times: dict[str, list[float]] = {name: [] for name in ways}
    # Run rounds until another one would end too late. The calls above were the warm-up.
    end = begin + (args.seconds or (40 if args.quick else 400))
    last = time.perf_counter() - begin
    while not times["plain"] or time.perf_counter() + last < end:
        round_start = time.perf_counter()
        for name, way in ways.items():
            optimizer = optimizer_of[owners.get(name, model)]
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            way()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
        last = time.perf_counter() - round_start
    what = "peak" if device.type == "cuda" else "at once"
    for name in ways:
        median = statistics.median(times[name])
        ratio = statistics.median(
            t / b for t, b in zip(times[name], times["baseline"], strict=True)
        )
        line = (
            f"{name:10} {median:8.3f} s, {ratio:5.2f} of baseline; {memory[name] / 2**20:7.0f} MiB "
        )
        line += f"{what}, {memory[name] / memory['plain']:5.2f} of plain"
        if name not in ("baseline", "plain"):
            pairs = zip(gradients[name], reference, strict=True)
            error = max(float((g - b).norm() / b.norm()) for g, b in pairs)
            line += f"; gradient off by {error:.1e}"
        print(f"{line} (n = {len(times[name])})")
    shares = measure_shares(deepcopy(model), images, masks, of_mined)
    shares_text = ", ".join(
        f"<= {t:g}: {100 * float((shares <= t).float().mean()):.1f}%" for t in THRESHOLDS
    )
    print(
        f"images in passes by their share of the gradient's norm, sharpness {SHARPNESS:g}: "
        f"{shares_text}"
    )


if __name__ == "__main__":
    with float32_products("float32"):  # like trainings
        main()
