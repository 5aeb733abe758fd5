"""What one validation found, fold by fold."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from wpm.training.mined_step import PLAIN


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
        step_mode: how steps get their gradient, see `wpm.training.mined_step`: "fast" until a step
            does not fit the GPU's memory, then "low_memory"; "plain" without within-pair mining.
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


@dataclass(frozen=True)
class Report:
    """What a validation of all folds found.

    Attributes:
        epoch: epochs trained.
        best_map_at_r: mean over the folds of each fold's best validation MAP@R so far.
        folds: one report a fold.
    """

    epoch: int
    best_map_at_r: float
    folds: tuple[FoldReport, ...]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return dataclasses.asdict(self)
