"""Several trainings on one GPU: the share of its memory that each gets, and keeps to."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from wpm.data.pixels import Pixels
from wpm.training.config import TrainingConfig
from wpm.training.training import Training

# A quarter more than was measured: allocators fragment, and losses mine more pairs on some batches.
HEADROOM = 1.25
# Bytes of a process's CUDA context and kernels, which its allocator does not know of.
CONTEXT_BYTES = 600 * 2**20
SHARES = (1 / 8, 1 / 7, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2)


def limit_memory(share: float) -> None:
    """Keep this process to its share of the GPU's memory; its neighbours count on it.

    Args:
        share: of one GPU; 1 and more, or 0 for none, limit nothing.
    """
    if 0 < share < 1 and torch.cuda.is_available():
        torch.cuda.set_per_process_memory_fraction(share)


def choose_share(peak_bytes: int, total_bytes: int) -> float:
    """Return the smallest share of a GPU that a training fits into.

    Args:
        peak_bytes: what it was measured to allocate.
        total_bytes: of the GPU.
    """
    needed = HEADROOM * peak_bytes + CONTEXT_BYTES
    return next((share for share in SHARES if share * total_bytes >= needed), 1.0)


def measure_share(config: TrainingConfig, pixels: Path) -> float:
    """Train one step of every fold and validate once; return the share of the GPU that it needs.

    Args:
        config: what to train.
        pixels: cache of trainval images.
    """
    protocol = dataclasses.replace(
        config.protocol, iterations_per_epoch=1, validation_interval=1, max_epochs=1
    )
    torch.cuda.reset_peak_memory_stats()
    config = dataclasses.replace(config, protocol=protocol)
    Training(config, Pixels(pixels), torch.device("cuda")).run_epoch()
    peak = torch.cuda.max_memory_allocated()
    return choose_share(peak, torch.cuda.get_device_properties().total_memory)


def measure_gpus(payload: Mapping[str, Any]) -> float:
    """Measure which share of a GPU a training needs; Ray must be connected.

    Args:
        payload: of the training, as `wpm.jobs.train_job.training_payload` describes it.

    Returns:
        The share; 0 where the cluster has no GPU.
    """
    if ray.cluster_resources().get("GPU", 0) < 1:
        return 0.0
    measure = ray.remote(num_cpus=1, num_gpus=1, max_calls=1)(_measure_gpus)
    return float(ray.get(measure.remote(json.dumps(dict(payload)))))


def _measure_gpus(payload: str) -> float:
    content = json.loads(payload)
    config = TrainingConfig.from_json(content["config"])
    return measure_share(config, Path(content["pixels"]))
