"""GPU-hours to fill the published table: as published, ours, and the gain of each component.

python -m benchmarks.table_cost            # measures the components at full size (minutes on a GPU)
python -m benchmarks.table_cost --quick    # the same at 96 px and batch 8, on two CPU cores

The steps, the images and the processes are measured on this machine. The epochs that stopping saves
come from recorded trials (benchmarks/search_stopping.py) and are read from
benchmarks/data/stopping.json.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from pytorch_metric_learning.losses import ContrastiveLoss
from torchvision import transforms

from benchmarks.folds import measure_processes
from benchmarks.machine import find_device
from benchmarks.within_pair_step import SHARPNESS, LoopedLoss, backward_baseline
from wpm.cpus import count_cpus
from wpm.data.batches import BatchMaker
from wpm.data.class_folders import index_class_folders
from wpm.data.pixel_cache import build_pixel_cache
from wpm.data.pixels import Pixels
from wpm.model.embedding import build_model, freeze_batch_norm
from wpm.model.layout import place
from wpm.model.views import ViewSettings
from wpm.precision import float32_products
from wpm.protocol_files import find_protocol
from wpm.protocols import Protocol
from wpm.rows import TABLE_ROWS, Row
from wpm.training.mined_step import MinedStep
from wpm.within_pair import WithinPairLoss

DATASETS = 2  # the published table has CUB and Cars
STOPPING = Path(__file__).parent / "data" / "stopping.json"


@dataclass(frozen=True)
class StepCost:
    """One component of the cost of a training step, in seconds: as published and ours."""

    name: str
    published: float
    ours: float


def measure(steps: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Return the least seconds of each step, run in turns; other work on the machine only adds."""
    times: list[list[float]] = [[] for _ in steps]
    end = time.perf_counter() + seconds * len(steps)
    while len(times[0]) < 3 or time.perf_counter() < end:
        for step, own in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            own.append(time.perf_counter() - start)
    return [min(own) for own in times]


def measure_steps(
    protocol: Protocol, device: torch.device, seconds: float
) -> tuple[StepCost, StepCost]:
    """Measure a plain step and a step with mining; published ones use torch's default layout."""
    model = build_model(protocol, 3, seed=0).to(device).train()
    freeze_batch_norm(model)
    ours = place(deepcopy(model), device)
    generator = torch.Generator().manual_seed(0)
    size = (protocol.batch_size(), 3, protocol.crop, protocol.crop)
    images = torch.randn(size, generator=generator).to(device)
    channels_last = images.contiguous(memory_format=torch.channels_last)
    labels = torch.arange(protocol.classes_per_batch).repeat_interleave(protocol.images_per_class)
    labels = labels.to(device)
    views = ViewSettings(protocol.trunk_passes, protocol.embedding_masks, 0.1, 0.05)
    masks = model.sample_masks(images, views, generator)
    loss = ContrastiveLoss(pos_margin=0.1, neg_margin=0.8)
    mined, looped = WithinPairLoss(loss, sharpness=SHARPNESS), LoopedLoss(labels)
    step = MinedStep(ours, mined, views, generator)
    times = measure(
        [
            lambda: loss(model(images), labels).backward(),
            lambda: loss(ours(channels_last), labels).backward(),
            lambda: backward_baseline(model, images, masks, looped),
            lambda: step.backward_fast(channels_last, labels, masks),
        ],
        seconds,
    )
    return StepCost("plain step", *times[:2]), StepCost("step with mining", *times[2:])


