"""The study's file is Optuna's journal, in which every lost, moved or changed bit is noticed."""

import dataclasses
import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from tests.support.tiny import make_plan
from tests.support.trials import killed_launch, run_trial, states, stored_trials
from wpm.errors import DamagedFileError, StorageError
from wpm.records import TrainingFolder
from wpm.studies.journal import CheckedJournal, open_journal
from wpm.studies.plan import StudyPlan
from wpm.studies.study import Study


def write_study_file(tmp_path: Path, trials: int = 2) -> StudyPlan:
    plan = make_plan(tmp_path, trials=trials)
    with Study(plan) as study:
        while run_trial(study, lambda n: 0.5) is not None:
            pass
    return plan


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def strip_checksums(path: Path) -> None:
    """Turn a journal into what Optuna alone writes, which is what older studies hold."""
    entries = [json.loads(line) for line in lines_of(path)]
    for entry in entries:
        del entry["line"], entry["crc32"]
    text = "".join(json.dumps(entry, separators=(",", ":")) + "\n" for entry in entries)
    path.write_text(text)


def stock_states(path: Path) -> list[TrialState]:
    storage = JournalStorage(JournalFileBackend(str(path)))
    (name,) = optuna.get_all_study_names(storage)
    return [trial.state for trial in optuna.load_study(study_name=name, storage=storage).trials]


def test_optuna_alone_reads_the_same_study(tmp_path: Path) -> None:
    plan = write_study_file(tmp_path)
    storage = open_journal(plan.place.journal)
    ours = optuna.load_study(study_name=plan.place.name, storage=storage).trials
    assert stored_trials(plan) == ours
    assert len(ours) == 2


def test_every_line_is_numbered(tmp_path: Path) -> None:
    plan = write_study_file(tmp_path)
    entries = [json.loads(line) for line in lines_of(plan.place.journal)]
    assert [entry["line"] for entry in entries] == list(range(1, len(entries) + 1))
    assert all(list(entry)[-2:] == ["line", "crc32"] for entry in entries)


