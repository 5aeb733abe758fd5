"""Four folds and several trials on one device: one after another, fused, on streams, in processes.

python -m benchmarks.folds            # bninception, batch 32 at 227 px
python -m benchmarks.folds --quick    # convnet at 24 px, under a minute on two cores
"""

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from copy import deepcopy

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from benchmarks.machine import find_device
from wpm.model.embedding import EmbeddingModel, build_model, freeze_batch_norm
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol

FOLDS = 4
Step = Callable[[], None]


class FusedFolds(nn.Module):
    """Folds' models as one: stacked parameters, one vectorised forward (`torch.func.vmap`).

    Convolutions of F models over F batches become one convolution in F groups.
    """

    def __init__(self, models: Sequence[EmbeddingModel]) -> None:
        """Stack the parameters of models of one shape."""
        super().__init__()
        stacked, self._buffers_of = stack_module_state(list(models))
        self._names = list(stacked)
        self.stacked = nn.ParameterList([nn.Parameter(value) for value in stacked.values()])
        skeleton = deepcopy(models[0]).to("meta")

        def forward_one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], images: Tensor
        ) -> Tensor:
            return functional_call(skeleton, (parameters, buffers), (images,))  # type: ignore[no-any-return]

        self._forward = torch.vmap(forward_one)

    def forward(self, images: Tensor) -> Tensor:
        """(F, B, C, H, W) images to (F, B, D) embeddings, fold by fold."""
        parameters = dict(zip(self._names, self.stacked, strict=True))
        embeddings: Tensor = self._forward(parameters, self._buffers_of, images)
        return embeddings


def make_models(protocol: Protocol, device: torch.device) -> list[EmbeddingModel]:
    """Build one model a fold, as a training does."""
    models = []
    for fold in range(FOLDS):
        model = build_model(protocol, 3, seed=fold).to(device)
        model.to(memory_format=torch.channels_last)
        model.train()
        freeze_batch_norm(model)
        models.append(model)
    return models


def make_optimizer(parameters: Sequence[nn.Parameter]) -> torch.optim.Optimizer:
    """RMSprop as in the published protocol; it works element by element, stacked or not."""
    return torch.optim.RMSprop(parameters, lr=1e-6, weight_decay=1e-4, momentum=0.9)


def make_images(protocol: Protocol, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return (F, B, 3, H, W) noise and the (B,) labels of an 8 x 4 batch."""
    generator = torch.Generator().manual_seed(0)
    size = (FOLDS, protocol.batch_size(), 3, protocol.crop, protocol.crop)
    labels = torch.arange(protocol.classes_per_batch).repeat_interleave(protocol.images_per_class)
    return torch.randn(size, generator=generator).to(device), labels.to(device)


def one_after_another(protocol: Protocol, device: torch.device) -> Step:
    """Return a step of every fold, as `wpm.training` takes them."""
    models, loss = make_models(protocol, device), ContrastiveLoss()
    optimizers = [make_optimizer(list(model.parameters())) for model in models]
    images, labels = make_images(protocol, device)

    def step() -> None:
        for model, optimizer, batch in zip(models, optimizers, images, strict=True):
            optimizer.zero_grad(set_to_none=True)
            loss(model(batch), labels).backward()
            optimizer.step()

    return step


def fused(protocol: Protocol, device: torch.device) -> Step:
    """Return a step of all folds at once."""
    model, loss = FusedFolds(make_models(protocol, device)), ContrastiveLoss()
    optimizer = make_optimizer(list(model.stacked))
    images, labels = make_images(protocol, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        # pair losses pick pairs by value, which vmap cannot trace: one loss a fold
        torch.stack([loss(embeddings, labels) for embeddings in model(images)]).sum().backward()
        optimizer.step()

    return step


def on_streams(protocol: Protocol, device: torch.device) -> Step:
    """Return a step of every fold, each queued on a CUDA stream of its own."""
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
    """Return a step of every fold whose trunk is replayed as a CUDA graph, forward and backward."""
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
    """Return the median seconds of a step, after two to warm up."""
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
    protocol: Protocol, device: str, threads: int, seconds: float, start: object, steps: object
) -> None:
    """Take steps of one trial from a common start on, in a process of its own."""
    torch.set_num_threads(threads)
    step = one_after_another(protocol, torch.device(device))
    step()
    start.wait()  # type: ignore[attr-defined]
    end, count = time.perf_counter() + seconds, 0
    while time.perf_counter() < end:
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        count += 1
    steps.put(count / (seconds + time.perf_counter() - end))  # type: ignore[attr-defined]


def measure_processes(
    protocol: Protocol, device: torch.device, processes: int, threads: int, seconds: float
) -> float:
    """Return the trial steps a second of several processes together."""
    context = multiprocessing.get_context("spawn")
    start, steps = context.Barrier(processes), context.SimpleQueue()
    arguments = (protocol, device.type, threads, seconds, start, steps)
    workers = [context.Process(target=_work, args=arguments) for _ in range(processes)]
    for worker in workers:
        worker.start()
    rates: list[float] = [steps.get() for _ in workers]
    for worker in workers:
        worker.join()
    return sum(rates)


def main() -> None:
    """Print seconds a step of four folds, and trials an hour of several processes, as ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    device, on = find_device()
    protocol = find_protocol("small" if args.quick else "mlrc", "cub200")
    cores = os.cpu_count() or 1
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
        print(f"{name:20} {median:8.4f} s a step of all folds, {first / median:5.2f} x")
    shapes = [(1, cores), (cores, 1)] if device.type == "cpu" else [(n, 1) for n in (1, 2, 4, 8)]
    first = None
    for processes, threads in shapes:
        rate = measure_processes(protocol, device, processes, threads, seconds)
        first = first or rate
        print(f"{processes} processes x {threads} threads: {rate:7.3f} trial steps a second, "
              f"{rate / first:5.2f} x")  # fmt: skip


if __name__ == "__main__":
    main()