def measure_images(protocol: Protocol, device: torch.device, seconds: float) -> StepCost:
    """Measure the images of a batch: decoded and cropped by Pillow, or cropped from the cache.

    Files are JPEGs of 500 x 375 pixels. Pillow's time is divided by the number of cores, because a
    DataLoader would use all of them.
    """
    pillow = transforms.Compose(
        [
            transforms.Resize(protocol.resize),
            transforms.RandomResizedCrop(protocol.crop, protocol.crop_scale, protocol.crop_ratio),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    batch = protocol.batch_size()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        rng = np.random.default_rng(0)
        for number in range(batch):
            coarse = Image.fromarray(rng.integers(0, 256, (15, 20, 3), dtype=np.uint8))
            file = root / "images" / f"class_{number % 4}" / f"{number}.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)
        index = index_class_folders("folder", root / "images", channels=3)
        files = [index.root / path for path in index.paths]
        pixels = Pixels(build_pixel_cache(index, protocol.resize, root / "work"))
        spec = build_model(protocol, 3, seed=0).trunk.input_spec
        maker, generator = BatchMaker(pixels, protocol, spec, device), torch.Generator()

        def decode() -> None:
            for file in files:
                with Image.open(file) as image:
                    pillow(image.convert("RGB"))

        published, ours = measure(
            [decode, lambda: maker.training_batch(torch.arange(batch), generator)], seconds
        )
    return StepCost("images of a batch", published / (count_cpus()), ours)


@dataclass(frozen=True)
class Procedure:
    """What it costs to fill a table.

    Attributes:
        images: seconds to make the images of a batch. They are made while the device computes; if
            that is faster, the device waits.
        plain: seconds of a step without mining.
        mined: seconds of a step with mining.
        together: number of trainings that a device finishes in the time of one training alone.
        stopping: factor by which stopping trials reduces the epochs of a search.
    """

    images: float
    plain: float
    mined: float
    together: float = 1.0
    stopping: float = 1.0

    def hours(self, protocol: Protocol, epochs: float) -> dict[str, float]:
        """Return the device-hours of the searches and of the final runs, for some epochs each."""
        rows = [row for row in map(Row.parse, TABLE_ROWS) if row.is_trained]
        steps = DATASETS * protocol.folds * epochs * protocol.iterations_per_epoch
        seconds = sum(
            steps * max(self.images, self.mined if row.miner else self.plain) for row in rows
        )
        hours = seconds / 3600 / self.together
        return {"search": protocol.trials * hours / self.stopping, "final": protocol.runs * hours}


def print_factors(published: Procedure, ours: Procedure, protocol: Protocol, epochs: float) -> None:
    """Print the gain of each component: alone on the published procedure, and added to the rest."""

    def total(procedure: Procedure) -> float:
        return sum(procedure.hours(protocol, epochs).values())

    for name in (field.name for field in fields(Procedure)):
        alone = replace(published, **{name: getattr(ours, name)})
        without = replace(ours, **{name: getattr(published, name)})
        print(f"  {name:10} alone {total(published) / total(alone):5.2f} x, added to the others "
              f"{total(without) / total(ours):5.2f} x")  # fmt: skip


def main() -> None:
    """Print the components, then the hours of a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--epochs", type=float, default=40, help="epochs of a published trial [40]")
    args = parser.parse_args()
    protocol = find_protocol("mlrc", "cub200")
    if args.quick:
        protocol = replace(protocol, resize=110, crop=96, classes_per_batch=4, images_per_class=2)
    device, on = find_device()
    print(f"measured on {on}, {count_cpus()} cores, {torch.get_num_threads()} threads, torch "
          f"{torch.__version__}: bninception, batch {protocol.batch_size()} at {protocol.crop} px"
          )  # fmt: skip
    seconds = 3.0 if args.quick else 20.0
    costs = [measure_images(protocol, device, seconds), *measure_steps(protocol, device, seconds)]
    for cost in costs:
        print(f"  {cost.name:18} published {cost.published:8.4f} s, ours {cost.ours:8.4f} s, "
              f"{cost.published / cost.ours:5.2f} x")  # fmt: skip
    # Both shapes use the same cores: one trial has all of them, or each trial has one.
    cores = count_cpus()
    shapes = ((1, 1), (4, 1)) if device.type == "cuda" else ((1, cores), (cores, 1))
    alone, beside = (measure_processes(protocol, device, *shape, seconds) for shape in shapes)
    together = beside / alone
    print(f"  {shapes[1][0]} trials at once on a device: {together:.2f} x the trials of one")
    stopping = json.loads(STOPPING.read_text(encoding="utf-8"))
    print(f"  stopping: {stopping['factor']:.2f} x fewer epochs ({stopping['measured']})")

    published = Procedure(costs[0].published, costs[1].published, costs[2].published)
    ours = Procedure(
        costs[0].ours, costs[1].ours, costs[2].ours, together, float(stopping["factor"])
    )
    spent = {name: p.hours(protocol, args.epochs) for name, p in
             (("published", published), ("ours", ours))}  # fmt: skip
    for name, hours in spent.items():
        print(f"{name:10} {sum(hours.values()):10.1f} device-hours: search {hours['search']:.1f}, "
              f"final runs {hours['final']:.1f}")  # fmt: skip
    factor = sum(spent["published"].values()) / sum(spent["ours"].values())
    print(f"{len(TABLE_ROWS) - 1} rows, {DATASETS} data sets, {args.epochs:g} epochs per trial "
          f"(assumed): {factor:.1f} x cheaper; of this")  # fmt: skip
    print_factors(published, ours, protocol, args.epochs)


if __name__ == "__main__":
    with float32_products("float32"):  # as trainings do
        main()
