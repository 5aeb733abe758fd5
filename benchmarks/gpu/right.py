"""Stage `right`: what the device computes is what the CPU computes."""

import copy
import dataclasses
import io
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

import wpm.data.pixels
from benchmarks.gpu.captured import make_backward, make_losses
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.setup import (
    NEG_MARGIN,
    POS_MARGIN,
    Batch,
    make_batch,
    make_patterned_cache,
    make_photograph_cache,
    share_of_memory,
    view_settings,
)
from benchmarks.transform_tolerance import crop_by_pillow
from benchmarks.within_pair_step import SHARPNESS, backward_baseline
from wpm.data.crop_boxes import sample_crop_boxes
from wpm.data.crops import crop_at_once, crop_images
from wpm.data.pixels import Pixels
from wpm.model.layout import choose_layout
from wpm.model.views import ViewMasks
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.retrieval import RetrievalScores, retrieval_scores
from wpm.rows import Row
from wpm.training.config import TrainingConfig
from wpm.training.mined_step import MinedStep
from wpm.training.plain_step import PlainStep
from wpm.training.training import Training
from wpm.within_pair import WithinPairLoss

GRADIENT_LIMIT = 0.02  # of a tensor's norm; float32 in two memory layouts is apart by 6e-3
LEVELS_LIMIT = 1.5  # grey levels of 255, as `wpm.data.crops` promises
SCORES_LIMIT = 1e-6  # by matrix products, where nothing ties
TRAINED_LIMIT = 0.05  # MAP@R after three epochs, whose steps round differently
EPOCHS = 3
Crop = Callable[[Tensor, Tensor, int, Tensor], Tensor]
Failure = Callable[[], AbstractContextManager[object]]


def run(stage: Stage) -> None:
    """Check in the order in which a fault would do most harm."""
    stage.each(
        {
            "gradients": lambda: check_gradients(stage),
            "retrieval": lambda: check_retrieval(stage),
            "crops": lambda: check_crops(stage),
            "training": lambda: check_training(stage),
            "out of memory": lambda: check_out_of_memory(stage),
        }
    )


# Gradients


def check_gradients(stage: Stage) -> None:
    """Compare every kind of step with the description's loop in float64 on the CPU."""
    protocol = small_batch(stage)
    batch = make_batch(protocol, stage.device)
    plain, mined = library_losses()
    right = exact_gradients(protocol)
    step = MinedStep(batch.model, mined, view_settings(protocol), torch.Generator())
    given = batch.images, batch.classes
    ways: dict[str, tuple[str, Callable[[], object]]] = {
        "plain": ("plain", lambda: PlainStep(batch.model, plain).backward(*given)),
        "mined, fast": ("mined", lambda: step.backward_fast(*given, batch.masks)),
        "mined, low memory": ("mined", lambda: step.backward_low_memory(*given, batch.masks)),
    }
    fixed = make_losses(POS_MARGIN, NEG_MARGIN, SHARPNESS, batch.classes)
    for kind, masks in {"plain": None, "mined": batch.masks}.items():
        backward = make_backward(batch.model, fixed[kind], *given, masks)
        ways[f"{kind}, fixed shapes"] = kind, backward
    for precision in ("float32", "tf32"):
        if precision == "tf32" and stage.device.type == "cpu":
            stage.skip("gradients", "a CPU has no tf32", precision=precision)
            continue
        for name, (kind, way) in ways.items():
            with stage.attempt(f"gradients: {name}"), float32_products(precision):
                record_error(stage, name, gradients_of(batch, way), right[kind], precision)
    if choose_layout(stage.device, "float32") == torch.contiguous_format:
        measure_avoided_layout(stage, batch, plain, right["plain"])


def measure_avoided_layout(
    stage: Stage, batch: Batch, loss: ContrastiveLoss, right: list[Tensor]
) -> None:
    """Record what float32 would give in channels last, which trainings avoid on this device.

    Once with torch's padded average pool and once with images that are padded before a pool without
    padding: what differs between the two is the pool's fault. The model stays in that layout.
    """
    batch.model.lay_out(torch.channels_last)
    step = PlainStep(batch.model, loss)
    pools = {"": avg_pool2d, ", padded before its pools": _pool_after_padding}
    for how, pool in pools.items():
        name = f"plain, channels last{how}"
        with (
            stage.attempt(f"gradients: {name}"),
            float32_products("float32"),
            patch.object(torch.nn.functional, "avg_pool2d", pool),
        ):
            found = gradients_of(batch, lambda: step.backward(batch.images, batch.classes))
            record_error(stage, name, found, right, "float32", is_judged=False)


