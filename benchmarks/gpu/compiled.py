"""Stage `compile`: steps through torch.compile, which may take minutes to begin."""

import copy
import dataclasses
import time

import torch
from pytorch_metric_learning.losses import ContrastiveLoss

from benchmarks.folds import make_optimizer
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.setup import NEG_MARGIN, POS_MARGIN, make_batch, view_settings
from benchmarks.gpu.steps import Step, time_step
from benchmarks.within_pair_step import SHARPNESS
from wpm.model.embedding import EmbeddingModel
from wpm.precision import float32_products
from wpm.training.mined_step import MinedStep
from wpm.training.plain_step import PlainStep
from wpm.within_pair import WithinPairLoss


def run(stage: Stage) -> None:
    """Compile trunk and embedder of a plain step, then of a mined one."""
    for precision in ("float32", "bf16"):
        for kind in ("plain", "mined"):
            what = f"{kind}, torch.compile"
            if stage.device.type == "cpu" and precision == "bf16":
                stage.skip(what, "on a CPU float32 is enough to see that it runs")
                continue
            if stage.seconds_left < 15:
                stage.skip(what, "no time left", precision=precision)
                continue
            with stage.attempt(what, precision=precision), float32_products(precision):
                measure_compiled(stage, kind, what, precision)


def measure_compiled(stage: Stage, kind: str, what: str, precision: str) -> None:
    """Record seconds of a step, and of the first one, in which torch compiles."""
    protocol = stage.protocol(precision)
    if stage.device.type == "cpu" and stage.quick:
        # A compiler needs minutes for the published trunk on two cores.
        protocol = dataclasses.replace(protocol, trunk="convnet")
    batch = make_batch(protocol, stage.device)
    model = copy.deepcopy(batch.model)
    loss = ContrastiveLoss(pos_margin=POS_MARGIN, neg_margin=NEG_MARGIN)
    optimizer = make_optimizer(list(model.parameters()))
    gradient: PlainStep | MinedStep
    if kind == "plain":
        gradient = PlainStep(_compile_forward(model), loss)
    else:
        model.embed_passes = torch.compile(model.embed_passes)  # type: ignore[method-assign]
        gradient = MinedStep(
            model, WithinPairLoss(loss, sharpness=SHARPNESS), view_settings(protocol),
            torch.Generator().manual_seed(0),
        )  # fmt: skip

    def take() -> None:
        gradient.backward(batch.images, batch.classes)
        optimizer.step()

    step: Step = take
    start = time.perf_counter()
    step()
    stage.synchronize()
    stage.record(
        f"{what}, the first step", time.perf_counter() - start, "s", precision=precision,
        note=protocol.trunk,
    )  # fmt: skip
    step()
    median, n = time_step(stage, step, seconds=0.3 if stage.quick else 2.0)
    stage.record(what, median, "s", precision=precision, n=n, note=protocol.trunk)


def _compile_forward(model: EmbeddingModel) -> EmbeddingModel:
    model.forward = torch.compile(model.forward)  # type: ignore[method-assign]
    return model
