"""Archives: downloaded and unpacked completely, or refused with one line."""

import errno
import hashlib
import os
import shutil
import threading
from pathlib import Path
from typing import IO

import numpy as np
import pytest

from tests.support.download_server import Server, serve
from tests.support.errors import error_line
from tests.support.image_trees import image_bytes, make_tree, make_zip
from wpm.data.archives import Archive, fetch_archive
from wpm.data.datasets import load_index
from wpm.data.index import DataSource
from wpm.data.unpacking import unpack_zip
from wpm.errors import StorageError, UserError


@pytest.mark.parametrize("place", ["images.zip", "."], ids=["the_zip", "folder_with_one_zip"])
def test_zip_is_unpacked_once(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "download"
    make_zip(folder / "images.zip", "images/a/1.png", "images/b/1.png", "__MACOSX/a/1.png")
    (folder / "README.txt").touch()
    index = load_index(DataSource("folder", folder / place, tmp_path / "work"))
    assert index.paths == ("a/1.png", "b/1.png")
    assert (index.root / "b/1.png").read_bytes() == image_bytes(1)
    assert index.root.is_relative_to(tmp_path / "work")
    stamp = (index.root / "a/1.png").stat().st_mtime_ns
    again = load_index(DataSource("folder", folder / place, tmp_path / "work"))
    assert again.paths == index.paths
    assert (again.root / "a/1.png").stat().st_mtime_ns == stamp
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "images.zip"]


