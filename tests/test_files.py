"""Files are complete or absent, damage is noticed, and locks end with their holder."""

import errno
import fcntl
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from wpm.errors import DamagedFileError, LockedError, StorageError, UserError
from wpm.files import (
    HashedFile,
    WriteCancelledError,
    hold_lock,
    is_locked,
    read_json,
    write_bytes,
    write_json,
    write_stream,
)

REPOSITORY = Path(__file__).resolve().parent.parent
CONTENT = {"name": "triplet", "scores": [0.1, 1 / 3, 1e-17, -0.0], "none": None, "ü": "ß\n"}


def test_bytes_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_bytes(path, b"one")
    assert path.read_bytes() == b"one"
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(path.parent.iterdir()) == [path]


def test_a_reader_sees_the_old_content_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = [bytes([i]) * 200_000 for i in range(2)]
    write_bytes(path, contents[0])
    stop = threading.Event()

    def keep_writing() -> None:
        i = 0
        while not stop.is_set():
            write_bytes(path, contents[i := 1 - i])

    writer = threading.Thread(target=keep_writing)
    writer.start()
    try:
        seen = {path.read_bytes() for _ in range(300)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(contents)


@pytest.mark.parametrize("blocked", ["file/below", "folder"])
def test_bytes_that_cannot_be_written_are_a_user_error(tmp_path: Path, blocked: str) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot be written") as caught:
        write_bytes(tmp_path / blocked, b"data")
    assert str(tmp_path / blocked) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_bytes() == b"in the way"


def test_stream_is_written_in_one_step_with_its_checksum(tmp_path: Path) -> None:
    path = tmp_path / "file"
    data = bytes(range(256)) * 50_000  # several blocks

    def write(file: HashedFile) -> None:
        assert file.write(memoryview(data)) == len(data)
        file.write(b"end")

    assert write_stream(path, write) == hashlib.sha256(data + b"end").hexdigest()
    assert path.read_bytes() == data + b"end"


def test_stream_that_is_cancelled_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    looks = iter([False, True])
    with pytest.raises(WriteCancelledError):
        write_stream(path, lambda f: f.write(bytes(10**7)), lambda: next(looks))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("hides", [False, True])
def test_stream_on_a_full_disk_is_a_storage_error_also_where_a_library_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hides: bool
) -> None:
    def refuse(file: HashedFile) -> None:
        monkeypatch.setattr(file, "_file", FullDisk())
        try:
            file.write(b"data")
        except OSError as error:
            if hides:
                raise RuntimeError("unexpected pos 64 vs 0") from error
            raise

    class FullDisk:
        def write(self, data: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(StorageError, match=r"file: cannot be written \(No space left on device\)"):
        write_stream(tmp_path / "file", refuse)
    assert list(tmp_path.iterdir()) == []


def test_error_of_whoever_writes_a_stream_is_not_the_disks(tmp_path: Path) -> None:
    def fail(file: HashedFile) -> None:
        file.write(b"half")
        raise ValueError("cannot pickle this")

    with pytest.raises(ValueError, match="cannot pickle this"):
        write_stream(tmp_path / "file", fail)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [CONTENT, [], {}, 0, None, "text", [1, 2.5, True]])
def test_json_is_read_as_written(tmp_path: Path, content: Any) -> None:
    write_json(tmp_path / "file.json", content)
    assert read_json(tmp_path / "file.json") == content


def test_numbers_as_keys_are_read_back_as_text(tmp_path: Path) -> None:
    # JSON has no other keys; the checksum must not mind their order (2 < 10, but "10" < "2").
    write_json(tmp_path / "file.json", {2: "two", 10: "ten"})
    assert read_json(tmp_path / "file.json") == {"2": "two", "10": "ten"}


def test_json_file_is_plain_json_for_others(tmp_path: Path) -> None:
    write_json(tmp_path / "file.json", CONTENT)
    assert json.loads((tmp_path / "file.json").read_text())["content"] == CONTENT


def test_json_laid_out_anew_is_read_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, CONTENT)
    path.write_text(json.dumps(json.loads(path.read_text()), indent=2))
    assert read_json(path) == CONTENT


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_numbers_that_json_lacks_are_refused(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "file.json", {"score": value})
    assert not (tmp_path / "file.json").exists()


