"""Stage `graphs`: steps captured as CUDA graphs, by the parts that trainings use.

A stage of its own, since a capture that fails may leave a process without a usable GPU.
"""

import copy
import dataclasses
from collections.abc import Callable
from functools import partial

import torch

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
from benchmarks.gpu.trials import measure_captured_folds
from benchmarks.within_pair_step import SHARPNESS
from wpm.model.layout import choose_layout
from wpm.model.views import ViewSettings
from wpm.precision import float32_products
from wpm.reports import LOW_MEMORY
from wpm.training.mined_step import MinedStep

PLAIN_GRAPH, MINED_GRAPH = "plain, CUDA graph", "mined, CUDA graph"
LOW_MEMORY_GRAPH = "mined, low memory, CUDA graph"
_KINDS = {PLAIN_GRAPH: "plain", MINED_GRAPH: "mined", LOW_MEMORY_GRAPH: LOW_MEMORY}
_LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def run(stage: Stage) -> None:
    """Check the gradients of captured steps, then time steps in every precision, then folds."""
    if stage.device.type == "cpu":
        for name in _KINDS:
            stage.skip(name, "CUDA graphs need a GPU")
        measure_captured_folds(stage)  # says the same of itself
        return
    with stage.attempt("gradients"):
        check_gradients(stage)
    for precision in ("float32", "tf32", "bf16"):
        with float32_products(precision), stage.attempt("a batch", precision=precision):
            batch = make_batch(stage.protocol(precision), stage.device)
            for name, kind in _KINDS.items():
                with stage.attempt(name, precision=precision):
                    measure_captured(stage, name, kind, batch, precision)
            layout, other = _other_layout(stage.device, precision)
            batch.model.lay_out(other)
            for name in (PLAIN_GRAPH, MINED_GRAPH):
                what = f"{name}, {layout}"
                with stage.attempt(what, precision=precision):
                    measure_captured(stage, what, _KINDS[name], batch, precision)
    measure_captured_folds(stage)  # last: it once ended the process


def _other_layout(device: torch.device, precision: str) -> tuple[str, torch.memory_format]:
    """Return the layout that trainings do not use on a device, and its name."""
    chosen = choose_layout(device, precision)
    return next((name, each) for name, each in _LAYOUTS.items() if each != chosen)


def check_gradients(stage: Stage) -> None:
    """Compare the gradients that a replay leaves with those in float64 on the CPU."""
    protocol = small_batch(stage)
    right, batch = exact_gradients(protocol), make_batch(protocol, stage.device)
    with float32_products("float32"):
        for name, kind in _KINDS.items():
            with stage.attempt(f"gradients: {name}"):
                own = dataclasses.replace(batch, model=copy.deepcopy(batch.model))
                capture(own, kind, with_optimizer=False)()
                record_error(stage, name, read_gradients(own), right[_way(kind)], "float32")


def capture(batch: Batch, kind: str, *, with_optimizer: bool) -> CapturedStep:
    """Return a captured step of a batch's model: "plain", "mined" or `LOW_MEMORY`."""
    loss = make_losses(POS_MARGIN, NEG_MARGIN, SHARPNESS, batch.classes)[_way(kind)]
    masks = None if kind == "plain" else batch.masks
    backward: Callable[[], object]
    if kind == LOW_MEMORY:
        # Its masks are given, so the views' settings and the generator go unused.
        settings = ViewSettings(1, 1, 0.0, 0.0)
        step = MinedStep(batch.model, loss, settings, torch.Generator())
        backward = partial(step.backward_low_memory, batch.images, batch.classes, batch.masks)
    else:
        backward = make_backward(batch.model, loss, batch.images, batch.classes, masks)
    optimizer = make_capturable_optimizer(batch.model, lr=0.0) if with_optimizer else None
    return CapturedStep(batch.model, backward, optimizer)


def _way(kind: str) -> str:
    return "plain" if kind == "plain" else "mined"


def measure_captured(stage: Stage, name: str, kind: str, batch: Batch, precision: str) -> None:
    """Record seconds, memory and launches; the masks are those of one batch, again and again."""

    def build() -> CapturedStep:
        own = dataclasses.replace(batch, model=copy.deepcopy(batch.model))
        return capture(own, kind, with_optimizer=True)

    measure_way(stage, name, build, precision, owns_memory=True)
