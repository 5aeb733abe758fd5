"""How a training ended, and how the test of a run ended: the contents of result.json."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from wpm.records.provenance import timestamp
from wpm.records.states import TrialState
from wpm.reports import Report, epochs_trained


@dataclass(frozen=True)
class Outcome:
    """How a training ended: a trial, or one fold of a final run.

    Attributes:
        state: RUNNING or WAITING if it was made from the reports of a training that has not ended.
        reason: why it diverged, failed or was stopped; "" otherwise.
        score: mean over the folds trained of the best validation MAP@R; None without a validation.
            0 if it diverged.
        epochs: epochs trained; where folds train one after another, those of all of them.
        fold_scores: best validation MAP@R of each fold trained; a complete training has all.
        training_seconds: of all folds.
        validation_seconds: of all folds.
        best_epochs: epoch of the best validation of each fold trained.
        gpus: GPUs, or the share of one, that the worker was given.
        ended: time in UTC; None while it runs.
        models: SHA-256 of the weights that were kept, by file name.
        saving_seconds: what saving took from the training, see `Report`; None in records of
            earlier versions.
    """

    state: TrialState
    reason: str
    score: float | None
    epochs: int
    fold_scores: tuple[float, ...]
    training_seconds: float
    validation_seconds: float
    best_epochs: tuple[int, ...] = ()
    gpus: float = 0.0
    ended: str | None = None
    models: Mapping[str, str] = field(default_factory=dict)
    saving_seconds: float | None = None

    @classmethod
    def from_reports(
        cls,
        state: TrialState,
        reports: Sequence[Report],
        reason: str = "",
        models: Mapping[str, str] | None = None,
    ) -> Self:
        """Sum up a training.

        Args:
            state: how it ends now, or RUNNING or WAITING.
            reports: all its reports.
            reason: why it diverged, failed or was stopped.
            models: SHA-256 of the weights that were kept, by file name.
        """
        last = reports[-1] if reports else None
        folds = last.folds if last else ()
        score = last.best_map_at_r if last else None
        return cls(
            state=state,
            reason=reason,
            score=0.0 if state is TrialState.DIVERGED else score,
            epochs=epochs_trained(reports),
            fold_scores=tuple(fold.best_map_at_r for fold in folds),
            best_epochs=tuple(fold.best_epoch for fold in folds),
            training_seconds=sum(fold.training_seconds for fold in folds),
            validation_seconds=sum(fold.validation_seconds for fold in folds),
            gpus=last.gpus if last else 0.0,
            ended=timestamp() if state.has_ended else None,
            models=models or {},
            saving_seconds=last.saving_seconds if last else None,
        )

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read result.json of a training.

        Raises:
            KeyError: a key that every version writes is missing.
            ValueError: there is no such state.
        """
        return cls(
            state=TrialState(content["state"]),
            reason=content["reason"],
            score=content["score"],
            epochs=content["epochs"],
            fold_scores=tuple(content["fold_scores"]),
            best_epochs=tuple(content.get("best_epochs", ())),
            training_seconds=content["training_seconds"],
            validation_seconds=content["validation_seconds"],
            gpus=content.get("gpus", 0.0),
            ended=content.get("ended"),
            models=content.get("models", {}),
            saving_seconds=content.get("saving_seconds"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        content = {
            **vars(self),
            "fold_scores": list(self.fold_scores),
            "best_epochs": list(self.best_epochs),
            "models": dict(self.models),
        }
        return {name: value for name, value in content.items() if name != "models" or value}


@dataclass(frozen=True)
class ScoredRun:
    """A final run that was tested: the scores of one seed on the test images.

    Attributes:
        seed: of the run.
        separated: mean score of the folds' models by metric, fractions.
        concatenated: score of the models' concatenated embeddings by metric, fractions.
        channels: of the images.
        test_images: how many were scored.
        test_classes: how many classes they are of.
        left_out: path and reason of test images that could not be read.
        reductions: of the row without training, scores by view and metric under the other
            reductions, by the value of `wpm.rows.Reduction`.
        duplicates: what `wpm.data.duplicates` found in both halves, once decoded; empty in records
            of earlier versions.
        provenance: of the test.
        ended: time in UTC.
    """

    seed: int
    separated: Mapping[str, float]
    concatenated: Mapping[str, float]
    channels: int
    test_images: int
    test_classes: int
    left_out: Sequence[Sequence[str]] = ()
    reductions: Mapping[str, Mapping[str, Mapping[str, float]]] = field(default_factory=dict)
    duplicates: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    ended: str | None = None

    def scores(self, view: str) -> Mapping[str, float]:
        """Return the scores by metric of a view, "separated" or "concatenated"."""
        return {"separated": self.separated, "concatenated": self.concatenated}[view]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read result.json of a tested run.

        Raises:
            KeyError: a key that every version writes is missing.
        """
        return cls(
            seed=content["seed"],
            separated=content["separated"],
            concatenated=content["concatenated"],
            channels=content["channels"],
            test_images=content["test_images"],
            test_classes=content["test_classes"],
            left_out=content.get("left_out", ()),
            reductions=content.get("reductions", {}),
            duplicates=content.get("duplicates", {}),
            provenance=content.get("provenance", {}),
            ended=content.get("ended"),
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        content = {"state": TrialState.COMPLETE, **vars(self)}
        return {name: value for name, value in content.items() if name != "reductions" or value}


@dataclass(frozen=True)
class FailedRun:
    """A final run that was not tested, since a fold or its test failed."""

    seed: int
    reason: str

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read result.json of a failed run."""
        return cls(seed=content["seed"], reason=content["reason"])

    def to_json(self) -> dict[str, Any]:
        """Return the content of result.json."""
        return {"state": TrialState.FAILED, **vars(self)}


def read_run(content: Mapping[str, Any]) -> ScoredRun | FailedRun:
    """Read result.json of a final run.

    Raises:
        KeyError: a key that every version writes is missing.
        ValueError: a run ends in no such state.
    """
    state = TrialState(content["state"])
    if state is TrialState.COMPLETE:
        return ScoredRun.from_json(content)
    if state is TrialState.FAILED:
        return FailedRun.from_json(content)
    raise ValueError(f"state {state}: a final run is complete or failed")
