"""The run folder: the one writer and the one reader of what was run and what came out.

Layout (docs/records.md sets it out):

    runs/<dataset>/<protocol>/<row>/
        study.json               what was searched: space, protocol, data, budget, provenance
        study.journal            Optuna's storage: the search's only memory
        study.lock               held by the one launch that runs the study
        trials/0007/trial.json   one configuration, written before it starts
                    reports.json history so far, and which checkpoint belongs to it
                    checkpoint-12.pt
                    result.json  how it ended
                    train.log, events.out.tfevents.*  for people: never read back
        finals/<configuration>/  the best configuration, trained again
            final.json           which trial it came from, seeds
            seed-1000/fold-0/    the same four files a training, and model.safetensors
            seed-1000/result.json test scores
        test_access.jsonl        a line for every time that test images were opened
"""

import hashlib
import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.errors import DamagedFileError, storage_error
from wpm.files import read_json, write_bytes, write_json
from wpm.records.layout import FORMAT, check_format
from wpm.records.provenance import timestamp
from wpm.records.states import TrialState


@dataclass(frozen=True)
class TrainingRecord:
    """What is on disk about one training: a trial, or one fold of a final run.

    Attributes:
        folder: where it was read.
        identity: trial.json: number, parameters, configuration, provenance.
        reports: history so far, one dict a validation.
        result: result.json, or None while it has not ended.
    """

    folder: Path
    identity: Mapping[str, Any]
    reports: list[dict[str, Any]] = field(default_factory=list)
    result: Mapping[str, Any] | None = None

    @property
    def state(self) -> TrialState:
        """How it ended, or that it has not."""
        return TrialState.RUNNING if self.result is None else TrialState(self.result["state"])


