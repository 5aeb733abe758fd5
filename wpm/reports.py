"""What one validation found: the report that a worker makes and a search judges."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

# How an optimiser step gets its gradient, see `wpm.training.mined_step`.
PLAIN, FAST, LOW_MEMORY = "plain", "fast", "low_memory"


@dataclass(frozen=True)
class FoldReport:
    """What one fold did up to a validation.

    Attributes:
        fold: its position among the protocol's folds.
        loss: mean training loss of the last epoch trained.
        precision_at_1: at the last validation.
        r_precision: at the last validation.
        map_at_r: at the last validation.
        best_map_at_r: best of all validations so far.
        best_epoch: epoch of that best.
        stopped: whether the fold's patience has run out.
        training_seconds: in total.
        validation_seconds: in total.
        images_per_second: of training, in total.
        step_mode: how steps get their gradient: "fast" until a step does not fit the GPU's memory,
            then "low_memory"; "plain" without within-pair mining.
        replayed: whether steps are replayed from a CUDA graph.
        untrained_map_at_r: before the first step, which counts for patience alone; None where the
            protocol does not validate the untrained model.
    """

    fold: int
    loss: float
    precision_at_1: float
    r_precision: float
    map_at_r: float
    best_map_at_r: float
    best_epoch: int
    stopped: bool
    training_seconds: float
    validation_seconds: float
    images_per_second: float
    step_mode: str = PLAIN
    replayed: bool = False
    untrained_map_at_r: float | None = None

    @property
    def worker_seconds(self) -> float:
        """Seconds that the fold has taken, validation included."""
        return self.training_seconds + self.validation_seconds

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned; keys that this version does not know are ignored.

        Raises:
            TypeError: a key without a default is missing.
        """
        return cls(**{name: content[name] for name in _FOLD_KEYS if name in content})

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dict(vars(self))


_FOLD_KEYS = tuple(field.name for field in fields(FoldReport))


@dataclass(frozen=True)
class Report:
    """What a validation of all folds found.

    Attributes:
        epoch: epochs trained.
        best_map_at_r: mean over the folds of each fold's best validation MAP@R so far.
        folds: one report per fold.
        gpus: GPUs, or the share of one, that the worker was given; 0 for none, and in reports of
            earlier versions, which did not record it.
        saving_seconds: what saving has taken from the training so far: seconds for which it waited,
            and processor seconds of the thread that writes meanwhile; None in reports of earlier
            versions.
    """

    epoch: int
    best_map_at_r: float
    folds: tuple[FoldReport, ...]
    gpus: float = 0.0
    saving_seconds: float | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what `to_json` returned, by this version or an earlier one.

        Raises:
            KeyError: a key that every version writes is missing.
            TypeError: such a key of a fold is missing.
        """
        return cls(
            epoch=content["epoch"],
            best_map_at_r=content["best_map_at_r"],
            folds=tuple(FoldReport.from_json(fold) for fold in content["folds"]),
            gpus=content.get("gpus", 0.0),
            saving_seconds=content.get("saving_seconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**vars(self), "folds": [fold.to_json() for fold in self.folds]}