def _pool_after_padding(
    images: Tensor, kernel: int, stride: int, padding: int, *, count_include_pad: bool
) -> Tensor:
    assert count_include_pad, "the padding counts, so it can be added before"
    return avg_pool2d(pad(images, (padding,) * 4), kernel, stride)


def small_batch(stage: Stage) -> Protocol:
    """Return a protocol of which float64 on the CPU takes seconds."""
    passes = 2 if stage.quick else 3
    protocol = dataclasses.replace(stage.protocol(), trunk_passes=passes, embedding_masks=2)
    if stage.quick:
        return protocol
    return dataclasses.replace(protocol, classes_per_batch=4, images_per_class=2)


def library_losses() -> tuple[ContrastiveLoss, WithinPairLoss]:
    """Return the loss of plain steps, and that of mined ones."""
    plain = ContrastiveLoss(pos_margin=POS_MARGIN, neg_margin=NEG_MARGIN)
    return plain, WithinPairLoss(copy.deepcopy(plain), sharpness=SHARPNESS)


def exact_gradients(protocol: Protocol) -> dict[str, list[Tensor]]:
    """Return the gradients of a plain step and of the description's loop, in float64 on the CPU."""
    exact = _in_float64(make_batch(protocol, torch.device("cpu")))
    plain, mined = library_losses()

    def loss_of(views: Tensor) -> Tensor:
        loss: Tensor = mined(views, exact.classes)
        return loss

    return {
        "plain": gradients_of(
            exact, lambda: plain(exact.model(exact.images), exact.classes).backward()
        ),
        "mined": gradients_of(
            exact, lambda: backward_baseline(exact.model, exact.images, exact.masks, loss_of)
        ),
    }


def _in_float64(batch: Batch) -> Batch:
    masks = ViewMasks(batch.masks.channel.double(), batch.masks.embedding.double())
    return Batch(batch.model.double(), batch.images.double(), batch.classes, masks)


def gradients_of(batch: Batch, backward: Callable[[], object]) -> list[Tensor]:
    """Return copies of all gradients after a backward pass, in float64 on the CPU."""
    batch.model.zero_grad(set_to_none=True)
    backward()
    return read_gradients(batch)


def read_gradients(batch: Batch) -> list[Tensor]:
    """Return copies of all gradients, in float64 on the CPU."""
    return [
        torch.zeros(p.shape, dtype=torch.float64) if p.grad is None else p.grad.cpu().double()
        for p in batch.model.parameters()
    ]


def record_error(
    stage: Stage,
    name: str,
    found: list[Tensor],
    right: list[Tensor],
    precision: str,
    *,
    is_judged: bool = True,
) -> None:
    """Record how far gradients are from the right ones, all together and in the worst tensor."""
    apart = [float((f - r).norm()) for f, r in zip(found, right, strict=True)]
    norms = [float(r.norm()) for r in right]
    assert min(norms) > 0, "a tensor that nothing is known about"
    worst = max(a / n for a, n in zip(apart, norms, strict=True))
    whole = (sum(a**2 for a in apart) / sum(n**2 for n in norms)) ** 0.5
    # tf32 is only measured.
    limit = GRADIENT_LIMIT if is_judged and precision == "float32" else None
    unit = "of the norm"
    stage.record(f"gradients: {name}, all", whole, unit, precision=precision, limit=limit)
    stage.record(f"gradients: {name}, worst tensor", worst, unit, precision=precision, limit=limit)


# Crops


def check_crops(stage: Stage) -> None:
    """Compare random crops of every way that a device has with Pillow's, while tf32 is on."""
    count = 16 if stage.quick else 64
    protocol = stage.protocol()
    generator = torch.Generator().manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, float32_products("tf32"):
        pixels = make_photograph_cache(Path(folder), protocol, count)
        indices = torch.arange(len(pixels))
        sizes = pixels.sizes[indices]
        boxes = sample_crop_boxes(sizes, protocol.crop_scale, protocol.crop_ratio, generator)
        flipped = torch.rand(len(indices), generator=generator) < protocol.flip
        pillow = torch.stack(
            [
                crop_by_pillow(
                    pixels.image(number).permute(2, 0, 1), tuple(box), protocol.crop, flip
                )
                for number, box, flip in zip(
                    indices.tolist(), boxes.tolist(), flipped.tolist(), strict=True
                )
            ]
        )
        for name, crop in _ways_to_crop(pixels, stage.device).items():
            with stage.attempt(f"crops: {name}"):
                found = crop(indices, boxes, protocol.crop, flipped).cpu().float()
                apart = float((found - pillow).abs().max())
                stage.record(f"crops: {name}", apart, "grey levels", limit=LEVELS_LIMIT)


