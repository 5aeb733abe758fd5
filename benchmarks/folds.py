"""Four folds or several trials on one device: in turn, fused, on streams, or in processes.

python -m benchmarks.folds            # bninception, batch 32 at 227 px
python -m benchmarks.folds --quick    # convnet at 24 px, under a minute on two cores
"""

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Self

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks.machine import find_device
from benchmarks.within_pair_step import CHANNEL_DROPOUT, EMBEDDING_DROPOUT, SHARPNESS
from wpm.cpus import count_cpus
from wpm.model.embedding import EmbeddingModel, build_model, freeze_batch_norm
from wpm.model.layout import place
from wpm.model.views import ViewSettings
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.training.mined_step import MinedStep
from wpm.training.plain_step import PlainStep
from wpm.within_pair import WithinPairLoss

FOLDS = 4
START_S = 180.0  # for a process to import torch, build its models and take a first step
Step = Callable[[], None]


class FusedFolds(nn.Module):
    """The models of all folds as one: stacked parameters, one vectorised forward pass (`vmap`).

    The convolutions of F models over F batches become one convolution in F groups.

    Args:
        models: models of the same shape.
    """

    def __init__(self, models: Sequence[EmbeddingModel]) -> None:
        super().__init__()
        stacked, self._buffers_of = stack_module_state(list(models))
        self._names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(value) for value in stacked.values()])
        skeleton = deepcopy(models[0]).to("meta")
        skeleton.layout = None  # vmap cannot tell how images lie in memory: they stay as they are

        def forward_one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
        ) -> Tensor:
            return functional_call(skeleton, (parameters, buffers), (images,))  # type: ignore[no-any-return]

        self._forward = torch.vmap(forward_one)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (F, B, C, H, W) images into (F, B, D) embeddings, fold by fold."""
        parameters = dict(zip(self._names, self.stacked, strict=True))
        embeddings: Tensor = self._forward(parameters, self._buffers_of, images)
        return embeddings


def make_models(protocol: Protocol, device: torch.device) -> list[EmbeddingModel]:
    """Build one model for each fold, as a training does."""
    models = []
    for fold in range(FOLDS):
        model = place(build_model(protocol, 3, seed=fold), device)
        model.train()
        freeze_batch_norm(model)
        models.append(model)
    return models


def make_optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """Return RMSprop as in the published protocol. It works element by element, stacked or not."""
    return torch.optim.RMSprop(parameters, lr=1e-6, weight_decay=1e-4, momentum=0.9)


def make_images(protocol: Protocol, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (F, B, 3, H, W) noise and the (B,) labels of an 8 x 4 batch.

    The batch of a fold has its channels last in memory, as a training's has.
    """
    generator = torch.Generator().manual_seed(0)
    size = (FOLDS, protocol.batch_size(), 3, protocol.crop, protocol.crop)
    images = torch.randn(size, generator=generator).permute(0, 1, 3, 4, 2).contiguous()
    labels = torch.arange(protocol.classes_per_batch).repeat_interleave(protocol.images_per_class)
    return images.to(device).permute(0, 1, 4, 2, 3), labels.to(device)


def make_step(model: EmbeddingModel, protocol: Protocol, *, mined: bool) -> PlainStep | MinedStep:
    """Return what computes a fold's gradient: contrastive, with or without mining."""
    loss = ContrastiveLoss(pos_margin=0.1, neg_margin=0.8)
    if not mined:
        return PlainStep(model, loss)
    views = ViewSettings(
        protocol.trunk_passes, protocol.embedding_masks, CHANNEL_DROPOUT, EMBEDDING_DROPOUT
    )
    generator = torch.Generator().manual_seed(0)
    return MinedStep(model, WithinPairLoss(loss, sharpness=SHARPNESS), views, generator)


def one_after_another(protocol: Protocol, device: torch.device, *, mined: bool = False) -> Step:
    """Return a function that steps the folds one after another, as `wpm.training` does."""
    models = make_models(protocol, device)
    steps = [make_step(model, protocol, mined=mined) for model in models]
    optimizers = [make_optimizer(list(model.parameters())) for model in models]
    images, labels = make_images(protocol, device)

    def step() -> None:
        for fold, optimizer, batch in zip(steps, optimizers, images, strict=True):
            fold.backward(batch, labels)
            optimizer.step()

    return step


