"""Take optimiser steps: kernel by kernel, or replayed from a CUDA graph where that is faster.

A small network's step on a fast GPU waits for the CPU, which queues hundreds of kernels one by one.
A CUDA graph queues them at once. Shapes are fixed and masks are inputs, so a step is captured after
a few real ones, and a few more of either kind decide which is faster. Every one of these steps is a
step of the training: none is taken twice and none is lost.
"""

import copy
import gc
import logging
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.optim import Optimizer

from wpm.training.mined_step import MinedStep
from wpm.training.out_of_memory import is_out_of_memory
from wpm.training.plain_step import PlainStep
from wpm.training.wait_free import BatchPairs

_log = logging.getLogger(__name__)

GRAPHS_VARIABLE = "WPM_CUDA_GRAPHS"  # "off" keeps every step eager, should a driver need it
_WARM_UP = 3  # steps, in which cuDNN, the allocator and the optimisers settle; torch's advice
_TIMED = 8  # steps of each kind that are compared
STEPS_UNTIL_GRAPH = 2 * (_WARM_UP + _TIMED) + 1  # after so many even some odd batches have passed
_WORTH_IT = 0.95  # of the eager time: a graph takes memory, so it has to be faster by a margin


class EagerSteps:
    """Takes steps kernel by kernel."""

    replays = False

    def __init__(
        self,
        step: PlainStep | MinedStep,
        optimizers: Sequence[Optimizer],
        loss_sum: Tensor,
        pairs: BatchPairs | None = None,
    ) -> None:
        """Take over what a step changes.

        Args:
            step: computes gradients.
            optimizers: apply them.
            loss_sum: scalar on the training's device to which every step adds its loss. It stays
                there, because to read it the CPU would have to wait.
            pairs: of the loss, where it was rewritten by `remove_waits`.
        """
        self.step = step
        self.optimizers = optimizers
        self.loss_sum = loss_sum
        self.pairs = pairs

    def take(self, images: Tensor, classes: Tensor, labels: Tensor) -> None:
        """Take one step.

        Args:
            images: (B, C, H, W) float.
            classes: (B,) class numbers, as the loss expects them, on the images' device.
            labels: (B,) of the same images, on the CPU.
        """
        self.list_pairs(labels, images.device)
        self.apply(self.step.backward(images, classes))

    def list_pairs(self, labels: Tensor, device: torch.device) -> None:
        """Tell the loss which pairs there are, if it does not look for them itself."""
        if self.pairs is not None:
            self.pairs.set_labels(labels, device)

    def apply(self, loss: Tensor) -> None:
        """Let the optimisers move by the gradients of a loss, and add it to the sum."""
        for optimizer in self.optimizers:
            optimizer.step()
        self.loss_sum += loss


