"""Estimate the bytes that a planned run writes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.cluster.nodes import Node, count_slots
from wpm.data.index import DataSource, ImageIndex
from wpm.model.embedding import build_model
from wpm.protocols import Protocol

_WIDEST = 1.5  # width / height of a photograph, when decoded pixels are estimated
_FLOAT = 4  # bytes
_COPIES = 4  # of a model in a checkpoint: itself, its best so far, two moments of the optimiser


@dataclass(frozen=True)
class PlannedRun:
    """What the cluster is about to be used for.

    Attributes:
        run_root: records.
        source: images, and the folder of caches.
        index: the images.
        protocol: of the studies.
        rows: how many studies.
        trials: of each.
        runs: final runs of each.
        weights: file of the trunk's weights, None for none.
        cpus: of a trial.
        gpus: of a trial.
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


def estimate_disk(undertaking: PlannedRun, nodes: Sequence[Node]) -> dict[Path, int]:
    """Return how many bytes the run folder and the folder of caches may grow by.

    Checkpoints: each trial that runs at a time keeps two (the old one goes when the new one is
    whole). Finals keep a model a fold. Decoded pixels: `resize` squared for a square image, and
    wider photographs; what lies there already is taken off.
    """
    protocol, index = undertaking.protocol, undertaking.index
    model_bytes = _model_bytes(protocol, index.channels)
    slots = count_slots(nodes, undertaking.cpus, undertaking.gpus)
    records = undertaking.rows * undertaking.trials * 2**20
    checkpoints = slots * 2 * protocol.folds * _COPIES * model_bytes
    finals = undertaking.rows * undertaking.runs * protocol.folds * model_bytes
    image_bytes = int(index.channels * protocol.resize**2 * (_WIDEST if index.channels == 3 else 1))
    work_root = undertaking.source.work_root
    caches = (work_root / "pixels").glob(f"{index.dataset}-{protocol.resize}px-*/pixels.bin")
    have = sum(path.stat().st_size for path in caches)
    return {
        undertaking.run_root: records + checkpoints + finals,
        work_root: max(0, len(index.paths) * image_bytes - have),
    }


def estimate_checkpoint(protocol: Protocol, channels: int, folds: int) -> int:
    """Return the bytes of a training's checkpoint.

    Args:
        protocol: of the training.
        channels: of the images.
        folds: that are trained together.
    """
    return folds * _COPIES * _model_bytes(protocol, channels)


def _model_bytes(protocol: Protocol, channels: int) -> int:
    model = build_model(protocol, channels, seed=0)
    return _FLOAT * sum(p.numel() for p in (*model.parameters(), *model.buffers()))
