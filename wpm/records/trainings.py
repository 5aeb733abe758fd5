"""Read and write the folder of one training: a trial of a search, or one fold of a final run."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.errors import DamagedFileError
from wpm.files import read_json, write_bytes, write_json
from wpm.records.layout import FORMAT, check_format, refuse_unexpected
from wpm.records.outcomes import Outcome
from wpm.records.progress import Progress, read_bytes
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
        waits: whether it waits at a rung.
    """

    folder: Path
    identity: Mapping[str, Any]
    reports: Sequence[Report] = ()
    result: Outcome | None = None
    waits: bool = False

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
    def origin(self) -> str:
        """Where the configuration was known from before the search; "" if it was sampled."""
        return str(self.identity.get("origin", ""))

    @property
    def state(self) -> TrialState:
        """How it ended, or that it has not ended."""
        if self.result is not None:
            return self.result.state
        return TrialState.WAITING if self.waits else TrialState.RUNNING

    @property
    def outcome(self) -> Outcome:
        """How it ended; while it runs, what its reports say so far."""
        return self.result or Outcome.from_reports(self.state, self.reports)


class TrainingFolder:
    """Reads and writes the folder of one training.

    Attributes:
        folder: the folder.
        progress: history and checkpoint.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.progress = Progress(folder)

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

        Args:
            reports: all reports so far.
            state: what the next step depends on, see `Progress.write_checkpoint`.
        """
        self.progress.write_checkpoint(state, reports)

    def read_progress(self) -> tuple[tuple[Report, ...], dict[str, Any] | None]:
        """Return the history and the checkpoint; ((), None) at the start.

        The history may be ahead of the checkpoint.

        Raises:
            DamagedFileError: either does not match its checksum.
            UserError: another version wrote them, in another format.
        """
        return self.progress.read()

    def check_progress(self) -> None:
        """Compare history and checkpoint with their checksums; not if the training has ended.

        Raises:
            DamagedFileError: either does not match.
            UserError: another version wrote them, in another format.
        """
        if not self.has_ended:
            self.progress.check()

    def read_reports(self) -> tuple[Report, ...]:
        """Return the history, without a look at the checkpoint; empty before the first save.

        Raises:
            UserError: it is damaged, or another version wrote it.
        """
        return self.progress.read_reports()

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
        data = read_bytes(path)
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
        self.progress.drop_checkpoint()
        self.write_waiting(False)

    @property
    def has_ended(self) -> bool:
        """Whether it is recorded how the training ended."""
        # The folder is listed, since a node may remember for a while that a file was not there.
        names = (path.name for path in self.folder.iterdir()) if self.folder.exists() else ()
        return "result.json" in names

    def finish_result(self) -> Outcome | None:
        """Return how the training ended; complete first what a killed `write_result` had not."""
        result = self.read_result()
        if result is not None and self.progress.has_files:
            self.progress.drop_checkpoint()
        return result

    def write_waiting(self, waits: bool) -> None:
        """Note that the training waits at a rung, or that it does so no longer.

        The note is for readers of the records; the study itself decides who waits.
        """
        if waits:
            write_json(self._waiting, {"format": FORMAT})
        else:
            self._waiting.unlink(missing_ok=True)

    @property
    def _waiting(self) -> Path:
        return self.folder / "waiting.json"

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
        result = self.read_result()
        waits = result is None and self._waiting.exists()
        return TrainingRecord(self.folder, self.read_identity(), reports, result, waits)


def model_file(fold: int) -> str:
    """Name the file of a fold's best model."""
    return f"model-fold-{fold}.safetensors"