def test_every_flipped_bit_is_noticed(tmp_path: Path) -> None:
    """Bits of the first, a middle and the last line, their ends included, are flipped."""
    path = write_study_file(tmp_path, trials=1).place.journal
    data = path.read_bytes()
    lines = lines_of(path)
    whole = JournalStorage(CheckedJournal(path)).get_all_studies()
    starts = [0, sum(map(len, lines[: len(lines) // 2])), len(data) - len(lines[-1])]
    for start in starts:
        end = data.index(b"\n", start)
        for position in (*range(start, end, 3), *range(end - 40, end + 1)):
            for bit in range(8):
                changed = bytearray(data)
                changed[position] ^= 1 << bit
                path.write_bytes(changed)
                if position == len(data) - 1:  # nothing but the end of the last line: fixed
                    assert open_journal(path).get_all_studies() == whole
                    assert path.read_bytes() == data
                    continue
                with pytest.raises(DamagedFileError, match=r"study\.journal: study file is dam"):
                    open_journal(path)
                assert path.read_bytes() == bytes(changed), "the evidence was touched"


def drop(lines: list[bytes], at: int) -> list[bytes]:
    return lines[:at] + lines[at + 1 :]


def repeat(lines: list[bytes], at: int) -> list[bytes]:
    return lines[: at + 1] + lines[at:]


def swap(lines: list[bytes], at: int) -> list[bytes]:
    return [*lines[:at], lines[at + 1], lines[at], *lines[at + 2 :]]


@pytest.mark.parametrize("change", [drop, repeat, swap])
@pytest.mark.parametrize("at", [0, 5])
def test_lost_repeated_and_moved_lines_are_noticed(
    tmp_path: Path, change: Callable[[list[bytes], int], list[bytes]], at: int
) -> None:
    plan = write_study_file(tmp_path)
    plan.place.journal.write_bytes(b"".join(change(lines_of(plan.place.journal), at)))
    wrong = at + 2 if change is repeat else at + 1
    with pytest.raises(DamagedFileError, match=rf"line {wrong} was written as line .*restore it"):
        Study(plan)


def test_lost_end_is_noticed_or_restored_from_the_records(tmp_path: Path) -> None:
    """Lines lost at the end leave no gap in the numbers; only the trials' records show the loss."""
    plan = make_plan(tmp_path, trials=2)
    with killed_launch(plan) as study:
        run_trial(study, lambda n: 0.5)
        run_trial(study, lambda n: 0.6)
        whole = [(t.params, t.state, t.value) for t in stored_trials(plan)]
    lines = lines_of(plan.place.journal)
    refused = 0
    for kept in range(len(lines)):
        plan.place.journal.write_bytes(b"".join(lines[:kept]))
        try:
            with Study(plan) as again:
                while again.ask() is not None:
                    pass
                assert [(t.params, t.state, t.value) for t in stored_trials(plan)] == whole
        except DamagedFileError as error:
            assert "study file is damaged (it is older than the record of trial" in str(error)
            assert "restore it from a backup" in str(error)
            refused += 1
    assert 10 < refused < len(lines) - 2, "both happened"


def test_torn_line_is_cut_off_and_a_complete_one_is_kept(tmp_path: Path) -> None:
    path = write_study_file(tmp_path).place.journal
    data = path.read_bytes()
    last = data.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(data)):
        path.write_bytes(data[:end])
        open_journal(path)
        assert path.read_bytes() == (data if end == len(data) - 1 else data[:last])


def test_study_from_before_is_continued_with_checksums(tmp_path: Path) -> None:
    plan = write_study_file(tmp_path)
    strip_checksums(plan.place.journal)
    before = plan.place.journal.read_bytes()
    more = dataclasses.replace(plan, trials=4)
    with Study(more) as study:
        while run_trial(study, lambda n: 0.5) is not None:
            pass
    lines = lines_of(plan.place.journal)
    assert b"".join(lines).startswith(before)
    assert json.loads(lines[-1])["line"] == len(lines)
    with Study(more) as study:
        assert len(states(study)) == 4
    assert len(stock_states(plan.place.journal)) == 4
    # A line from before may not be missing either, once others follow.
    plan.place.journal.write_bytes(b"".join(lines[1:]))
    with pytest.raises(DamagedFileError, match="was written as line"):
        Study(more)


@pytest.mark.parametrize("damage", [b"{}", b"[]", b"3", b'{"op_code":77}', b'{"op_code":4}'])
def test_damaged_study_from_before_is_refused(tmp_path: Path, damage: bytes) -> None:
    plan = write_study_file(tmp_path)
    strip_checksums(plan.place.journal)
    lines = lines_of(plan.place.journal)
    plan.place.journal.write_bytes(b"".join([*lines[:4], damage + b"\n", *lines[4:]]))
    with pytest.raises(DamagedFileError, match="study file is damaged"):
        Study(plan)


def test_line_of_another_program_is_named_and_may_be_deleted(tmp_path: Path) -> None:
    plan = write_study_file(tmp_path)
    path = plan.place.journal
    stock = JournalStorage(JournalFileBackend(str(path)))
    stock.set_study_user_attr(0, "note", "written by a dashboard")
    lines = lines_of(path)
    with pytest.raises(DamagedFileError, match=rf"line {len(lines)} has no checksum: another pr"):
        Study(plan)
    path.write_bytes(b"".join(lines[:-1]))
    Study(plan).__exit__()


def test_every_line_is_verified_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from wpm.studies import journal

    verified: list[int] = []
    check = journal._is_signed

    def count(line: bytes, number: int) -> bool:
        verified.append(number)
        return check(line, number)

    monkeypatch.setattr(journal, "_is_signed", count)
    plan = write_study_file(tmp_path)
    assert verified == list(range(1, len(lines_of(plan.place.journal)) + 1))


def fail_after(bytes_written: int) -> Any:
    """Fill the disk while Optuna appends, so that only a part of the line is written."""

    def append(backend: JournalFileBackend, logs: list[dict[str, Any]]) -> None:
        with Path(backend._file_path).open("ab") as file:
            file.write(json.dumps(logs[0]).encode()[:bytes_written])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return append


@pytest.mark.parametrize("written", [0, 1, 40])
def test_full_disk_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    plan = make_plan(tmp_path, trials=2)
    with Study(plan) as study:
        before = plan.place.journal.read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(JournalFileBackend, "append_logs", fail_after(written))
            with pytest.raises(StorageError, match=r"journal: cannot be written \(No space left"):
                study.ask()
        assert plan.place.journal.read_bytes() == before
        while run_trial(study, lambda n: 0.5) is not None:  # space was made meanwhile
            pass
        assert len(states(study)) == 2
    assert len(stock_states(plan.place.journal)) == 2


def test_lock_that_cannot_be_removed_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*names: str) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    plan = make_plan(tmp_path)
    with Study(plan) as study, monkeypatch.context() as patch:
        patch.setattr(os, "rename", refuse)
        with pytest.raises(StorageError, match="did not possess lock"):
            study.ask()
    with Study(plan) as again:
        assert again.ask() is not None


def test_file_size_limit_ends_an_append_in_the_middle(tmp_path: Path) -> None:
    """The system itself cuts a write short: RLIMIT_FSIZE in a separate process."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from wpm.studies.journal import open_journal\n"
        "from wpm.errors import UserError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "path = Path(sys.argv[1])\n"
        "storage = open_journal(path)\n"
        "study = storage.create_new_study([2], 's')\n"
        "sizes = []\n"
        "for number in range(20):\n"
        "    try:\n"
        "        storage.set_study_user_attr(study, str(number), 'x' * 50)\n"
        "    except UserError as error:\n"
        "        print(error)\n"
        "    sizes.append(path.stat().st_size)\n"
        "print(sizes[-1], len(set(sizes)))\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "study.journal")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    *errors, last = answer.stdout.splitlines()
    assert errors
    assert all("study.journal: cannot be written (File too large)" in line for line in errors)
    size, kept = map(int, last.split())
    assert 800 < size <= 1000
    assert kept == 20 - len(errors) + 1 - (len(errors) > 0)
    storage = open_journal(tmp_path / "study.journal")
    assert len(storage.get_all_studies()[0].user_attrs) == 20 - len(errors)


def test_random_damage_is_never_read(tmp_path: Path) -> None:
    path = write_study_file(tmp_path).place.journal
    data, rng = path.read_bytes(), random.Random(5)
    for _ in range(200):
        first, length = rng.randrange(len(data) - 40), rng.randint(1, 40)
        damage = bytes(rng.randrange(256) for _ in range(length))
        changed = data[:first] + damage + data[first + length :]
        if changed == data:
            continue
        path.write_bytes(changed)
        with pytest.raises(DamagedFileError):
            open_journal(path)


def test_other_parameters_than_the_record_says_are_refused(tmp_path: Path) -> None:
    plan = make_plan(tmp_path, trials=1)
    with killed_launch(plan) as study:
        study.ask()
    folder = TrainingFolder(plan.place.trial_folder(0))
    identity = folder.read_identity()
    changed = {**identity["parameters"], "pos_margin": -1.0}
    folder.write_identity({**identity, "parameters": changed})
    with pytest.raises(DamagedFileError, match="it is older than the record of trial 0"):
        Study(plan)
