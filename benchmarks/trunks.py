"""The table of docs/trunks.md: sizes of trunks, and what a training step costs on one core.

python -m benchmarks.trunks               # all of the table, about 5 minutes
python -m benchmarks.trunks --quick       # the two smallest trunks, a few seconds
python -m benchmarks.trunks --sizes       # all of the table without the measured times
python -m benchmarks.trunks --trunks timm:resnet18 torchvision:resnet34

A step is one of a plain row: 32 images, contrastive loss, RMSprop, on the CPU in one thread. Its
cost is the processor time of that thread, which does not count waiting. Other work slows it down
all the same, because cores share caches and clocks: run it on a quiet machine.
"""

import argparse
import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Sequence

import torch
from pytorch_metric_learning.losses import ContrastiveLoss
from torch import Tensor, nn

from wpm.cpus import count_cpus
from wpm.formatting import format_table
from wpm.model.embedding import EmbeddingModel, build_model, freeze_batch_norm
from wpm.model.trunk import Trunk
from wpm.model.trunks import find_weights
from wpm.protocol_files import find_protocol

TRUNKS = (
    "convnet",
    "mobilenet_v1_0.25",
    "mobilenet_v1_0.5",
    "mobilenet_v2",
    "bninception",
    "torchvision:resnet18",
    "torchvision:resnet50",
    "timm:convnext_atto",
)
QUICK = TRUNKS[:2]
SMALL_SIDE = 96  # px: what a CPU can train on
COLUMNS = (
    "trunk", "weights", "native px", "features", "stem channels", "parameters",
    "multiply-adds", "ms at native px", f"ms at {SMALL_SIDE} px",
)  # fmt: skip
WARM_UP = 2


def make_model(name: str) -> EmbeddingModel:
    """Build a trunk with random weights and the embedder of protocol `small`."""
    protocol = dataclasses.replace(find_protocol("small", "folder"), trunk=name)
    return build_model(protocol, 3, seed=0)


def describe(name: str, steps: int) -> tuple[str, ...]:
    """Return a trunk's line of the table; without times for 0 steps."""
    model = make_model(name)
    trunk, weights = model.trunk, find_weights(name)
    times = [measure(model, side, steps) for side in (trunk.native_size, SMALL_SIDE)]
    return (
        f"`{name}`",
        f"`{weights.name}`" if weights else "none",
        str(trunk.native_size),
        str(trunk.feature_dim),
        str(trunk.stem_channels),
        f"{sum(parameter.numel() for parameter in trunk.parameters()) / 1e6:.2f} M",
        f"{count_multiply_adds(trunk) / 1e6:.0f} M",
        *times,
    )


def count_multiply_adds(trunk: Trunk) -> int:
    """Return the multiplications of convolutions and linear layers for one image of native size."""
    counted: list[int] = []

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        per_output = module.weight[0].numel()
        counted.append(per_output * output.numel())

    hooks = [
        module.register_forward_hook(count)
        for module in trunk.modules()
        if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    with torch.no_grad():
        trunk.body(trunk.stem(torch.zeros(1, 3, trunk.native_size, trunk.native_size)))
    for hook in hooks:
        hook.remove()
    return sum(counted)


def measure(model: EmbeddingModel, side: int, steps: int) -> str:
    """Return the median processor milliseconds of a training step, "-" for 0 steps."""
    if steps == 0:
        return "-"
    model.to(memory_format=torch.channels_last)
    model.train()
    freeze_batch_norm(model)
    loss = ContrastiveLoss()
    optimizer = torch.optim.RMSprop(model.parameters(), lr=1e-6, weight_decay=1e-4, momentum=0.9)
    labels = torch.arange(8).repeat_interleave(4)
    images = torch.randn(len(labels), 3, side, side).to(memory_format=torch.channels_last)
    times = []
    for _ in range(WARM_UP + steps):
        start = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        loss(model(images), labels).backward()
        optimizer.step()
        times.append(time.process_time() - start)
    return f"{1000 * statistics.median(times[WARM_UP:]):.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--sizes", action="store_true")
    parser.add_argument("--trunks", nargs="+", metavar="NAME")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    steps = 0 if args.sizes else 3 if args.quick else 15
    if steps:
        print(f"{platform.machine()}, {count_cpus()} cores, 1 thread, torch {torch.__version__}, "
              f"median of {steps} steps, load average {os.getloadavg()[0]:.1f}\n")  # fmt: skip
    names = args.trunks or (QUICK if args.quick else TRUNKS)
    lines = [describe(name, steps) for name in names]
    print(format_table(COLUMNS, lines, "markdown"))


if __name__ == "__main__":
    main()
