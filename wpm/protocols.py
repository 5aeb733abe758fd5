"""Protocols: everything that all rows of a table share, and the presets for it."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wpm.errors import UserError

PRECISIONS = ("float32", "tf32", "bf16")


@dataclass(frozen=True)
class Protocol:
    """Everything that is the same for every row of one table.

    Lengths are in epochs unless the name says otherwise, image sizes in pixels.
    """

    name: str
    # model
    trunk: str
    embedding_dim: int
    # images
    resize: int  # shorter side of the cached image
    crop: int  # side of the square that the trunk sees
    crop_scale: tuple[float, float]  # share of the area that a random crop covers
    crop_ratio: tuple[float, float]  # width / height of a random crop
    flip: float  # probability of a horizontal flip
    # batches
    classes_per_batch: int
    images_per_class: int
    # optimiser of trunk and embedder
    optimizer: str
    learning_rate: float
    weight_decay: float
    # optimiser of a loss's own parameters (proxies, class weights, beta); its rate is searched
    loss_weight_decay: float
    # schedule
    iterations_per_epoch: int
    validation_interval: int
    patience: int
    max_epochs: int
    folds: int
    # views of within-pair mining
    trunk_passes: int
    embedding_masks: int
    # asynchronous successive halving: the first rung, and how few stay at each (1 / factor)
    grace_epochs: int
    reduction_factor: int
    # budgets, unless the command line sets others
    trials: int
    runs: int
    # arithmetic of trunk and embedder: "float32" as published, "tf32", or "bf16" (autocast)
    precision: str = "float32"

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise UserError(f"protocol {self.name}: {field.name} is {value}, must be >= 1")
        if self.crop > self.resize:
            raise UserError(
                f"protocol {self.name}: crop {self.crop} px exceeds resize {self.resize} px"
            )
        if self.precision not in PRECISIONS:
            raise UserError(
                f"unknown precision {self.precision!r}; choose from {', '.join(PRECISIONS)}"
            )

    def batch_size(self) -> int:
        """Number of images in a batch."""
        return self.classes_per_batch * self.images_per_class


# For a search on a laptop. Compared with `mlrc` it has small images, a small trunk that is trained
# from scratch, 2 trunk passes instead of 8, and at most 20 short epochs instead of 1000. So it
# ranks configurations for such a trunk on such images, and for nothing else.
_SMALL = Protocol(
    name="small",
    trunk="convnet",
    embedding_dim=128,
    resize=28,
    crop=24,
    crop_scale=(0.6, 1.0),
    crop_ratio=(0.75, 1.33),
    flip=0.0,
    classes_per_batch=8,
    images_per_class=4,
    optimizer="adam",
    learning_rate=1e-3,
    weight_decay=1e-4,
    loss_weight_decay=1e-4,
    iterations_per_epoch=40,
    validation_interval=1,
    patience=8,
    max_epochs=20,
    folds=4,
    trunk_passes=2,
    embedding_masks=8,
    # Among the settings that benchmarks/search_halving.py replays, these need a third of the
    # epochs and find nearly always the same best trial.
    grace_epochs=2,
    reduction_factor=2,
    trials=20,
    runs=5,
)

# The published protocol (Musgrave et al., ECCV 2020); docs/protocol.md explains it line by line.
_MLRC = Protocol(
    name="mlrc",
    trunk="bninception",
    embedding_dim=128,
    resize=256,
    crop=227,
    crop_scale=(0.16, 1.0),
    crop_ratio=(0.75, 1.33),
    flip=0.5,
    classes_per_batch=8,
    images_per_class=4,
    optimizer="rmsprop",
    learning_rate=1e-6,
    weight_decay=1e-4,
    loss_weight_decay=1e-4,
    iterations_per_epoch=100,
    validation_interval=2,
    patience=9,
    max_epochs=1000,
    folds=4,
    trunk_passes=8,
    embedding_masks=8,
    grace_epochs=10,
    reduction_factor=3,
    trials=50,
    runs=10,
)

# Trials of a few seconds, to try out a machine, a cluster or a new loss end to end. The scores have
# no meaning.
_SMOKE = dataclasses.replace(
    _SMALL,
    name="smoke",
    embedding_dim=16,
    resize=20,
    crop=16,
    classes_per_batch=4,
    images_per_class=2,
    iterations_per_epoch=4,
    max_epochs=4,
    embedding_masks=2,
    grace_epochs=1,
    trials=4,
    runs=2,
)

# What a preset changes for a data set. MLRC validates less often where an epoch covers less of the
# data set.
_PER_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("mlrc", "cub200"): {"validation_interval": 2, "patience": 9},
    ("mlrc", "cars196"): {"validation_interval": 5, "patience": 14},
    ("mlrc", "sop"): {"validation_interval": 20, "patience": 39},
    # Photographs may be mirrored; characters, on which the preset was made, may not.
    ("small", "folder"): {"flip": 0.5},
}
_PRESETS = {preset.name: preset for preset in (_SMALL, _MLRC, _SMOKE)}
PROTOCOL_NAMES = tuple(_PRESETS)
_PUBLISHED_DATASETS = tuple(dataset for name, dataset in _PER_DATASET if name == _MLRC.name)


def default_protocol(dataset: str) -> str:
    """Return the protocol of the data set's published table; "small" where there is none."""
    return _MLRC.name if dataset in _PUBLISHED_DATASETS else _SMALL.name


def find_protocol(
    name: str, dataset: str, *, trunk: str | None = None, precision: str | None = None
) -> Protocol:
    """Return the preset `name` as it applies to a data set.

    Args:
        name: of the preset.
        dataset: name of the data set.
        trunk: replaces the preset's trunk. It becomes part of the protocol's name, so that the
            studies get folders of their own.
        precision: replaces the preset's precision, and becomes part of the name as well.

    Raises:
        UserError: there is no such preset or precision; the message lists the choices.
    """
    if name not in _PRESETS:
        raise UserError(f"unknown protocol {name!r}; choose from {', '.join(_PRESETS)}")
    protocol = dataclasses.replace(_PRESETS[name], **_PER_DATASET.get((name, dataset), {}))
    changes = {"trunk": trunk, "precision": precision}
    changed = {k: v for k, v in changes.items() if v not in (None, getattr(protocol, k))}
    suffixes = [str(value).replace(":", ".") for value in changed.values()]
    return dataclasses.replace(protocol, name="-".join([name, *suffixes]), **changed)  # type: ignore[arg-type]


def protocol_from_json(data: Mapping[str, Any]) -> Protocol:
    """Read a protocol from JSON types, where tuples have become lists."""
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
    }
    return Protocol(**values)