def test_every_truncation_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": [1, 2]})
    data = path.read_bytes()
    for end in range(len(data) - 1):  # the last byte is a newline, which says nothing
        path.write_bytes(data[:end])
        with pytest.raises(DamagedFileError, match="damaged"):
            read_json(path)


def test_every_changed_digit_of_the_content_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    write_json(path, {"a": [12345, 0.75], "b": "text"})
    data = path.read_bytes()
    start = data.index(b'"content"') + len(b'"content": ')
    changed = 0
    for i in range(start, len(data) - 2):
        if data[i : i + 1].isalnum():
            path.write_bytes(data[:i] + b"9" + data[i + 1 :])
            with pytest.raises(DamagedFileError):
                read_json(path)
            changed += 1
    assert changed > 10


@pytest.mark.parametrize("text", ["", "[]", "null", "3", '"x"', "{}", '{"content": 1}', "\x00\xff"])
def test_files_of_another_kind_are_damaged(tmp_path: Path, text: str) -> None:
    (tmp_path / "file.json").write_text(text, encoding="latin-1")
    with pytest.raises(DamagedFileError, match=r"file\.json: damaged"):
        read_json(tmp_path / "file.json")


def test_missing_json_is_a_user_error_but_not_damage(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read") as caught:
        read_json(tmp_path / "file.json")
    assert not isinstance(caught.value, DamagedFileError)


# Locks


def test_lock_is_held_inside_and_free_outside(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lock"
    assert not is_locked(path)
    with hold_lock(path, wait_s=0, what="thing"):
        assert is_locked(path)
    assert path.exists()
    assert not is_locked(path)


def test_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), hold_lock(tmp_path / "lock", wait_s=0, what="thing"):
        raise RuntimeError
    assert not is_locked(tmp_path / "lock")


def test_second_holder_is_refused_with_the_process_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("a much longer name of the holder before this one, to be overwritten")
    with (
        hold_lock(path, wait_s=0, what="the study"),
        pytest.raises(LockedError) as caught,
        hold_lock(path, wait_s=0.05, what="the study"),
    ):
        pytest.fail("two held the lock")
    message = str(caught.value)
    assert message.startswith(
        f"the study is in use by process {os.getpid()} on {os.uname().nodename};"
    )
    assert str(path) in message
    assert "\n" not in message


def test_waiting_holder_gets_its_turn(tmp_path: Path) -> None:
    path, order = tmp_path / "lock", []

    def wait() -> None:
        with hold_lock(path, wait_s=30, what="thing"):
            order.append("second")

    with hold_lock(path, wait_s=0, what="thing"):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.1)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]


def test_look_at_a_lock_keeps_nobody_from_it(tmp_path: Path) -> None:
    """A page that shows all studies looks at their locks every few seconds."""
    path = tmp_path / "lock"
    path.touch()
    with path.open() as looked_at:
        fcntl.flock(looked_at, fcntl.LOCK_SH)
        release = threading.Timer(0.03, fcntl.flock, (looked_at, fcntl.LOCK_UN))
        release.start()
        with hold_lock(path, wait_s=0, what="thing"):
            assert is_locked(path)
        release.join()


def test_killed_holder_leaves_no_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time; from pathlib import Path; from wpm.files import hold_lock\n"
        "with hold_lock(Path(sys.argv[1]), wait_s=0, what='x'): print('held', flush=True)\\\n"
        "   or time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_locked(path)
        with (
            pytest.raises(LockedError, match=f"process {holder.pid}"),
            hold_lock(path, wait_s=0, what="thing"),
        ):
            pytest.fail("two held the lock")
        holder.send_signal(signal.SIGKILL)
    assert not is_locked(path)
    with hold_lock(path, wait_s=0, what="thing"):
        assert is_locked(path)


def test_asking_does_not_take_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    assert not is_locked(path)
    with path.open("r") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_lock_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(UserError, match="cannot be written"),
        hold_lock(tmp_path / "file" / "lock", wait_s=0, what="thing"),
    ):
        pytest.fail("there is no such lock")
