"""Estimate the bytes that a planned run writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.cluster.nodes import Node, count_slots
from wpm.data.index import DataSource, ImageIndex
from wpm.model.embedding import build_model
from wpm.protocols import Protocol

_WIDEST = 1.5  # width / height that is assumed for a photograph
_FLOAT = 4  # bytes
_COPIES = 4  # per checkpoint: the model, its best so far, and two moments of the optimiser


@dataclass(frozen=True)
class PlannedRun:
    """What a launch is about to run.

    Attributes:
        run_root: folder of the records.
        source: where the images are, and the folder of caches.
        index: the images.
        protocol: of the studies.
        rows: number of studies: every search of a row is one.
        trials: trials per study.
        runs: final runs per study.
        weights: file of the trunk's weights, None for none.
        cpus: cores per trial.
        gpus: GPUs per trial.
    """

    run_root: Path
    source: DataSource
    index: ImageIndex
    protocol: Protocol
    rows: int
    trials: int
    runs: int
    weights: Path | None
    cpus: float
    gpus: float


def estimate_disk(planned: PlannedRun, nodes: Sequence[Node]) -> dict[Path, int]:
    """Return how many bytes the run folder and the folder of caches may grow by.

    Checkpoints: every running trial has up to two, since the old one is deleted only once the new
    one is complete. Final runs keep one model per fold. Decoded pixels: `resize` squared for a
    square image, more for photographs; caches that exist already are subtracted.
    """
    protocol, index = planned.protocol, planned.index
    model_bytes = _model_bytes(protocol, index.channels)
    slots = count_slots(nodes, planned.cpus, planned.gpus)
    records = planned.rows * planned.trials * 2**20
    checkpoints = slots * 2 * protocol.folds * _COPIES * model_bytes
    finals = planned.rows * planned.runs * protocol.folds * model_bytes
    image_bytes = int(index.channels * protocol.resize**2 * (_WIDEST if index.channels == 3 else 1))
    work_root = planned.source.work_root
    caches = (work_root / "pixels").glob(f"{index.dataset}-{protocol.resize}px-*/pixels.bin")
    existing = sum(path.stat().st_size for path in caches)
    return {
        planned.run_root: records + checkpoints + finals,
        work_root: max(0, len(index.paths) * image_bytes - existing),
    }


def estimate_checkpoint(protocol: Protocol, channels: int, folds: int) -> int:
    """Return the bytes of a training's checkpoint.

    Args:
        protocol: names the trunk and the embedding size.
        channels: of the images.
        folds: number of folds that are trained together.
    """
    return folds * _COPIES * _model_bytes(protocol, channels)


def _model_bytes(protocol: Protocol, channels: int) -> int:
    model = build_model(protocol, channels, seed=0)
    return _FLOAT * sum(p.numel() for p in (*model.parameters(), *model.buffers()))