class TrainingFolder:
    """Reads and writes the folder of one training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Say what is trained here, before it starts."""
        write_json(self.folder / "trial.json", {"format": FORMAT, **identity})

    def read_identity(self) -> dict[str, Any]:
        """Return what is trained here.

        Raises:
            UserError: no such training, damaged, or of another record format.
        """
        path = self.folder / "trial.json"
        identity: dict[str, Any] = read_json(path)
        check_format(identity, path)
        return identity

    def write_progress(self, reports: list[dict[str, Any]], state: Mapping[str, Any]) -> None:
        """Save a checkpoint and the history that belongs to it, as one step.

        The history names its checkpoint, and is replaced after that is in place: killed between
        the two, the old pair is still whole. So two different states need two names: do not save
        the same position twice.

        Args:
            reports: all reports so far.
            state: what goes on depends on: tensors and plain values, and its position: `epoch`,
                and `iteration` in the middle of one.
        """
        import torch  # here: readers of records need no torch, and start faster without

        buffer = io.BytesIO()
        torch.save({**state, "wpm": __version__}, buffer)
        data = buffer.getvalue()
        iteration = state.get("iteration", 0)
        name = f"checkpoint-{state['epoch']}{f'-{iteration}' if iteration else ''}.pt"
        write_bytes(self.folder / name, data)
        checkpoint = {"file": name, "sha256": hashlib.sha256(data).hexdigest()}
        write_json(
            self.folder / "reports.json",
            {
                "format": FORMAT,
                "wpm": __version__,
                "reports": reports,
                "epoch": state["epoch"],
                "checkpoint": checkpoint,
            },
        )
        self._drop_checkpoints(keep=name)

    def read_progress(self) -> tuple[list[dict[str, Any]], dict[str, Any] | None]:
        """Return the history and the checkpoint that belongs to it; ([], None) at the start.

        Raises:
            DamagedFileError: either does not match its checksum.
            UserError: another version wrote them, in another format.
        """
        reports, data = self._read_checked()
        if data is None:
            return reports, None
        import torch

        try:
            state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch raises on what another torch wrote
            raise self.unusable_checkpoint("another version", error) from error
        return reports, state

    def unusable_checkpoint(self, writer: str, error: Exception) -> DamagedFileError:
        """Return what tells that a checkpoint, whole as it is, cannot be gone on with."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return DamagedFileError(
            f"{self.folder}: its checkpoint, written by wpm {writer}, does not fit wpm "
            f"{__version__} ({reason}); use that version, or delete reports.json there to train "
            "this configuration again from the start"
        )

    def check_progress(self) -> None:
        """Compare history and checkpoint with their checksums.

        Raises:
            DamagedFileError: either does not match.
            UserError: another version wrote them, in another format.
        """
        self._read_checked()

    def _read_checked(self) -> tuple[list[dict[str, Any]], bytes | None]:
        """Return the history and the bytes of the checkpoint that belongs to it."""
        path = self.folder / "reports.json"
        if not path.exists():
            return [], None
        progress = read_json(path)
        check_format({"format": FORMAT, **progress}, path)  # the first versions wrote none here
        checkpoint = progress["checkpoint"]
        if checkpoint is None:
            return progress["reports"], None
        file = self.folder / checkpoint["file"]
        data = _read_bytes(file) if file.exists() else b""
        if hashlib.sha256(data).hexdigest() != checkpoint["sha256"]:
            raise DamagedFileError(
                f"{file}: checkpoint is damaged or missing; delete {path} to train this "
                "configuration again from the start"
            )
        return progress["reports"], data

    def write_model(self, name: str, data: bytes) -> str:
        """Keep a model's weights; return their checksum, for the result."""
        write_bytes(self.folder / name, data)
        return hashlib.sha256(data).hexdigest()

    def read_model(self, name: str) -> bytes:
        """Return a model's weights.

        Raises:
            DamagedFileError: they do not match the checksum in the result.
            StorageError: they cannot be read.
        """
        path = self.folder / name
        data = _read_bytes(path)
        wanted = (self.read_result() or {}).get("models", {}).get(name)
        if wanted not in (None, hashlib.sha256(data).hexdigest()):  # None: of the first versions
            raise DamagedFileError(
                f"{path}: model is damaged; restore it from a backup, or delete the folder to "
                "train it again with --best-only"
            )
        return data

    def write_result(self, result: Mapping[str, Any]) -> None:
        """Say how the training ended; its checkpoint is no longer needed."""
        write_json(self.folder / "result.json", dict(result))
        path = self.folder / "reports.json"
        if path.exists():
            write_json(path, {**read_json(path), "checkpoint": None})
        self._drop_checkpoints(keep=None)

    def finish_result(self) -> dict[str, Any] | None:
        """Return how the training ended, after finishing what a killed `write_result` had not."""
        result = self.read_result()
        if result is not None and any(self.folder.glob("*checkpoint-*")):
            self.write_result(result)
        return result

    def drop_models(self) -> None:
        """Delete the best models' weights: they lost, or their run failed."""
        for path in self.folder.glob("model-fold-*.safetensors"):
            path.unlink(missing_ok=True)

    def write_log(self, text: str) -> None:
        """Keep a traceback beside the records."""
        write_bytes(self.folder / "error.log", text.encode())

    def read_result(self) -> dict[str, Any] | None:
        """Return how the training ended, None if it has not."""
        path = self.folder / "result.json"
        result: dict[str, Any] | None = read_json(path) if path.exists() else None
        return result

    def read(self, *, with_reports: bool = True) -> TrainingRecord:
        """Read everything but the checkpoint.

        Raises:
            UserError: no such training, or a damaged file.
        """
        reports_path = self.folder / "reports.json"
        reports = (
            read_json(reports_path)["reports"] if with_reports and reports_path.exists() else []
        )
        return TrainingRecord(self.folder, self.read_identity(), reports, self.read_result())

    def _drop_checkpoints(self, keep: str | None) -> None:
        # The hidden ones are halves that a killed process left: whoever writes holds the lock.
        for pattern in ("checkpoint-*.pt", ".checkpoint-*"):
            for path in self.folder.glob(pattern):
                if path.name != keep:
                    with suppress(OSError):  # the next to come removes it
                        path.unlink(missing_ok=True)


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error


def model_file(fold: int) -> str:
    """Name the file of a fold's best model."""
    return f"model-fold-{fold}.safetensors"


def summarise(state: TrialState, reason: str, reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the content of result.json: how a training ended.

    Args:
        state: in which it ended.
        reason: why, where it failed or was stopped.
        reports: all its reports.
    """
    last = reports[-1] if reports else {"epoch": 0, "best_map_at_r": None, "folds": []}
    return {
        "state": state,
        "reason": reason,
        "score": last["best_map_at_r"],
        "epochs": last["epoch"],
        "fold_scores": [fold["best_map_at_r"] for fold in last["folds"]],
        "best_epochs": [fold["best_epoch"] for fold in last["folds"]],
        "training_seconds": sum(fold["training_seconds"] for fold in last["folds"]),
        "validation_seconds": sum(fold["validation_seconds"] for fold in last["folds"]),
        "gpus": last.get("gpus", 0.0),
        "ended": timestamp(),
    }
