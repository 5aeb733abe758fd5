"""What one validation found: the report that a worker makes and a search judges."""

from collections.abc import Mapping, Sequence
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
    """What a validation found.

    Attributes:
        epoch: epochs that the folds which train now have trained.
        best_map_at_r: mean over the folds of each fold's best validation MAP@R so far.
        folds: one report for each fold that trains or has trained, the last one of those that have
            finished.
        gpus: GPUs, or the share of one, that the worker was given; 0 for none, and in reports of
            earlier versions, which did not record it.
        saving_seconds: what saving has taken from the training so far: seconds for which it waited,
            and processor seconds of the thread that writes meanwhile; None in reports of earlier
            versions.
        step: the epoch, where all folds train in lockstep. Where some train first, the others'
            epochs are counted on from the largest number of epochs, so that equal steps of two
            trials mean the same folds after the same epochs. 0 stands for the epoch.
    """

    epoch: int
    best_map_at_r: float
    folds: tuple[FoldReport, ...]
    gpus: float = 0.0
    saving_seconds: float | None = None
    step: int = 0

    def __post_init__(self) -> None:
        if self.step == 0:
            object.__setattr__(self, "step", self.epoch)

    @property
    def earlier_steps(self) -> int:
        """Steps of the folds that trained before those that train now; 0 where none did."""
        return self.step - self.epoch

    def compared_at(self, folds: int, max_epochs: int) -> int:
        """Return the step at which a search compares this report with those of other trials.

        Where patience has ended the first folds early, that is their last step: the report says
        what they reach in the end.

        Args:
            folds: how many folds the trial has in all.
            max_epochs: largest number of epochs of a fold.
        """
        others_follow = len(self.folds) < folds and all(fold.stopped for fold in self.folds)
        return max_epochs if others_follow else self.step

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
            step=content.get("step", 0),
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**vars(self), "folds": [fold.to_json() for fold in self.folds]}

    def describe_reached(self, folds: int, first_folds: int) -> str:
        """Say how far a trial is.

        Args:
            folds: how many it has in all.
            first_folds: how many of them train first; 0 where all train in lockstep.
        """
        if self.earlier_steps:
            return f"epoch {self.epoch} on the other {folds - first_folds} of {folds} folds"
        on_folds = f" on {first_folds} of {folds} folds" if first_folds else ""
        return f"epoch {self.epoch}{on_folds}"


def epochs_trained(reports: Sequence[Report]) -> int:
    """Return the epochs of a training; where folds train one after another, of all of them."""
    last = {report.earlier_steps: report.epoch for report in reports}
    return sum(last.values())
