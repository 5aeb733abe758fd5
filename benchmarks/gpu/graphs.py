"""Stage `graphs`: steps captured as CUDA graphs, by the prototype of `benchmarks.gpu.captured`.

A stage of its own, since a capture that fails may leave a process without a usable GPU.
"""

import copy
import dataclasses

from benchmarks.gpu.captured import (
    CapturedStep,
    make_backward,
    make_capturable_optimizer,
    make_losses,
)
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.right import exact_gradients, read_gradients, record_error, small_batch
from benchmarks.gpu.setup import NEG_MARGIN, POS_MARGIN, Batch, make_batch
from benchmarks.gpu.steps import measure_way
from benchmarks.within_pair_step import SHARPNESS
from wpm.precision import float32_products

PLAIN_GRAPH, MINED_GRAPH = "plain, CUDA graph", "mined, CUDA graph"
LOW_MEMORY_GRAPH = "mined, low memory, CUDA graph"
_KINDS = {PLAIN_GRAPH: "plain", MINED_GRAPH: "mined"}


def run(stage: Stage) -> None:
    """Check the gradients of captured steps, then time them in every precision."""
    stage.skip(LOW_MEMORY_GRAPH, "it asks the GPU which images have no gradient")
    if stage.device.type == "cpu":
        for name in _KINDS:
            stage.skip(name, "CUDA graphs need a GPU")
        return
    with stage.attempt("gradients"):
        check_gradients(stage)
    for precision in ("float32", "tf32", "bf16"):
        with float32_products(precision), stage.attempt("a batch", precision=precision):
            batch = make_batch(stage.protocol(precision), stage.device)
            for name, kind in _KINDS.items():
                with stage.attempt(name, precision=precision):
                    measure_captured(stage, name, kind, batch, precision)


def check_gradients(stage: Stage) -> None:
    """Compare the gradients that a replay leaves with those in float64 on the CPU."""
    protocol = small_batch(stage)
    right, batch = exact_gradients(protocol), make_batch(protocol, stage.device)
    with float32_products("float32"):
        for name, kind in _KINDS.items():
            with stage.attempt(f"gradients: {name}"):
                own = dataclasses.replace(batch, model=copy.deepcopy(batch.model))
                capture(own, kind, with_optimizer=False)()
                record_error(stage, name, read_gradients(own), right[kind], "float32")


def capture(batch: Batch, kind: str, *, with_optimizer: bool) -> CapturedStep:
    """Return a captured step of a batch's model: "plain" or "mined"."""
    loss = make_losses(POS_MARGIN, NEG_MARGIN, SHARPNESS)[kind]
    masks = batch.masks if kind == "mined" else None
    backward = make_backward(batch.model, loss, batch.images, batch.classes, masks)
    optimizer = make_capturable_optimizer(batch.model, lr=0.0) if with_optimizer else None
    return CapturedStep(batch.model, backward, optimizer)


def measure_captured(stage: Stage, name: str, kind: str, batch: Batch, precision: str) -> None:
    """Record seconds, memory and launches; the masks are those of one batch, again and again."""

    def build() -> CapturedStep:
        own = dataclasses.replace(batch, model=copy.deepcopy(batch.model))
        return capture(own, kind, with_optimizer=True)

    measure_way(stage, name, build, precision, owns_memory=True)
