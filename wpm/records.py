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
import json
import os
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.atomic import (
    DamagedFileError,
    FormatError,
    append_line,
    is_locked,
    read_json,
    storage_error,
    write_bytes,
    write_json,
)
from wpm.config import Protocol
from wpm.errors import UserError

FORMAT = 1  # raise when a reader of the old layout would misread the new

LOGS_KEPT = 20  # of launches

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")

RUNNING, COMPLETE, PRUNED, FAILED = "running", "complete", "pruned", "failed"
_PROTOCOL_DEFAULTS = {f.name: f.default for f in fields(Protocol) if f.default is not MISSING}


@dataclass(frozen=True)
class StudyPlace:
    """Where the records of a study are."""

    run_root: Path
    dataset: str
    protocol: str
    row: str

    def __post_init__(self) -> None:
        for part in (self.dataset, self.protocol, self.row):
            if not _NAME.fullmatch(part):
                raise UserError(
                    f"{part!r} cannot name a folder under {self.run_root}: "
                    "letters, digits and '_.+-' only"
                )

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.run_root / self.dataset / self.protocol / self.row

    @property
    def name(self) -> str:
        """Name in messages and in Optuna's storage."""
        return f"{self.dataset}/{self.protocol}/{self.row}"

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.folder / "study.journal"

    @property
    def lock(self) -> Path:
        """Lock of the launch that runs the study."""
        return self.folder / "study.lock"

    def trial_folder(self, number: int) -> Path:
        """Folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"


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
    def state(self) -> str:
        """How it ended, or that it has not."""
        return RUNNING if self.result is None else str(self.result["state"])


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


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuse records of another layout.

    Raises:
        FormatError: names the version that wrote them.
    """
    if content.get("format") != FORMAT:
        writer = content.get("wpm") or content.get("provenance", {}).get("wpm", "another version")
        raise FormatError(
            f"{path}: written by wpm {writer} in record format {content.get('format')}, this is "
            f"wpm {__version__} with format {FORMAT}; use that version, or another --run-root"
        )


def read_study(place: StudyPlace) -> dict[str, Any] | None:
    """Return study.json, or None where there is no such study.

    Raises:
        UserError: damaged, or of another record format.
    """
    path = place.folder / "study.json"
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    check_format(content, path)
    # A study of an earlier version was run under the defaults of what has been added since.
    identity = {"sampler": "tpe", **content["identity"]}
    identity["protocol"] = {**_PROTOCOL_DEFAULTS, **identity.get("protocol", {})}
    content["identity"] = identity
    return content


def write_study(place: StudyPlace, content: Mapping[str, Any]) -> None:
    """Write study.json."""
    write_json(place.folder / "study.json", {"format": FORMAT, **content})


def remove_empty_study(place: StudyPlace) -> None:
    """Remove what a study without a trial has written, if the disk lets us; hold its lock."""
    with suppress(OSError):
        if not trial_numbers(place):
            place.journal.unlink(missing_ok=True)
            (place.folder / "study.json").unlink()  # last: a journal alone is refused


def find_studies(
    run_root: Path, dataset: str | None = None, protocol: str | None = None, row: str | None = None
) -> list[StudyPlace]:
    """Return the studies on disk, narrowed by name, sorted."""
    places = []
    # Not in hidden folders: a launch may be removing one at this moment.
    for path in run_root.glob("[!.]*/*/*/study.json"):
        names = path.relative_to(run_root).parts[:3]
        wanted = all(w in (None, n) for w, n in zip((dataset, protocol, row), names, strict=True))
        # A folder that somebody copied by hand, "triplet (copy)", is not a study.
        if wanted and all(_NAME.fullmatch(name) for name in names):
            places.append(StudyPlace(run_root, *names))
    return sorted(places, key=lambda place: place.folder)


def trial_numbers(place: StudyPlace) -> list[int]:
    """Return the numbers of the trials that have a record, in order."""
    names = [p.parent.name for p in place.folder.glob("trials/*/trial.json")]
    return sorted(int(name) for name in names if name.isdigit())


def read_trials(
    place: StudyPlace, *, with_reports: bool = False
) -> tuple[list[TrainingRecord], list[str]]:
    """Read the trials of a study.

    Returns:
        The readable ones by number, and a line for each that is damaged.
    """
    records, problems = [], []
    for folder in _sorted_folders(place.folder / "trials"):
        if not (folder / "trial.json").exists():
            continue  # killed between making the folder and writing into it
        try:
            records.append(TrainingFolder(folder).read(with_reports=with_reports))
        except UserError as error:
            problems.append(str(error))
    return records, problems


