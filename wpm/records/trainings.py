"""Read and write the folder of one training: a trial of a search, or one fold of a final run."""

import hashlib
import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.errors import DamagedFileError, storage_error
from wpm.files import read_json, write_bytes, write_json
from wpm.records.layout import FORMAT, check_format, refuse_unexpected
from wpm.records.outcomes import Outcome
from wpm.records.states import TrialState
from wpm.reports import Report


@dataclass(frozen=True)
class TrainingRecord:
    """What is on disk about one training.

    Attributes:
        folder: where it was read.
        identity: trial.json: number, parameters, configuration, provenance.
        reports: history so far; empty where the reader did not ask for it.
        result: how it ended, or None while it has not ended.
    """

    folder: Path
    identity: Mapping[str, Any]
    reports: Sequence[Report] = ()
    result: Outcome | None = None

    @property
    def number(self) -> int:
        """Number of the trial, or position of the fold."""
        return int(self.identity["number"])

    @property
    def parameters(self) -> Mapping[str, float]:
        """The configuration's parameters by name."""
        parameters: Mapping[str, float] = self.identity["parameters"]
        return parameters

    @property
    def state(self) -> TrialState:
        """How it ended, or that it has not ended."""
        return TrialState.RUNNING if self.result is None else self.result.state

    @property
    def outcome(self) -> Outcome:
        """How it ended; while it runs, what its reports say so far."""
        return self.result or Outcome.from_reports(TrialState.RUNNING, self.reports)


class TrainingFolder:
    """Reads and writes the folder of one training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write_identity(self, identity: Mapping[str, Any]) -> None:
        """Write what is trained here; called before it starts."""
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

    def write_progress(self, reports: Sequence[Report], state: Mapping[str, Any]) -> None:
        """Save a checkpoint and the history that belongs to it, as one step.

        The history names its checkpoint, and is replaced only after the checkpoint is in place. A
        process that is killed between the two leaves the old pair intact. So every state needs a
        name of its own: do not save the same position twice.

        Args:
            reports: all reports so far.
            state: what the next step depends on: tensors and plain values, and the position:
                `epoch`, and `iteration` in the middle of an epoch.
        """
        import torch  # here: readers of records need no torch, and start faster without it

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
                "reports": [report.to_json() for report in reports],
                "epoch": state["epoch"],
                "checkpoint": checkpoint,
            },
        )
        self._drop_checkpoints(keep=name)

    def read_progress(self) -> tuple[tuple[Report, ...], dict[str, Any] | None]:
        """Return the history and the checkpoint that belongs to it; ((), None) at the start.

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
        """Return the error for a checkpoint that is intact but does not fit this version."""
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

    def _read_checked(self) -> tuple[tuple[Report, ...], bytes | None]:
        """Return the history and the bytes of the checkpoint that belongs to it."""
        path = self.folder / "reports.json"
        if not path.exists():
            return (), None
        progress = read_json(path)
        check_format({"format": FORMAT, **progress}, path)  # the first versions wrote none here
        reports = parse_reports(progress, path)
        checkpoint = progress["checkpoint"]
        if checkpoint is None:
            return reports, None
        file = self.folder / checkpoint["file"]
        data = _read_bytes(file) if file.exists() else b""
        if hashlib.sha256(data).hexdigest() != checkpoint["sha256"]:
            raise DamagedFileError(
                f"{file}: checkpoint is damaged or missing; delete {path} to train this "
                "configuration again from the start"
            )
        return reports, data

    def read_reports(self) -> tuple[Report, ...]:
        """Return the history, without a look at the checkpoint; empty before the first save.

        Raises:
            UserError: it is damaged, or another version wrote it.
        """
        path = self.folder / "reports.json"
        return parse_reports(read_json(path), path) if path.exists() else ()

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
        result = self.read_result()
        expected = result.models.get(name) if result else None
        # The first versions wrote no checksum of models.
        if expected not in (None, hashlib.sha256(data).hexdigest()):
            raise DamagedFileError(
                f"{path}: model is damaged; restore it from a backup, or delete the folder to "
                "train it again with --best-only"
            )
        return data

    def write_result(self, result: Outcome) -> None:
        """Write how the training ended; its checkpoint is no longer needed and is deleted."""
        write_json(self.folder / "result.json", result.to_json())
        path = self.folder / "reports.json"
        if path.exists():
            write_json(path, {**read_json(path), "checkpoint": None})
        self._drop_checkpoints(keep=None)

    def finish_result(self) -> Outcome | None:
        """Return how the training ended; complete first what a killed `write_result` had not."""
        result = self.read_result()
        if result is not None and any(self.folder.glob("*checkpoint-*")):
            self.write_result(result)
        return result

    def drop_models(self) -> None:
        """Delete the best models' weights: another configuration is better, or the run failed."""
        for path in self.folder.glob("model-fold-*.safetensors"):
            path.unlink(missing_ok=True)

    def write_log(self, text: str) -> None:
        """Keep a traceback beside the records."""
        write_bytes(self.folder / "error.log", text.encode())

    def read_result(self) -> Outcome | None:
        """Return how the training ended, None if it has not ended.

        Raises:
            UserError: result.json is damaged, or another version wrote it.
        """
        path = self.folder / "result.json"
        if not path.exists():
            return None
        content = read_json(path)
        with refuse_unexpected(path):
            return Outcome.from_json(content)

    def read(self, *, with_reports: bool = True) -> TrainingRecord:
        """Read everything but the checkpoint.

        Raises:
            UserError: no such training, or a damaged file.
        """
        reports = self.read_reports() if with_reports else ()
        return TrainingRecord(self.folder, self.read_identity(), reports, self.read_result())

    def _drop_checkpoints(self, keep: str | None) -> None:
        # Whoever writes holds the lock, so the hidden files are halves that a killed process left.
        for pattern in ("checkpoint-*.pt", ".checkpoint-*"):
            for path in self.folder.glob(pattern):
                if path.name != keep:
                    with suppress(OSError):  # the next save removes it
                        path.unlink(missing_ok=True)


def parse_reports(progress: Mapping[str, Any], path: Path) -> tuple[Report, ...]:
    """Return the history in the content of reports.json.

    Raises:
        FormatError: names the file, and the key that is missing.
    """
    with refuse_unexpected(path):
        return tuple(Report.from_json(report) for report in progress["reports"])


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error


def model_file(fold: int) -> str:
    """Name the file of a fold's best model."""
    return f"model-fold-{fold}.safetensors"
