"""Run several trainings on one GPU: measure the share of its memory that each needs."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import torch

from wpm.data.pixels import Pixels
from wpm.training.config import TrainingConfig
from wpm.training.steps import STEPS_UNTIL_GRAPH
from wpm.training.training import Training

# Allocators fragment, and losses mine more pairs on some batches than in the measured step.
HEADROOM = 1.25
# The CUDA context and kernels of a process, which are not allocated by torch: 783 MiB on an H100
# (docs/performance.md).
CONTEXT_BYTES = 800 * 2**20
SHARES = (1 / 8, 1 / 7, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2)


def limit_memory(share: float) -> None:
    """Limit this process to its share of the GPU's memory, so that the others have theirs.

    The limit binds torch's allocator alone, so the context is taken off the share beforehand: all
    shares and contexts together fill the card and no more.

    Args:
        share: share of one GPU; 0 for none, and 1 or more, set no limit.
    """
    if 0 < share < 1 and torch.cuda.is_available():
        total = torch.cuda.get_device_properties().total_memory
        limit = max(share - CONTEXT_BYTES / total, share / 2)  # half of a share that is too small
        torch.cuda.set_per_process_memory_fraction(limit)


def choose_share(peak_bytes: int, total_bytes: int) -> float:
    """Return the smallest share of a GPU that a training fits into.

    Args:
        peak_bytes: most memory that the training was measured to allocate.
        total_bytes: memory of the GPU.
    """
    needed = HEADROOM * peak_bytes + CONTEXT_BYTES
    return next((share for share in SHARES if share * total_bytes >= needed), 1.0)


def measure_share(config: TrainingConfig, pixel_cache: Path) -> float:
    """Train some steps of every fold and validate once; return the share of the GPU that it needs.

    The steps are enough for a CUDA graph of a step, whose memory stays taken.

    Args:
        config: what to train.
        pixel_cache: folder of the decoded trainval images.
    """
    protocol = dataclasses.replace(
        config.protocol, iterations_per_epoch=STEPS_UNTIL_GRAPH, validation_interval=1, max_epochs=1
    )
    torch.cuda.reset_peak_memory_stats()
    config = dataclasses.replace(config, protocol=protocol)
    Training(config, Pixels(pixel_cache), torch.device("cuda")).run_epoch()
    peak = torch.cuda.max_memory_allocated()
    return choose_share(peak, torch.cuda.get_device_properties().total_memory)


def measure_gpus(payload: Mapping[str, Any]) -> float:
    """Measure which share of a GPU a training needs; Ray must be connected.

    Args:
        payload: the training, as `wpm.jobs.payloads.training_payload` describes it.

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