def _ways_to_crop(pixels: Pixels, device: torch.device) -> dict[str, Crop]:
    resident, staged = "all at once, resident", "all at once, staged"

    def by_the_product(indices: Tensor, boxes: Tensor, size: int, flipped: Tensor) -> Tensor:
        return crop_images(pixels, indices, boxes, size, flipped, device)

    def from_host_memory(indices: Tensor, boxes: Tensor, size: int, flipped: Tensor) -> Tensor:
        with patch.object(wpm.data.pixels, "RESIDENT_SHARE", 0.0):
            other = Pixels(pixels.folder)
            return crop_images(other, indices, boxes, size, flipped, device)

    if device.type == "cuda":
        return {resident: by_the_product, staged: from_host_memory}

    def at_once(held: Tensor | None) -> Crop:
        return lambda indices, boxes, size, flipped: crop_at_once(
            pixels, held, indices, boxes, size, flipped, device
        )

    return {"one by one": by_the_product, resident: at_once(pixels.bytes), staged: at_once(None)}


# Retrieval


def check_retrieval(stage: Stage) -> None:
    """Compare scores with those of plain sorting in float64; ties must lie between both orders."""
    generator = torch.Generator().manual_seed(0)
    images, classes = (300, 12) if stage.quick else (3000, 60)
    labels = torch.arange(images).remainder(classes)
    scattered = torch.randn(images, 64, generator=generator)
    scattered += torch.randn(classes, 64, generator=generator)[labels]
    found = retrieval_scores(scattered.to(stage.device), labels.to(stage.device))
    right = sorted_scores(scattered, labels, first="own class")
    stage.record("retrieval without ties", _apart(found, right), "fraction", limit=SCORES_LIMIT)
    # Coordinates of +-1/4 are exact, so that equal similarities are equal on every device.
    tied = torch.randint(2, (images, 16), generator=generator) * 2.0 - 1
    found = retrieval_scores(tied.to(stage.device), labels.to(stage.device))
    best = sorted_scores(tied, labels, first="own class")
    worst = sorted_scores(tied, labels, first="other class")
    outside = max(
        max(f - b, w - f)
        for f, b, w in zip(
            dataclasses.astuple(found), dataclasses.astuple(best), dataclasses.astuple(worst),
            strict=True,
        )
    )  # fmt: skip
    note = "outside of what an order of the ties can give"
    stage.record("retrieval with ties", max(outside, 0.0), "fraction", limit=1e-9, note=note)


def _apart(found: RetrievalScores, right: RetrievalScores) -> float:
    pairs = zip(dataclasses.astuple(found), dataclasses.astuple(right), strict=True)
    return float(max(abs(f - r) for f, r in pairs))


def sorted_scores(embeddings: Tensor, labels: Tensor, *, first: str) -> RetrievalScores:
    """Score by sorting all references of a query, in float64 on the CPU.

    Args:
        embeddings: (N, D) embeddings.
        labels: (N,) labels.
        first: which come first among references that tie: "own class" or "other class".
    """
    unit = torch.nn.functional.normalize(embeddings.double(), dim=1)
    similarity = unit @ unit.T
    same = labels[:, None] == labels
    totals = torch.zeros(3, dtype=torch.float64)
    for query in range(len(labels)):
        others = torch.arange(len(labels)) != query
        hit = same[query][others]
        order = hit if first == "own class" else ~hit
        by_class = order.int().argsort(descending=True, stable=True)
        by_similarity = similarity[query][others][by_class].argsort(descending=True, stable=True)
        ranked = hit[by_class][by_similarity].double()
        relevant = int(hit.sum())
        within = ranked[:relevant]
        precision = within.cumsum(dim=0) / torch.arange(1, relevant + 1)
        totals += torch.stack(
            [ranked[0], within.sum() / relevant, (precision * within).sum() / relevant]
        )
    return RetrievalScores(*(totals / len(labels)).tolist())


# Training