def fused(protocol: Protocol, device: torch.device) -> Step:
    """Return a function that steps all folds at once."""
    model, loss = FusedFolds(make_models(protocol, device)), ContrastiveLoss()
    optimizer = make_optimizer(list(model.stacked))
    images, labels = make_images(protocol, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # Pair losses select pairs by value. vmap cannot trace that, so every fold has its own loss.
        torch.stack([loss(embeddings, labels) for embeddings in model(images)]).sum().backward()
        optimizer.step()

    return step


def on_streams(protocol: Protocol, device: torch.device) -> Step:
    """Return a function that queues the step of each fold on its own CUDA stream."""
    models, loss = make_models(protocol, device), ContrastiveLoss()
    optimizers = [make_optimizer(list(model.parameters())) for model in models]
    images, labels = make_images(protocol, device)
    streams = [torch.cuda.Stream(device) for _ in models]

    def step() -> None:
        for model, optimizer, batch, stream in zip(
            models, optimizers, images, streams, strict=True
        ):
            with torch.cuda.stream(stream):
                optimizer.zero_grad(set_to_none=True)
                loss(model(batch), labels).backward()
                optimizer.step()
        torch.cuda.synchronize(device)

    return step


def graphed(protocol: Protocol, device: torch.device) -> Step:
    """Return a function that steps the folds in turn, with forward and backward as CUDA graphs."""
    models, loss = make_models(protocol, device), ContrastiveLoss()
    images, labels = make_images(protocol, device)
    replayed = torch.cuda.make_graphed_callables(tuple(models), tuple((batch,) for batch in images))
    optimizers = [make_optimizer(list(model.parameters())) for model in models]

    def step() -> None:
        for model, optimizer, batch in zip(replayed, optimizers, images, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss(model(batch), labels).backward()
            optimizer.step()

    return step


def measure(step: Step, device: torch.device, seconds: float) -> float:
    """Return the median seconds of a step, after two warm-up steps."""
    times: list[float] = []
    end = float("inf")
    while len(times) < 5 or time.perf_counter() < end:
        start = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
        if len(times) == 2:
            end = time.perf_counter() + seconds
    return statistics.median(times[2:])


def _work(
    protocol: Protocol, device: str, threads: int, mined: bool, connection: Connection
) -> None:
    """Take steps of one trial whenever asked, in a process of its own; answer with their rate."""
    torch.set_num_threads(threads)
    with float32_products(protocol.precision):
        step = one_after_another(protocol, torch.device(device), mined=mined)
        step()
        connection.send(0.0)
        while seconds := _next_order(connection):
            begin, count = time.perf_counter(), 0
            while time.perf_counter() - begin < seconds:
                step()
                if device == "cuda":
                    torch.cuda.synchronize()
                count += 1
            connection.send(count / (time.perf_counter() - begin))


def _next_order(connection: Connection) -> float:
    """Return how many seconds to work next; 0 when nobody asks any more."""
    try:
        return float(connection.recv())
    except EOFError:
        return 0.0


class TrialProcesses:
    """Processes that each train a trial, of which any number can be asked to work at once."""

    def __init__(
        self,
        protocol: Protocol,
        device: torch.device,
        processes: int,
        threads: int = 1,
        *,
        mined: bool = False,
        start_s: float = START_S,
    ) -> None:
        """Start the processes, and wait until each has taken a step.

        Args:
            protocol: trunk, batch and precision.
            device: where all of them train.
            processes: how many there are.
            threads: torch's in each.
            mined: whether steps mine within pairs.
            start_s: seconds that the processes have for their start.

        Raises:
            RuntimeError: a process ended, or has not answered in time.
        """
        context = multiprocessing.get_context("spawn")
        self._workers: list[BaseProcess] = []
        self._connections: list[Connection] = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            arguments = (protocol, device.type, threads, mined, theirs)
            worker = context.Process(target=_work, args=arguments, daemon=True)
            worker.start()
            theirs.close()  # so that the end of the process is noticed here
            self._workers.append(worker)
            self._connections.append(ours)
        try:
            self._collect(processes, start_s)
        except BaseException:
            self.close()
            raise

    def rate(self, active: int, seconds: float) -> float:
        """Return the trial steps a second of some of the processes together; the others wait.

        Raises:
            RuntimeError: a process ended, or has not answered in time.
        """
        for connection in self._connections[:active]:
            connection.send(seconds)
        return sum(self._collect(active, 2 * seconds + START_S / 2))

    def _collect(self, active: int, timeout_s: float) -> list[float]:
        end = time.monotonic() + timeout_s
        answers = []
        for number, connection in enumerate(self._connections[:active], start=1):
            which = f"process {number} of {len(self._workers)}"
            if not connection.poll(max(0.0, end - time.monotonic())):
                raise RuntimeError(f"{which} has not answered within {timeout_s:.0f} s")
            try:
                answers.append(float(connection.recv()))
            except EOFError:
                worker = self._workers[number - 1]
                worker.join(timeout=5)
                raise RuntimeError(f"{which} ended with code {worker.exitcode}") from None
        return answers

    def close(self) -> None:
        """End the processes."""
        for worker, connection in zip(self._workers, self._connections, strict=True):
            connection.close()
            worker.terminate()
        for worker in self._workers:
            worker.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def measure_processes(
    protocol: Protocol, device: torch.device, processes: int, threads: int, seconds: float
) -> float:
    """Return the trial steps a second of several processes together."""
    with TrialProcesses(protocol, device, processes, threads) as trials:
        return trials.rate(processes, seconds)


def main() -> None:
    """Print the seconds for a step of all folds, and the rate of several processes, with ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    device, on = find_device()
    protocol = find_protocol("small" if args.quick else "mlrc", "cub200")
    cores = count_cpus()
    print(f"{on}, {cores} cores, {torch.get_num_threads()} threads, torch {torch.__version__}, "
          f"trunk {protocol.trunk}, {FOLDS} folds of {protocol.batch_size()} images of "
          f"{protocol.crop} px")  # fmt: skip
    variants = {"one after another": one_after_another, "fused (vmap)": fused}
    if device.type == "cuda":
        variants |= {"streams": on_streams, "CUDA graphs": graphed}
    seconds = 3.0 if args.quick else 40.0
    first = None
    for name, make in variants.items():
        median = measure(make(protocol, device), device, seconds)
        first = first or median
        print(f"{name:20} {median:8.4f} s for a step of all folds, {first / median:5.2f} x")
    shapes = [(1, cores), (cores, 1)] if device.type == "cpu" else [(n, 1) for n in (1, 2, 4, 8)]
    first = None
    for processes, threads in shapes:
        rate = measure_processes(protocol, device, processes, threads, seconds)
        first = first or rate
        print(f"{processes} processes x {threads} threads: {rate:7.3f} trial steps a second, "
              f"{rate / first:5.2f} x")  # fmt: skip


if __name__ == "__main__":
    with float32_products("float32"):  # as trainings do
        main()
