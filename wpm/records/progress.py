"""How far a training has come: its history, and the checkpoint from which it resumes.

`reports.json` holds the history and names the files of the checkpoint with their checksums. History
is written after every validation, a checkpoint less often, so that history may be ahead of it:
whoever resumes trains again what lies between, and keeps the history.
"""

import hashlib
import io
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.errors import DamagedFileError, storage_error
from wpm.files import HashedFile, WriteCancelledError, read_json, write_json, write_stream
from wpm.records.layout import FORMAT, check_format, refuse_unexpected
from wpm.reports import Report

# In a state: best models by a name that stands for the same weights for ever.
MODELS = "models"


class Progress:
    """Reads and writes history and checkpoint in the folder of a training.

    One thread may write checkpoints while another writes the history.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / "reports.json"
        self._lock = threading.Lock()

    def write_reports(self, reports: Sequence[Report]) -> None:
        """Write the history; the checkpoint stays as it is."""
        with self._lock:
            before = self._read()
            self._write({**before, "reports": [report.to_json() for report in reports]})

    def write_checkpoint(
        self,
        state: Mapping[str, Any],
        reports: Sequence[Report] | None = None,
        is_cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Write a checkpoint, and then its name into reports.json.

        A process that is killed between the two leaves the old checkpoint intact. So every state
        needs a name of its own: do not save the same position twice. Models that the checkpoint
        before this one has already are not written again.

        Args:
            state: what the next step depends on: tensors and plain values, and the position:
                `epoch`, `step` where it is another number (see `wpm.reports.Report`), and
                `iteration` in the middle of an epoch; best models under `MODELS`.
            reports: the history to write with it; None leaves it as it is.
            is_cancelled: asked often; True gives up.

        Raises:
            StorageError: a file cannot be written; the checkpoint is the one before.
            WriteCancelledError: given up, or the training has ended meanwhile.
        """
        checkpoint = self._read()["checkpoint"] or {}
        try:
            models = {
                name: checkpoint.get(MODELS, {}).get(name)
                or self._save(f"checkpoint-model-{name}.pt", weights, is_cancelled)
                for name, weights in state.get(MODELS, {}).items()
            }
            rest = {key: value for key, value in state.items() if key != MODELS}
            content = {**rest, "wpm": __version__}
            saved = self._save(_checkpoint_name(state), content, is_cancelled)
            new = {**saved, MODELS: models} if models else saved
            with self._lock:
                if (self._folder / "result.json").exists():
                    raise WriteCancelledError
                before = self._read()
                if reports is not None:
                    before["reports"] = [report.to_json() for report in reports]
                self._write({**before, "epoch": state["epoch"], "checkpoint": new})
            checkpoint = new
        finally:
            self._drop_others(checkpoint)

    def _save(self, name: str, content: Any, is_cancelled: Callable[[], bool]) -> dict[str, str]:
        """Write one file; return its name and checksum."""
        import torch  # here: readers of records need no torch, and start faster without it

        def write(file: HashedFile) -> None:
            torch.save(content, file)  # type: ignore[arg-type]

        digest = write_stream(self._folder / name, write, is_cancelled)
        return {"file": name, "sha256": digest}

    def _read(self) -> dict[str, Any]:
        """Return the content of reports.json, or what it is before the first."""
        if self._path.exists():
            return dict(read_json(self._path))
        return {"reports": [], "epoch": 0, "checkpoint": None}

    def _write(self, content: Mapping[str, Any]) -> None:
        write_json(self._path, {**content, "format": FORMAT, "wpm": __version__})

    def read(self) -> tuple[tuple[Report, ...], dict[str, Any] | None]:
        """Return history and checkpoint; without a checkpoint, training begins at the start.

        Raises:
            DamagedFileError: either does not match its checksum.
            UserError: another version wrote them, in another format.
        """
        reports, data, models = self._read_checked()
        if data is None:
            return reports, None
        state = self._load(data)
        state[MODELS] = {name: self._load(weights) for name, weights in models.items()}
        return reports, state

    def _load(self, data: bytes) -> dict[str, Any]:
        import torch

        try:
            content: dict[str, Any] = torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=True
            )
        except Exception as error:  # whatever torch raises on what another torch wrote
            raise self.unusable("another version", error) from error
        return content

    def unusable(self, writer: str, error: Exception) -> DamagedFileError:
        """Return the error for a checkpoint that is intact but does not fit this version."""
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return DamagedFileError(
            f"{self._folder}: its checkpoint, written by wpm {writer}, does not fit wpm "
            f"{__version__} ({reason}); use that version, or delete reports.json there to train "
            "this configuration again from the start"
        )

    def check(self) -> None:
        """Compare history and checkpoint with their checksums.

        Raises:
            DamagedFileError: either does not match.
            UserError: another version wrote them, in another format.
        """
        self._read_checked()

    def _read_checked(self) -> tuple[tuple[Report, ...], bytes | None, dict[str, bytes]]:
        """Return the history, the checkpoint's bytes, and those of its models."""
        if not self._path.exists():
            return (), None, {}
        progress = read_json(self._path)
        # The first versions wrote no format here.
        check_format({"format": FORMAT, **progress}, self._path)
        reports = parse_reports(progress, self._path)
        checkpoint = progress["checkpoint"]
        if checkpoint is None:
            return reports, None, {}
        models = checkpoint.get(MODELS, {})
        return (
            reports,
            self._read_file(checkpoint),
            {name: self._read_file(model) for name, model in models.items()},
        )

    def _read_file(self, saved: Mapping[str, str]) -> bytes:
        file = self._folder / saved["file"]
        data = read_bytes(file) if file.exists() else b""
        if hashlib.sha256(data).hexdigest() != saved["sha256"]:
            raise DamagedFileError(
                f"{file}: checkpoint is damaged or missing; delete {self._path} to train this "
                "configuration again from the start"
            )
        return data

    def read_reports(self) -> tuple[Report, ...]:
        """Return the history, without a look at the checkpoint; empty before the first save.

        Raises:
            UserError: it is damaged, or another version wrote it.
        """
        if not self._path.exists():
            return ()
        return parse_reports(read_json(self._path), self._path)

    def drop_checkpoint(self) -> None:
        """Delete the checkpoint: the training has ended."""
        with self._lock:
            if self._path.exists():
                self._write({**self._read(), "checkpoint": None})
        self._drop_others({})

    @property
    def has_files(self) -> bool:
        """Whether any file of a checkpoint is there, complete or not."""
        return any(self._folder.glob("*checkpoint-*"))

    def _drop_others(self, checkpoint: Mapping[str, Any]) -> None:
        """Delete all files of checkpoints but those of one."""
        kept = {checkpoint.get("file"), *(m["file"] for m in checkpoint.get(MODELS, {}).values())}
        # Whoever writes holds the lock, so the hidden files are halves that a killed process left.
        for pattern in ("checkpoint-*.pt", ".checkpoint-*"):
            for path in self._folder.glob(pattern):
                if path.name not in kept:
                    with suppress(OSError):  # the next save removes it
                        path.unlink(missing_ok=True)


def _checkpoint_name(state: Mapping[str, Any]) -> str:
    iteration = state.get("iteration", 0)
    step = state.get("step", state["epoch"])
    return f"checkpoint-{step}{f'-{iteration}' if iteration else ''}.pt"


def parse_reports(progress: Mapping[str, Any], path: Path) -> tuple[Report, ...]:
    """Return the history in the content of reports.json.

    Raises:
        FormatError: names the file, and the key that is missing.
    """
    with refuse_unexpected(path):
        return tuple(Report.from_json(report) for report in progress["reports"])


def read_bytes(path: Path) -> bytes:
    """Return the content of a file.

    Raises:
        StorageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error
