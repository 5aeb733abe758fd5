"""The file behind a study: Optuna's own journal, with a number and a checksum on every line."""

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend, JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from wpm.errors import DamagedFileError, storage_error

# Raised while Optuna replays a damaged line that has no checksum.
_NOT_REPLAYED = (ValueError, KeyError, TypeError, AttributeError, IndexError, AssertionError)


def open_journal(path: Path) -> JournalStorage:
    """Open a study's journal, or begin one, and verify every line of it.

    The caller holds the study's lock, so that nobody else writes.

    Raises:
        DamagedFileError: a line was changed, lost, repeated or moved.
        StorageError: the file cannot be read or written.
    """
    try:
        # We hold the study's lock, so a lock on the journal belongs to a process that crashed.
        path.with_name(path.name + ".lock").unlink(missing_ok=True)
        _fix_last_line(path)
        return JournalStorage(CheckedJournal(path))
    except OSError as error:
        raise storage_error(path, error) from error
    except _NOT_REPLAYED as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from error


def has_no_trial(path: Path) -> bool:
    """Whether no trial of a journal was ever started; points that wait to be tried do not count.

    Raises:
        UserError: as `open_journal` does.
    """
    if not path.exists():
        return True
    return all(trial.state is TrialState.WAITING for trial in _all_trials(open_journal(path)))


def _all_trials(storage: JournalStorage) -> list[FrozenTrial]:
    studies = storage.get_all_studies()
    return [t for s in studies for t in storage.get_all_trials(s._study_id, deepcopy=False)]


def check_end(
    path: Path,
    storage: JournalStorage,
    recorded: Iterable[int],
    parameters_of: Callable[[int], Mapping[str, float]],
) -> None:
    """Refuse a journal that has lost complete lines at its end: they leave no gap in the numbers.

    A trial's record is written after the journal has its parameters, so the journal must know the
    parameters of every recorded trial. What later lines said is in the records too, and is
    restored from there.

    Args:
        path: the file, for messages.
        storage: what Optuna has read from it.
        recorded: numbers of the trials that have a record.
        parameters_of: returns the parameters in a trial's record.

    Raises:
        DamagedFileError: the journal knows less than the records.
    """
    trials = _all_trials(storage)
    for number in recorded:
        trial = trials[number] if number < len(trials) else None
        if trial is not None and trial.state.is_finished():
            continue
        parameters = parameters_of(number)
        if trial is None or any(trial.params.get(n) != v for n, v in parameters.items()):
            raise _damaged(path, f"it is older than the record of trial {number}")


class CheckedJournal(BaseJournalBackend):
    """Optuna's journal file with two more keys in every entry: its line number and a CRC-32.

    The checksum covers the bytes of the line up to it. Optuna ignores keys that it does not know,
    so Optuna itself and optuna-dashboard can read the file. Lines without the two keys are accepted
    only at the start of the file: studies of earlier versions have them. Every line is verified
    once, when it is read for the first time.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, and create it if there is none."""
        self._path = path
        self._file = JournalFileBackend(str(path))
        self._starts = [0]  # position of every line that was read, and of the next one
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
                *lines, _ = file.read().split(b"\n")  # the last one is not complete yet
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
        """Describe what is wrong with a line that is not signed as expected; "" if nothing is."""
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
        # Optuna raises RuntimeError when it cannot remove its lock file.
        except (OSError, RuntimeError) as error:
            if size is not None:
                # If this fails too, the next launch cuts off the incomplete line.
                with contextlib.suppress(OSError):
                    os.truncate(self._path, size)
            raise storage_error(self._path, error) from error


def _sign(entry: Mapping[str, Any], number: int) -> dict[str, Any]:
    """Add the line number and the checksum to an entry, as its last keys."""
    numbered = {**entry, "line": number}
    text = json.dumps(numbered, separators=(",", ":"))  # exactly as Optuna will write it
    return {**numbered, "crc32": zlib.crc32(text[:-1].encode())}


def _is_signed(line: bytes, number: int) -> bool:
    """Whether a line, without its line break, is what `_sign` made of the entry of that number."""
    body, _, rest = line.rpartition(b',"crc32":')
    return body.endswith(b',"line":%d' % number) and rest == b"%d}" % zlib.crc32(body)


def _fix_last_line(path: Path) -> None:
    """Cut off the incomplete line that a writer leaves when it is killed while appending.

    Optuna would append to it, and could then read neither line. The write was never acknowledged,
    so nothing is lost that anybody relied on. A complete entry stays: only its line break is
    missing or damaged, and is written again.
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