def test_folder_with_a_zip_and_folders_is_read_as_a_tree(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/1.png")
    make_zip(root / "other.zip", "x/1.png")
    assert load_index(DataSource("folder", root, tmp_path / "work")).class_names == ("a", "b")


def test_zip_with_other_content_is_unpacked_elsewhere(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png")
    first = unpack_zip(archive, tmp_path / "unpacked")
    make_zip(archive, "b/1.png")
    second = unpack_zip(archive, tmp_path / "unpacked")
    assert (first / "a/1.png").exists()
    assert (second / "b/1.png").exists()
    assert first != second


@pytest.mark.parametrize("member", ["../evil.png", "a/../../evil.png", "{absolute}/evil.png"])
def test_zip_that_would_write_outside_is_refused(tmp_path: Path, member: str) -> None:
    member = member.format(absolute=tmp_path / "elsewhere")
    archive = make_zip(tmp_path / "images.zip", "a/1.png", member)
    with pytest.raises(UserError, match="outside the folder") as caught:
        unpack_zip(archive, tmp_path / "work" / "unpacked")
    assert "evil.png" in error_line(caught)
    assert not list(tmp_path.rglob("evil.png"))
    assert not list((tmp_path / "work" / "unpacked").iterdir())


@pytest.mark.parametrize(
    "members", [("a", "a/1.png"), ("a/1.png", "a/1.png/2.png"), ("a/1.png", "a"), ("a" * 300,)]
)
def test_zip_whose_member_lies_in_a_file_is_refused_by_name(
    tmp_path: Path, members: tuple[str, ...]
) -> None:
    archive = make_zip(tmp_path / "images.zip", *members)
    with pytest.raises(UserError, match=r"member '.*' cannot be unpacked \(") as caught:
        unpack_zip(archive, tmp_path / "unpacked")
    assert str(archive) in error_line(caught)
    assert repr(members[-1]) in error_line(caught)
    assert list((tmp_path / "unpacked").iterdir()) == []


def test_zip_that_the_disk_does_not_hold_is_a_storage_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png", "a/2.png")
    copy = shutil.copyfileobj

    def fill_up(source: IO[bytes], target: IO[bytes], *more: int) -> None:
        if "2.png" in target.name:
            target.write(source.read(1))
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        copy(source, target, *more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", fill_up)
        with pytest.raises(StorageError, match=r"unpacked: cannot be written \(No space left"):
            unpack_zip(archive, tmp_path / "unpacked")
    assert list((tmp_path / "unpacked").iterdir()) == []
    assert (unpack_zip(archive, tmp_path / "unpacked") / "a" / "2.png").exists()


def test_place_to_unpack_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png")
    with pytest.raises(StorageError, match=r"cannot be written \(Not a directory\)"):
        unpack_zip(archive, archive / "unpacked")


def assert_refused_as_damaged(archive: Path, into: Path) -> None:
    with pytest.raises(UserError, match="damaged or not a zip") as caught:
        unpack_zip(archive, into)
    assert str(archive) in error_line(caught)
    assert list(into.iterdir()) == []


def test_file_that_is_no_zip_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images.zip").write_bytes(b"<html>not found</html>")
    assert_refused_as_damaged(tmp_path / "images.zip", tmp_path / "unpacked")


def test_truncated_zips_are_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png", "b/1.png")
    data = archive.read_bytes()
    for end in range(0, len(data), 7):
        archive.write_bytes(data[:end])
        assert_refused_as_damaged(archive, tmp_path / "unpacked")


def test_zips_with_changed_bytes_are_refused(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 40, 2000).astype(np.uint8).tobytes()
    archive = make_zip(tmp_path / "images.zip", "a/1.png", content=noise)
    data = bytearray(archive.read_bytes())
    start = data.index(b"a/1.png") + len(b"a/1.png")  # the compressed bytes begin here
    for position in range(start, start + 1000, 50):
        changed = data.copy()
        changed[position] ^= 0xFF
        archive.write_bytes(changed)
        assert_refused_as_damaged(archive, tmp_path / "unpacked")


def test_zip_of_another_kind_is_refused(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png")
    data = bytearray(archive.read_bytes())
    central = data.index(b"PK\x01\x02")
    for start, flags, method in ((6, 1, 8), (6, 0, 97)):  # encrypted; an unknown compression
        changed = data.copy()
        for header in (start, central + start + 2):
            changed[header] = flags
            changed[header + 2] = method
        archive.write_bytes(changed)
        with pytest.raises(UserError) as caught:
            unpack_zip(archive, tmp_path / "unpacked")
        assert str(archive) in error_line(caught)


def test_several_unpackers_at_once_agree(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", *(f"a/{i}.png" for i in range(50)))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(unpack_zip(archive, tmp_path / "unpacked")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert len(set(found)) == 1
    assert len(list((found[0] / "a").iterdir())) == 50
    assert list((tmp_path / "unpacked").iterdir()) == [found[0]]


@pytest.fixture
def archive_bytes(tmp_path: Path) -> bytes:
    noise = np.random.default_rng(0).bytes(30_000)
    return make_zip(tmp_path / "served.zip", "set/a/1.png", content=noise).read_bytes()


def test_archive_is_fetched_completely_and_once(tmp_path: Path, archive_bytes: bytes) -> None:
    with serve(Server(archive_bytes)) as server:
        path = fetch_archive(server.archive, tmp_path / "new" / "folder")
        assert fetch_archive(server.archive, tmp_path / "new" / "folder") == path
    assert path == tmp_path / "new" / "folder" / "images.zip"
    assert path.read_bytes() == archive_bytes
    assert server.ranges == [None]
    assert list(path.parent.iterdir()) == [path]


def test_cut_download_is_resumed(tmp_path: Path, archive_bytes: bytes) -> None:
    with serve(Server(archive_bytes, cut_at=10_000)) as server:
        for _ in range(2):
            with pytest.raises(UserError, match="run again to resume") as caught:
                fetch_archive(server.archive, tmp_path)
        assert f"at 20000 of {len(archive_bytes)} bytes" in error_line(caught)
        assert not (tmp_path / "images.zip").exists()
        server.cut_at = None
        path = fetch_archive(server.archive, tmp_path)
    assert path.read_bytes() == archive_bytes
    assert server.ranges == [None, "bytes=10000-", "bytes=20000-"]
    assert not (tmp_path / "images.zip.partial").exists()


def test_download_starts_again_where_the_server_cannot_resume(
    tmp_path: Path, archive_bytes: bytes
) -> None:
    (tmp_path / "images.zip.partial").write_bytes(archive_bytes[:5000])
    with serve(Server(archive_bytes, resumes=False)) as server:
        path = fetch_archive(server.archive, tmp_path)
    assert path.read_bytes() == archive_bytes
    assert server.ranges == ["bytes=5000-"]


def test_partial_file_that_is_complete_is_kept(tmp_path: Path, archive_bytes: bytes) -> None:
    (tmp_path / "images.zip.partial").write_bytes(archive_bytes)
    with serve(Server(archive_bytes)) as server:
        path = fetch_archive(server.archive, tmp_path)
    assert path.read_bytes() == archive_bytes


@pytest.mark.parametrize("begun", [b"", b"x" * 5000], ids=["fresh", "resumed"])
def test_wrong_checksum_is_refused_and_the_file_dropped(
    tmp_path: Path, archive_bytes: bytes, begun: bytes
) -> None:
    if begun:
        (tmp_path / "images.zip.partial").write_bytes(begun)
    other = hashlib.sha256(b"other").hexdigest()
    with serve(Server(archive_bytes)) as server:
        with pytest.raises(UserError, match="SHA-256") as caught:
            fetch_archive(Archive(server.url, other), tmp_path)
        assert other[:12] in error_line(caught)
        assert str(tmp_path / "images.zip") in error_line(caught)  # how to do it by hand
        assert not list(tmp_path.glob("images.zip*"))
        # The next attempt starts from nothing and succeeds.
        assert fetch_archive(server.archive, tmp_path).read_bytes() == archive_bytes


def test_file_already_there_is_verified_too(tmp_path: Path, archive_bytes: bytes) -> None:
    (tmp_path / "images.zip").write_bytes(b"put here by hand, of another version")
    with serve(Server(archive_bytes)) as server, pytest.raises(UserError, match="SHA-256"):
        fetch_archive(server.archive, tmp_path)


def test_dead_link_says_how_to_do_it_by_hand(tmp_path: Path) -> None:
    with serve(Server(b"")) as server:
        pass
    with pytest.raises(UserError, match="does not answer") as caught:
        fetch_archive(server.archive, tmp_path)
    message = error_line(caught)
    assert server.url in message
    assert f"download it by hand to {tmp_path / 'images.zip'}" in message


@pytest.mark.parametrize("status", [404, 403, 500])
def test_refused_download_is_a_user_error(tmp_path: Path, status: int) -> None:
    with serve(Server(b"", status=status)) as server:
        with pytest.raises(UserError, match="by hand"):
            fetch_archive(server.archive, tmp_path)
        assert not (tmp_path / "images.zip").exists()


@pytest.mark.parametrize(
    "raw",
    [
        b"what is this\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nonly a few bytes",
    ],
    ids=["not_http", "silence", "cut_chunk"],
)
def test_broken_answers_are_user_errors(tmp_path: Path, raw: bytes) -> None:
    with serve(Server(b"", raw=raw)) as server:
        with pytest.raises(UserError) as caught:
            fetch_archive(server.archive, tmp_path)
        assert server.url in error_line(caught)
        assert not (tmp_path / "images.zip").exists()
