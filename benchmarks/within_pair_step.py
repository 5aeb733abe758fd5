"""One optimiser step with within-pair mining: ours against separate passes and a loop over views.

python -m benchmarks.within_pair_step            # bninception, batch 32 at 227 px, 8 x 8 views
python -m benchmarks.within_pair_step --quick    # batch 8 at 96 px
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from copy import deepcopy
from typing import Any
from weakref import finalize

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from wpm.config import find_protocol
from wpm.model import EmbeddingModel, ViewMasks, build_model, freeze_batch_norm
from wpm.steps import backward_fast, backward_low_memory
from wpm.within_pair import WithinPairLoss

SHARPNESS, CHANNEL_DROPOUT, EMBEDDING_DROPOUT = 32.0, 0.1, 0.05
THRESHOLDS = (0.0, 1e-8, 1e-6, 1e-4, 1e-2)  # shares of a step's gradient


def backward_baseline(
    model: EmbeddingModel,
    images: Tensor,
    masks: ViewMasks,
    loss_of: Callable[[Tensor], Tensor],
) -> Tensor:
    """Do what the method's description says, word by word: a trunk pass a mask, a view at a time.

    Args:
        model: trunk and embedder.
        images: (B, C, H, W) float.
        masks: of the batch.
        loss_of: from (V, B, D) views to a scalar.

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
    """Contrastive loss on pairs mined by a loop over the views, in plain operations.

    The matrix of a view holds the distances of its unit-norm embeddings; of a pair the views are
    averaged with weights softmax(sharpness * distance) for positives, of the negated distance for
    negatives.
    """

    def __init__(self, labels: Tensor) -> None:
        super().__init__()
        self._labels = labels

    def forward(self, views: Tensor) -> Tensor:
        """(V, B, D) views to the loss."""
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


class SavedBytes(saved_tensors_hooks):
    """Counts what autograd keeps for the backward pass, each storage once; `peak` in bytes."""

    def __init__(self, ignored: nn.Module | None = None) -> None:
        """Start at zero.

        Args:
            ignored: module whose parameters, kept anyway, do not count.
        """
        self.live = self.peak = 0
        self._users: dict[int, int] = {}
        own = [] if ignored is None else list(ignored.parameters())
        self._ignored = {p.untyped_storage().data_ptr() for p in own}
        super().__init__(self._pack, lambda held: held.tensor)

    def __enter__(self) -> "SavedBytes":  # type: ignore[override]
        super().__enter__()
        return self

    def _pack(self, tensor: Tensor) -> "_Held":
        held = _Held(tensor)
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if key not in self._ignored:
            if self._users.get(key, 0) == 0:
                self.live += size
                self.peak = max(self.peak, self.live)
            self._users[key] = self._users.get(key, 0) + 1
            finalize(held, self._release, key, size)
        return held

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if self._users[key] == 0:
            self.live -= size


class _Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def measure_shares(model: EmbeddingModel, images: Tensor, masks: ViewMasks, loss: Any) -> Tensor:
    """Return (T * B,) shares of the gradient's norm: of every image in every pass."""
    with torch.no_grad():
        embeddings = model.embed_passes(model.run_stem(images), masks.channel)
    embeddings.requires_grad_()
    loss(model.mask_embeddings(embeddings, masks)).backward()
    assert embeddings.grad is not None
    norms = embeddings.grad.norm(dim=2).flatten()
    shares: Tensor = norms / norms.norm().clamp(min=torch.finfo(norms.dtype).tiny)
    return shares


def main() -> None:
    """Print seconds, memory and the gradient's error of every way, side by side."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, help="to spend on timing [40 quick, 300 full]")
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    protocol = find_protocol("mlrc", "cub200")
    classes, per_class, side = (4, 2, 96) if args.quick else (8, 4, protocol.crop)
    labels = torch.arange(classes).repeat_interleave(per_class).to(device)
    model = build_model(protocol, 3, seed=0).to(device).to(memory_format=torch.channels_last)
    model.train()
    freeze_batch_norm(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(len(labels), 3, side, side, generator=generator).to(device)
    images = images.contiguous(memory_format=torch.channels_last)
    masks = model.sample_masks(
        images, trunk_passes=protocol.trunk_passes, embedding_masks=protocol.embedding_masks,
        channel_dropout=CHANNEL_DROPOUT, embedding_dropout=EMBEDDING_DROPOUT, generator=generator,
    )  # fmt: skip
    optimizer = torch.optim.RMSprop(model.parameters(), lr=0.0, momentum=0.9)  # weights stay
    mined = WithinPairLoss(ContrastiveLoss(pos_margin=0.1, neg_margin=0.8), sharpness=SHARPNESS)
    plain, looped = ContrastiveLoss(pos_margin=0.1, neg_margin=0.8), LoopedLoss(labels)

    def of_mined(views: Tensor) -> Tensor:
        return mined(views, labels)  # type: ignore[no-any-return]

    def run_plain() -> None:
        plain(model(images), labels).backward()

    ways: dict[str, Callable[[], object]] = {
        "baseline": lambda: backward_baseline(model, images, masks, looped),
        "fast": lambda: backward_fast(model, images, masks, of_mined),
        "low_memory": lambda: backward_low_memory(model, images, masks, of_mined),
        "plain": run_plain,
    }
    on = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    print(f"{on}, {torch.get_num_threads()} threads, torch {torch.__version__}, bninception, batch "
          f"{len(labels)} at {side} px, {protocol.trunk_passes} x {protocol.embedding_masks} views "
          "(plain: one pass, no views)")  # fmt: skip
    gradients, memory = {}, {}
    for name, way in ways.items():
        optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            way()
            memory[name] = torch.cuda.max_memory_allocated()
        else:
            with SavedBytes(model) as saved:
                way()
            memory[name] = saved.peak
        gradients[name] = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    times: dict[str, list[float]] = {name: [] for name in ways}
    end = time.perf_counter() + (args.seconds or (40 if args.quick else 300))
    while time.perf_counter() < end or len(times["plain"]) < 2:
        for name, way in ways.items():
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            way()
            optimizer.step()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times[name].append(time.perf_counter() - start)
    scale = max(float(g.abs().max()) for g in gradients["baseline"])
    what = "peak of the GPU" if device.type == "cuda" else "kept for backward"
    for name in ways:
        median = statistics.median(times[name])
        ratio = statistics.median(
            t / b for t, b in zip(times[name], times["baseline"], strict=True)
        )
        line = (
            f"{name:10} {median:8.3f} s, {ratio:5.2f} of baseline; {memory[name] / 2**20:7.0f} MiB "
        )
        line += f"{what}, {memory[name] / memory['plain']:5.2f} of plain"
        if name in ("fast", "low_memory"):
            pairs = zip(gradients[name], gradients["baseline"], strict=True)
            error = max(float((g - b).abs().max()) for g, b in pairs) / scale
            line += f"; gradient off by {error:.1e}"
        print(f"{line} (n = {len(times[name])})")
    shares = measure_shares(deepcopy(model), images, masks, of_mined)
    told = ", ".join(
        f"<= {t:g}: {100 * float((shares <= t).float().mean()):.1f}%" for t in THRESHOLDS
    )
    print(
        f"images in passes by their share of the gradient's norm, sharpness {SHARPNESS:g}: {told}"
    )


if __name__ == "__main__":
    main()
