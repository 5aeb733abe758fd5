"""The file behind a study: Optuna's own journal, every line numbered and with a checksum."""

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend

from wpm.errors import DamagedFileError, storage_error

# What Optuna's replay of a line that lacks a checksum raises when the line is damaged.
_NOT_REPLAYED = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError)


def open_journal(path: Path) -> JournalStorage:
    """Open a study's journal, or begin one, and verify every line of it.

    The caller holds the study's lock: nobody else writes.

    Args:
        path: the file.

    Raises:
        DamagedFileError: a line was changed, lost, repeated or moved.
        StorageError: the file cannot be read or written.
    """
    try:
        # We hold the study's lock, so a lock on the journal is a dead writer's.
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        _mend_last_line(path)
        return JournalStorage(CheckedJournal(path))
    except OSError as error:
        raise storage_error(path, error) from error
    except _NOT_REPLAYED as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def check_end(
    path: Path,
    storage: JournalStorage,
    recorded: Iterable[int],
    parameters_of: Callable[[int], Mapping[str, float]],
) -> None:
    """Refuse a journal that has lost whole lines at its end: they leave no gap in the numbers.

    Args:
        path: the file.
        storage: what it holds.
        recorded: numbers of the trials that have a record.
        parameters_of: returns the parameters in a trial's record; it was written once the study
            knew them. Later lines are not missed: the records hold what they said.

    Raises:
        DamagedFileError: the journal knows less than the records.
    """
    studies = storage.get_all_studies()
    trials = [t for s in studies for t in storage.get_all_trials(s._study_id, deepcopy=False)]
    for number in recorded:
        trial = trials[number] if number < len(trials) else None
        if trial is not None and trial.state.is_finished():
            continue
        parameters = parameters_of(number)
        if trial is None or any(trial.params.get(n) != v for n, v in parameters.items()):
            raise _damaged(path, f"it is older than the record of trial {number}")


class CheckedJournal(BaseJournalBackend):
    """Optuna's journal file with two more keys in every entry: its line and a CRC-32.

    The checksum is of the line's bytes up to it. Optuna looks up the keys that it knows, so that
    it, and optuna-dashboard, read the file as well. Lines without the two keys are accepted at
    the start only: studies from before have them. Every line is verified once, when it is new.
    """

    def __init__(self, path: Path) -> None:
        """Begin to read.

        Args:
            path: the file; made where there is none.
        """
        self._path = path
        self._file = JournalFileBackend(str(path))
        self._starts = [0]  # of every line that was read, and of the next
        self._signed = False  # whether a line with a checksum was read

    def read_logs(self, log_number_from: int) -> Sequence[dict[str, Any]]:
        """Return the entries from a number on, counted from 0.

        Raises:
            DamagedFileError: a new line is not the one that was written there.
            StorageError: the file cannot be read.
        """
        try:
            with self._path.open("rb") as file:
                file.seek(self._starts[log_number_from])
                *lines, _ = file.read().split(b"\n")  # the last has not ended yet
        except OSError as error:
            raise storage_error(self._path, error, "read") from error
        return [self._read_line(line, n) for n, line in enumerate(lines, log_number_from + 1)]

    def _read_line(self, line: bytes, number: int) -> dict[str, Any]:
        is_new = number == len(self._starts)
        if is_new and _is_signed(line, number):
            self._signed = True
        elif is_new and (trouble := self._explain(line, number)):
            raise _damaged(self._path, f"line {number} {trouble}")
        if is_new:
            self._starts.append(self._starts[-1] + len(line) + 1)
        entry: dict[str, Any] = json.loads(line)
        return entry

    def _explain(self, line: bytes, number: int) -> str:
        """Say what is wrong with a line that is not signed as it should; empty if nothing is."""
        try:
            entry = json.loads(line)
        except ValueError:
            return "is not JSON"
        if not isinstance(entry, dict):
            return "is not an entry"
        if "crc32" in entry and _is_signed(line, entry.get("line", 0)):
            return f"was written as line {entry['line']}: lines were lost, repeated or moved"
        if "crc32" in entry or "line" in entry:
            return "does not match its checksum"
        return "has no checksum: another program wrote it, delete it" if self._signed else ""

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append entries, all or none.

        Raises:
            StorageError: the file cannot be written; it is as before.
        """
        signed = [_sign(log, number) for number, log in enumerate(logs, len(self._starts))]
        size = None
        try:
            size = self._path.stat().st_size
            self._file.append_logs(signed)
        except (OSError, RuntimeError) as error:  # the latter of a lock that cannot be removed
            if size is not None:
                with contextlib.suppress(OSError):  # else the next launch cuts off what is torn
                    os.truncate(self._path, size)
            raise storage_error(self._path, error) from error


def _sign(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Add its line and its checksum to an entry, as the last keys."""
    numbered = {**entry, "line": number}
    text = json.dumps(numbered, separators=(",", ":"))  # as Optuna writes it
    return {**numbered, "crc32": zlib.crc32(text[:-1].encode())}


def _is_signed(line: bytes, number: int) -> bool:
    """Whether a line, without its end, is what `_sign` made of an entry with that number."""
    body, _, rest = line.rpartition(b',"crc32":')
    return body.endswith(b',"line":%d' % number) and rest == b"%d}" % zlib.crc32(body)


def _mend_last_line(path: Path) -> None:
    """Cut off the half line that a writer leaves when it is killed while appending.

    Optuna would append to it, and could read neither line again. The write was never
    acknowledged, so nothing that anybody relied on is lost. A whole entry stays: of that, only
    the end of the line is missing or damaged.
    """
    if not path.exists():
        return
    with path.open("rb+") as file:
        data = file.read()
        start = data.rfind(b"\n") + 1
        if start == len(data):
            return
        rest, number = data[start:], data.count(b"\n") + 1
        kept = next((part for part in (rest, rest[:-1]) if _is_signed(part, number)), b"")
        file.truncate(start + len(kept))
        if kept:
            file.seek(0, os.SEEK_END)
            file.write(b"\n")


def _damaged(path: Path, what: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path}: study file is damaged ({what}); restore it from a backup, or move {path.parent} "
        "away to start again"
    )