def check_training(stage: Stage) -> None:
    """Train three epochs on the device and on the CPU; and again, resumed from a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        protocol = _short_protocol(4 if stage.quick else 20)
        pixels = make_patterned_cache(Path(folder), protocol.resize)
        for row in ("contrastive", "contrastive+wpm"):
            config = make_config(Row.parse(row), protocol)
            expected = train(Training(config, pixels, torch.device("cpu")))
            stage.record(f"{row}: MAP@R of 3 epochs on the CPU", expected, "fraction")
            uncut = train(Training(config, pixels, stage.device))
            stage.record(
                f"{row}: MAP@R of 3 epochs, from the CPU's", abs(uncut - expected), "fraction",
                limit=TRAINED_LIMIT,
            )  # fmt: skip
            resumed = train(resume_after(config, pixels, stage.device, epochs=EPOCHS - 1))
            stage.record(
                f"{row}: MAP@R when resumed, from that when not", abs(resumed - uncut), "fraction",
                limit=TRAINED_LIMIT,
            )  # fmt: skip


def _short_protocol(steps: int) -> Protocol:
    return dataclasses.replace(
        find_protocol("small", "folder"), iterations_per_epoch=steps, max_epochs=EPOCHS
    )


def make_config(row: Row, protocol: Protocol) -> TrainingConfig:
    """Return a configuration of two folds with margins and thresholds of a good trial."""
    parameters = {
        "pos_margin": POS_MARGIN,
        "neg_margin": NEG_MARGIN,
        "channel_dropout": 0.1,
        "embedding_dropout": 0.05,
        "sharpness": SHARPNESS,
    }
    return TrainingConfig(row, protocol, parameters, seed=0, folds=(0, 1))


def train(training: Training) -> float:
    """Train to the end; return the folds' mean of the last MAP@R, not of the best."""
    report = None
    while not training.finished:
        report = training.run_epoch() or report
    assert report is not None
    return sum(fold.map_at_r for fold in report.folds) / len(report.folds)


def resume_after(
    config: TrainingConfig, pixels: Pixels, device: torch.device, epochs: int
) -> Training:
    """Train some epochs, and return another training that read the checkpoint of the first."""
    interrupted = Training(config, pixels, device)
    for _ in range(epochs):
        interrupted.run_epoch()
    buffer = io.BytesIO()
    torch.save(interrupted.state_dict(), buffer)
    buffer.seek(0)
    resumed = Training(config, pixels, device)
    resumed.load_state_dict(torch.load(buffer, map_location="cpu", weights_only=True))
    assert resumed.epoch == epochs
    return resumed


# Out of memory


def check_out_of_memory(stage: Stage) -> None:
    """See a step that does not fit be taken in low memory, with the same gradient."""
    is_tight = stage.quick and stage.device.type == "cpu"
    protocol = small_batch(stage) if is_tight else stage.protocol()
    batch = make_batch(protocol, stage.device)
    loss = WithinPairLoss(ContrastiveLoss(pos_margin=POS_MARGIN, neg_margin=NEG_MARGIN))
    step = MinedStep(batch.model, loss, view_settings(protocol), torch.Generator())
    given = batch.images, batch.classes

    def take() -> list[Tensor]:
        drawn = torch.Generator().manual_seed(0)
        again = MinedStep(batch.model, loss, view_settings(protocol), drawn)
        found = gradients_of(batch, lambda: again.backward(*given))
        modes.append(again.mode)
        return found

    modes: list[str] = []
    with float32_products("float32"):
        roomy = take()
        failures = _failures(stage, step, batch)
        for name, make_tight in failures.items():
            with stage.attempt(f"out of memory: {name}"):
                with make_tight():
                    tight = take()
                fell_back = (modes[0], modes[-1]) == ("fast", "low_memory")
                apart = max(
                    float((t - r).norm() / r.norm()) for t, r in zip(tight, roomy, strict=True)
                )
                stage.record(
                    f"out of memory: {name}", apart if fell_back else float("nan"), "of the norm",
                    precision="float32", limit=GRADIENT_LIMIT,
                    note="" if fell_back else f"mode {modes[-1]}, expected low_memory",
                )  # fmt: skip


def _failures(
    stage: Stage, step: MinedStep, batch: Batch
) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    """Return contexts in which a fast step does not fit: planted on a CPU, real on a GPU."""
    given = batch.images, batch.classes, batch.masks
    planted: dict[str, Failure] = {
        "an error of torch, planted": lambda: _plant(torch.OutOfMemoryError("out of memory")),
        "an error of cuDNN, planted": lambda: _plant(
            RuntimeError("GET was unable to find an engine to execute this computation")
        ),
    }
    if stage.device.type == "cpu":
        return planted
    peaks = []
    for way in (step.backward_low_memory, step.backward_fast):
        batch.model.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        way(*given)
        peaks.append(torch.cuda.max_memory_reserved())
    batch.model.zero_grad(set_to_none=True)
    fraction = sum(peaks) / 2 / torch.cuda.get_device_properties().total_memory
    return {"a cap between both ways": lambda: share_of_memory(fraction), **planted}


def _plant(error: RuntimeError) -> AbstractContextManager[object]:
    return patch.object(MinedStep, "backward_fast", side_effect=error)
