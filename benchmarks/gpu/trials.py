"""Stage `folds`: folds on one device, and trials per GPU-hour of processes that share it."""

import dataclasses
import gc
from collections.abc import Sequence

import torch
from torch.cuda import Stream

from benchmarks.folds import FOLDS, Step, TrialProcesses, make_models, on_streams, one_after_another
from benchmarks.folds import make_images as make_fold_images
from benchmarks.gpu.captured import (
    CapturedStep,
    make_backward,
    make_capturable_optimizer,
    make_losses,
)
from benchmarks.gpu.figures import Stage
from benchmarks.gpu.setup import NEG_MARGIN, POS_MARGIN
from benchmarks.gpu.steps import time_step
from benchmarks.within_pair_step import SHARPNESS
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol

EPOCHS = 40  # of a trial, as `benchmarks.table_cost` assumes
MOBILENET = "mobilenet_v1_0.25"
_COUNTS = (1, 2, 4, 8)
_START_S = 30.0  # without which no more processes are started


def run(stage: Stage) -> None:
    """Measure folds in one process, then processes; the published trunk and plain trials first."""
    measure_folds(stage)
    gc.collect()
    if stage.device.type == "cuda":
        torch.cuda.empty_cache()  # the folds' memory is the processes' now
    # On a CPU, where figures mean little, one plain and one mined trial show that all of it runs.
    is_enough = stage.quick and stage.device.type == "cpu"
    for mined in (False, True):
        for protocol in (stage.protocol(), small_protocol(stage)):
            if is_enough and mined != (protocol.trunk == MOBILENET):
                continue
            measure_trials(stage, protocol, mined=mined)


def small_protocol(stage: Stage) -> Protocol:
    """Return the published protocol with a small network on images of 96 px."""
    protocol = dataclasses.replace(stage.protocol(), trunk=MOBILENET)
    return protocol if stage.quick else dataclasses.replace(protocol, resize=110, crop=96)


def measure_folds(stage: Stage) -> None:
    """Record a plain step of all four folds, whose kernels are queued one by one."""
    ways = {"one after another": one_after_another, "on streams": on_streams}
    with float32_products("float32"):
        for name, make in ways.items():
            what = f"four folds, {name}"
            if stage.device.type == "cpu" and name == "on streams":
                stage.skip(what, "streams need a GPU", precision="float32")
                continue
            with stage.attempt(what, precision="float32"):
                _record_step(stage, what, make(stage.protocol(), stage.device))


def measure_captured_folds(stage: Stage) -> None:
    """Record a plain step of all four folds, each captured as a graph."""
    captured = {"captured, one after another": False, "captured, on streams": True}
    with float32_products("float32"):
        for name, at_once in captured.items():
            what = f"four folds, {name}"
            if stage.device.type == "cpu":
                stage.skip(what, "CUDA graphs need a GPU", precision="float32")
                continue
            with stage.attempt(what, precision="float32"):
                step = captured_folds(stage.protocol(), stage.device, at_once=at_once)
                _record_step(stage, what, step)


def _record_step(stage: Stage, what: str, step: Step) -> None:
    step()
    median, n = time_step(stage, step, seconds=0.3 if stage.quick else 3.0)
    stage.record(what, median, "s", precision="float32", n=n)


def captured_folds(protocol: Protocol, device: torch.device, *, at_once: bool) -> Step:
    """Return a step of all folds, each replayed as a graph: in turn, or each on its stream."""
    images, classes = make_fold_images(protocol, device)
    graphs = []
    for model, batch in zip(make_models(protocol, device), images, strict=True):
        loss = make_losses(POS_MARGIN, NEG_MARGIN, SHARPNESS, classes)["plain"]
        backward = make_backward(model, loss, batch, classes, None)
        graphs.append(CapturedStep(model, backward, make_capturable_optimizer(model, lr=1e-6)))
    streams = [Stream(device) if at_once else torch.cuda.current_stream() for _ in graphs]

    def step() -> None:
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph()
        torch.cuda.synchronize()

    return step


def measure_trials(stage: Stage, protocol: Protocol, *, mined: bool) -> None:
    """Record the trials per GPU-hour of 1, 2, 4 and 8 processes on one device."""
    kind = "mined" if mined else "plain"
    what = f"{kind} trials, {protocol.trunk}"
    counts = list(_COUNTS[:2] if stage.device.type == "cpu" else _COUNTS)
    if stage.quick and stage.device.type == "cpu":
        # To see that it runs: processes of a small trunk start sooner and take little memory.
        protocol = dataclasses.replace(
            find_protocol("smoke", "folder"), trunk=protocol.trunk, crop=48, resize=48
        )
    if stage.seconds_left < _START_S:
        stage.skip(what, "no time left", precision="float32")
        return
    while counts and stage.seconds_left > _START_S:
        try:
            measure_counts(stage, what, protocol, counts, mined=mined)
            return
        except RuntimeError as error:  # as many may not fit the memory: try with fewer
            stage.fail(f"{what}, {counts[-1]} at once", error, precision="float32")
            counts.pop()


def measure_counts(
    stage: Stage, what: str, protocol: Protocol, counts: Sequence[int], *, mined: bool
) -> None:
    """Record the trials an hour of some numbers of processes, which are all started at first.

    Raises:
        RuntimeError: a process ended, or has not answered in time.
    """
    processes = TrialProcesses(
        protocol, stage.device, counts[-1], mined=mined, start_s=stage.seconds_left - 5
    )
    with processes as trials:
        for count in counts:
            rate = trials.rate(count, seconds=0.5 if stage.quick else 3.0)
            # A step of the benchmark is a step of all folds of a trial.
            hourly = 3600 * rate / (EPOCHS * protocol.iterations_per_epoch)
            stage.record(
                f"{what}, {count} at once", hourly, "trials an hour", precision="float32",
                note=f"{EPOCHS} epochs of {protocol.iterations_per_epoch} steps, {FOLDS} folds",
            )  # fmt: skip