@dataclass(frozen=True)
class FinalRecord:
    """One configuration's final runs.

    Attributes:
        folder: where it was read.
        content: final.json: parameters, where they come from, provenance.
        results: result.json of every seed that was begun, None for one that has not ended.
        folds: for each of these seeds, result.json of the folds that have ended.
    """

    folder: Path
    content: Mapping[str, Any]
    results: list[dict[str, Any] | None]
    folds: list[list[dict[str, Any]]]

    def with_state(self, state: str) -> list[dict[str, Any]]:
        """Return the results of the seeds that ended in a state."""
        return [r for r in self.results if r is not None and r["state"] == state]


def best_tested(finals: Sequence[FinalRecord]) -> FinalRecord | None:
    """Return the tested configuration that was best in validation; None without a tested one.

    Of equal scores the earlier trial; what was not chosen by a search comes last.
    """

    def order(final: FinalRecord) -> tuple[float, str]:
        chosen = final.content["chosen"]
        score = float("-inf") if chosen["score"] is None else chosen["score"]
        return -score, str(chosen["trial"]).zfill(9)

    return min((f for f in finals if f.with_state(COMPLETE)), key=order, default=None)


def read_finals(place: StudyPlace) -> tuple[list[FinalRecord], list[str]]:
    """Read the final runs of all configurations of a study.

    Returns:
        The readable ones, and a line for each damaged record.
    """
    finals, problems = [], []
    for folder in _sorted_folders(place.folder / "finals"):
        path = folder / "final.json"
        if not path.exists():
            continue  # killed between making the folder and writing into it
        try:
            content = read_json(path)
            check_format(content, path)
        except UserError as error:
            problems.append(str(error))
            continue
        results, folds = [], []
        for seed in _sorted_folders(folder):
            try:
                results.append(TrainingFolder(seed).read_result())
            except UserError as error:
                problems.append(str(error))
                continue
            ended, more_problems = _read_results(seed)
            folds.append(ended)
            problems += more_problems
        finals.append(FinalRecord(folder, content, results, folds))
    return finals, problems


def _read_results(seed: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return result.json of the folds of a run that have ended, and a line for each damaged one."""
    results, problems = [], []
    for fold in _sorted_folders(seed):
        try:
            result = TrainingFolder(fold).read_result()
        except UserError as error:
            problems.append(str(error))
            continue
        if result is not None:
            results.append(result)
    return results, problems


def worker_seconds(reports: Sequence[Mapping[str, Any]]) -> float:
    """Return the seconds that a training's worker has used, by its last report."""
    folds = reports[-1]["folds"] if reports else []
    return float(sum(fold["training_seconds"] + fold["validation_seconds"] for fold in folds))


def gpu_seconds(reports: list[dict[str, Any]]) -> float:
    """Return the same, of a GPU: each in proportion to the share of one that it had."""
    share: float = reports[-1].get("gpus", 0.0) if reports else 0.0
    return worker_seconds(reports) * share


def read_all_reports(place: StudyPlace) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of all trainings of a study, search and final runs, by folder.

    Raises:
        UserError: a record is damaged.
    """
    folders = [*place.folder.glob("trials/*"), *place.folder.glob("finals/*/*/fold-*")]
    return {
        str(folder): read_json(folder / "reports.json")["reports"]
        for folder in folders
        if (folder / "reports.json").exists()
    }


def is_running(place: StudyPlace) -> bool:
    """Whether a launch works on the study now."""
    return is_locked(place.lock)


def note_test_access(place: StudyPlace, reason: str) -> None:
    """Leave a line that test images are about to be opened."""
    line = json.dumps({"time": timestamp(), "process": os.getpid(), "reason": reason})
    append_line(place.folder / "test_access.jsonl", line)


def new_log(run_root: Path) -> Path:
    """Return a new name for a launch's log; of the others the newest stay."""
    folder = run_root / "logs"
    ages: dict[Path, float] = {}
    for path in folder.glob("*.log"):
        with suppress(OSError):  # another launch has just deleted it
            ages[path] = path.stat().st_mtime
    for path in sorted(ages, key=ages.__getitem__)[: max(0, len(ages) - LOGS_KEPT + 1)]:
        path.unlink(missing_ok=True)
    return folder / f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.getpid()}.log"


def configuration_key(parameters: Mapping[str, float]) -> str:
    """Name a configuration by its values."""
    body = json.dumps(dict(parameters), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def timestamp() -> str:
    """Now, in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Say what code, libraries and machine write a record."""
    libraries = ("torch", "torchvision", "pytorch-metric-learning", "ray", "optuna", "numpy")
    return {
        "wpm": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        "libraries": {name: _version_of(name) for name in libraries},
        "machine": platform.node(),
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "started": timestamp(),
    }


@cache  # of the code that this process runs, whatever is installed meanwhile
def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except ModuleNotFoundError:
        return None


@cache
def _commit() -> str | None:
    """Return the commit of the source tree, marked when it was changed; None outside a tree."""
    here = Path(__file__).parent
    try:
        answer = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"],
            cwd=here, capture_output=True, text=True, timeout=10, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() or None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise storage_error(path, error, "read") from error


def _sorted_folders(parent: Path) -> list[Path]:
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir())