class GraphBackend(Protocol):
    """What captures a step and times it; tests have one without a GPU."""

    def warm_up(self, step: Callable[[], None]) -> None:
        """Run a step in a way that prepares its capture."""

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without running it, and return what runs it."""

    def clock(self) -> float:
        """Wait for the device, and return the seconds of a clock."""


class CudaGraphs:
    """Captures steps as CUDA graphs that share memory, because they replay one after another."""

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()
        self._beside = torch.cuda.Stream()

    def warm_up(self, step: Callable[[], None]) -> None:
        """Run a step on a stream of its own, as captured ones are."""
        self._beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._beside):
            step()
        torch.cuda.current_stream().wait_stream(self._beside)

    def capture(self, step: Callable[[], None]) -> Callable[[], None]:
        """Record a step without running it."""
        graph = torch.cuda.CUDAGraph()
        cached = torch.is_autocast_cache_enabled()
        torch.set_autocast_cache_enabled(False)  # its copies of weights would not be refreshed
        try:
            # Page-locked memory that another thread allocates must not break the capture.
            with (
                _garbage_waits(),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                step()
        finally:
            torch.set_autocast_cache_enabled(cached)
        replay: Callable[[], None] = graph.replay
        return replay

    def clock(self) -> float:
        """Wait for the GPU, and return the seconds of a clock."""
        torch.cuda.synchronize()
        return time.perf_counter()


@contextmanager
def _garbage_waits() -> Iterator[None]:
    """Collect garbage now, and none meanwhile.

    An earlier training is garbage until it is collected, and so are its graphs. To destroy one
    while another is captured breaks the capture.
    """
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class BatchShape(NamedTuple):
    """The usual batch: so many different classes, so many images of each, class after class."""

    classes: int
    images_per_class: int


class GraphedSteps:
    """Takes steps kernel by kernel first, then replays a captured one if that is faster.

    Where the loss reads lists of pairs, a batch that holds a class twice has other lists than the
    captured step, and stays eager.
    """

    def __init__(self, eager: EagerSteps, backend: GraphBackend, shape: BatchShape) -> None:
        """Begin with eager steps.

        Args:
            eager: the reference, and what remains where no graph can be captured.
            backend: captures and times.
            shape: of the usual batch.
        """
        self._eager = eager
        self._backend = backend
        self._shape = shape
        self._warm_steps = 0
        self._eager_s: list[float] = []
        self._graph_s: list[float] = []
        self._replay: Callable[[], None] | None = None
        self._inputs: tuple[Tensor, ...] = ()
        self._decided = False

    @property
    def replays(self) -> bool:
        """Whether it was found that replaying is faster."""
        return self._decided and self._replay is not None

    def take(self, images: Tensor, classes: Tensor, labels: Tensor) -> None:
        """Take one step.

        Args:
            images: (B, C, H, W) float.
            classes: (B,) class numbers, as the loss expects them, on the images' device.
            labels: (B,) of the same images, on the CPU.
        """
        batch = images, classes, labels
        if not self._is_usual(labels) or (self._decided and self._replay is None):
            self._take_eagerly(*batch)
        elif self._decided:
            self._take_replayed(*batch)
        elif self._warm_steps < _WARM_UP:
            self._warm_steps += 1
            self._backend.warm_up(lambda: self._eager.take(*batch))
        elif len(self._eager_s) < _TIMED:
            self._eager_s.append(self._time(lambda: self._eager.take(*batch)))
        elif self._replay is None and not self._capture(*batch):
            self._take_eagerly(*batch)
        else:
            self._graph_s.append(self._time(lambda: self._take_replayed(*batch)))
            self._decide()

    def _is_usual(self, labels: Tensor) -> bool:
        if self._eager.pairs is None:
            return True
        classes = labels.view(self._shape)
        repeats = classes.shape[0] > len(classes[:, 0].unique())
        return not repeats and bool((classes == classes[:, :1]).all())

    def _time(self, step: Callable[[], None]) -> float:
        start = self._backend.clock()
        step()
        return self._backend.clock() - start

    def _decide(self) -> None:
        """Keep the faster kind, once both have been timed often enough."""
        if len(self._graph_s) < _TIMED:
            return
        eager, graph = statistics.median(self._eager_s), statistics.median(self._graph_s)
        self._decided = True
        kept = graph <= _WORTH_IT * eager
        if not kept:
            self._drop_graph()
        _log.info(
            "a step takes %.2f ms, replayed from a CUDA graph %.2f ms: %s",
            1000 * eager, 1000 * graph, "replaying" if kept else "staying without the graph",
        )  # fmt: skip

    def _capture(self, images: Tensor, classes: Tensor, labels: Tensor) -> bool:
        """Capture a step over inputs that stay where they are; return whether that worked."""
        eager = self._eager
        eager.list_pairs(labels, images.device)
        inputs = (images.clone(), classes.clone(), *eager.step.peek(images))

        def step() -> None:
            eager.apply(eager.step.compute(inputs[0], inputs[1], inputs[2:]))

        try:
            self._replay = self._backend.capture(step)
        except RuntimeError as error:
            self._decided = True
            _log.warning("no CUDA graph of a step (%s); steps stay eager", _first_line(error))
            return False
        self._inputs = inputs
        return True

    def _take_replayed(self, images: Tensor, classes: Tensor, labels: Tensor) -> None:
        assert self._replay is not None
        drawn = self._eager.step.draw(images)
        for own, value in zip(self._inputs, (images, classes, *drawn), strict=True):
            own.copy_(value)
        self._replay()

    def _take_eagerly(self, images: Tensor, classes: Tensor, labels: Tensor) -> None:
        """Take an eager step; where the graph's memory is lacking for it, give up the graph."""
        try:
            self._eager.take(images, classes, labels)
            return
        except RuntimeError as error:
            if self._replay is None or not is_out_of_memory(error):
                raise
            _log.warning("memory is short, so steps stay eager from here on")
        self._drop_graph()
        self._decided = True
        torch.cuda.empty_cache()
        self._eager.take(images, classes, labels)

    def _drop_graph(self) -> None:
        self._replay = None
        self._inputs = ()


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def has_fixed_shapes(loss: nn.Module, outputs: Sequence[int], labels: Tensor) -> bool:
    """Whether a loss and its gradient ask nothing about values, and depend on no shape of theirs.

    It is called with tensors that have a shape and no values, so it has to answer.

    Args:
        loss: of the row; it stays as it is.
        outputs: shape of what it is called with.
        labels: (B,) of the usual batch.
    """
    loss = copy.deepcopy(loss).cpu()
    pairs = next((module for module in loss.modules() if isinstance(module, BatchPairs)), None)
    if pairs is not None:
        pairs.set_labels(labels, torch.device("cpu"))
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    own = {
        name: mode.from_tensor(value).requires_grad_(value.requires_grad)
        for name, value in [*loss.named_parameters(), *loss.named_buffers()]
    }
    try:
        with mode:
            shapes = torch.empty(tuple(outputs)).requires_grad_()
            functional_call(loss, own, (shapes, mode.from_tensor(labels))).backward()
    except Exception as error:  # whatever stops a tensor without values would stop a capture
        _log.info("no CUDA graph for this loss: %s", _first_line(error))
        return False
    return True


def find_backend(device: torch.device) -> GraphBackend | None:
    """Return what captures steps on a device; None on a CPU, or where graphs are switched off."""
    if device.type != "cuda" or os.environ.get(GRAPHS_VARIABLE, "").lower() == "off":
        return None
    return CudaGraphs()
