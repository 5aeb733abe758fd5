"""Archives: downloaded and unpacked completely, or refused with one line."""

import errno
import hashlib
import io
import os
import shutil
import tarfile
import threading
import zipfile
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
    assert not into.exists() or list(into.iterdir()) == []


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


# What is no zip as it should be


def write_zip(path: Path, members: dict[str, bytes], *, system: int = 3, mode: int = 0) -> Path:
    """Write a zip whose members carry the names as they are, and a system and mode."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            entry = zipfile.ZipInfo("placeholder")
            entry.filename = name
            entry.create_system = system
            entry.external_attr = mode << 16
            file.writestr(entry, content)
    return path


@pytest.mark.parametrize("system", [0, 3], ids=["windows", "says_unix"])
def test_backslashes_of_a_windows_zip_are_folders(tmp_path: Path, system: int) -> None:
    members = {f"photos\\{name}\\1.png": image_bytes(i) for i, name in enumerate("ab")}
    archive = write_zip(tmp_path / "images.zip", members, system=system)
    # What a version before unpacked, with backslashes in the names, must not be taken for it.
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:12]
    (tmp_path / "work" / "unpacked" / f"images-{digest}").mkdir(parents=True)
    index = load_index(DataSource("folder", archive, tmp_path / "work"))
    assert index.class_names == ("a", "b")
    assert (index.root / "b/1.png").read_bytes() == image_bytes(1)


def test_backslash_in_a_name_of_a_unix_zip_stays(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"a/x\\1.png": image_bytes()})
    assert [p.name for p in (unpack_zip(archive, tmp_path / "u") / "a").iterdir()] == ["x\\1.png"]


def test_windows_zip_that_would_write_outside_is_refused(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"..\\..\\evil.png": image_bytes()}, system=0)
    with pytest.raises(UserError, match="outside the folder"):
        unpack_zip(archive, tmp_path / "work" / "unpacked")
    assert not list(tmp_path.rglob("*evil.png"))


def refusal(archive: Path, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_index(DataSource("folder", archive, tmp_path / "work"))
    unpacked = tmp_path / "work" / "unpacked"
    assert not unpacked.exists() or list(unpacked.iterdir()) == []
    line = error_line(caught)
    assert str(archive) in line
    return line


def test_encrypted_zip_is_refused_as_such(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png", "b/1.png")
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.rindex(signature) + offset] |= 1
    archive.write_bytes(data)
    line = refusal(archive, tmp_path)
    assert "is encrypted, and so 1 of 2 members such as 'b/1.png' cannot be read" in line
    assert "download" not in line


def test_link_in_a_zip_is_refused_by_name(tmp_path: Path) -> None:
    archive = write_zip(tmp_path / "images.zip", {"a/1.png": b"../b/1.png"}, mode=0o120777)
    line = refusal(archive, tmp_path)
    assert "1 of 1 members are symbolic links, such as 'a/1.png', which are not followed" in line


def test_unknown_compression_is_no_reason_to_download_again(tmp_path: Path) -> None:
    archive = make_zip(tmp_path / "images.zip", "a/1.png")
    data = bytearray(archive.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        data[data.index(signature) + offset] = 9  # Deflate64, which Windows uses for large files
    archive.write_bytes(data)
    line = refusal(archive, tmp_path)
    assert "member 'a/1.png' cannot be read" in line
    assert "unpack it with another program and give --data-root the folder" in line
    assert "download" not in line


@pytest.mark.parametrize(
    ("name", "start", "says"),
    [
        ("images.7z", b"7z\xbc\xaf\x27\x1c\0\4", "is a 7z archive"),
        ("images.rar", b"Rar!\x1a\x07\x01\0", "is a RAR archive"),
        ("images.tar.zst", b"\x28\xb5\x2f\xfd\0", "is compressed with Zstandard"),
        ("images.zip", b"<!DOCTYPE html><p>not found", "is a web page"),
        ("images.tar.gz", b"\x1f\x8b\x08\0\0", "is a single compressed file or a damaged archive"),
        ("images.png", image_bytes(), "is a single image"),
        ("images.txt", b"text", "is neither a folder, a zip nor a tar"),
        ("images.tgz", b"", "is empty"),
    ],
)
def test_other_files_are_refused_by_what_they_are(
    tmp_path: Path, name: str, start: bytes, says: str
) -> None:
    (tmp_path / name).write_bytes(start)
    line = refusal(tmp_path / name, tmp_path)
    assert says in line
    assert ("download it again" in line) is ("web page" in says)


@pytest.mark.parametrize("ending", ["tar", "tgz", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("place", ["file", "folder"])
def test_tar_is_unpacked_as_a_zip_is(tmp_path: Path, ending: str, place: str) -> None:
    tree = make_tree(tmp_path / "photos", "a/1.png", "b/1.png")
    archive = tmp_path / "download" / f"images.{ending}"
    archive.parent.mkdir()
    mode = {"tgz": "gz", "tar": ""}.get(ending, ending.rpartition(".")[2])
    with tarfile.open(archive, f"w:{mode}") as tar:  # type: ignore[call-overload]
        tar.add(tree, "photos")
    given = archive if place == "file" else archive.parent
    index = load_index(DataSource("folder", given, tmp_path / "work"))
    assert index.paths == ("a/1.png", "b/1.png")
    assert index.root.parent.name.startswith("images-")
    assert load_index(DataSource("folder", given, tmp_path / "work")).root == index.root


def test_tar_with_names_of_latin1_is_refused_by_name(tmp_path: Path) -> None:
    archive = tmp_path / "images.tar"
    with tarfile.open(archive, "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as tar:
        for name in ("caf\xe9/1.png", "b/1.png"):
            entry = tarfile.TarInfo(name)
            entry.size = len(image_bytes())
            tar.addfile(entry, io.BytesIO(image_bytes()))
    with pytest.raises(UserError, match=r"1 images have names that are not UTF-8 \(caf"):
        load_index(DataSource("folder", archive, tmp_path / "work"))


@pytest.mark.parametrize("stem", ["x" * 250, "\u00e9" * 120], ids=["ascii", "two_bytes_each"])
def test_zip_with_a_long_name_is_unpacked(tmp_path: Path, stem: str) -> None:
    archive = make_zip(tmp_path / f"{stem}.zip", "a/1.png", "b/1.png")
    index = load_index(DataSource("folder", archive, tmp_path / "work"))
    assert index.class_names == ("a", "b")
    assert load_index(DataSource("folder", archive, tmp_path / "work")).root == index.root


@pytest.mark.parametrize("extra", ["README.txt", "runs/folder/study.json", "empty/"])
def test_zip_in_the_work_folder_stays_what_is_read(tmp_path: Path, extra: str) -> None:
    """The first launch makes folders beside the zip, which must not change the second."""
    data = tmp_path / "data"
    make_zip(data / "photos.zip", "a/1.png", "b/1.png")
    source = DataSource("folder", data, data)
    first = load_index(source)
    (data / "pixels").mkdir()
    (data / extra).parent.mkdir(parents=True, exist_ok=True)
    if extra.endswith("/"):
        (data / extra).mkdir()
    else:
        (data / extra).touch()
    second = load_index(source)
    assert (second.root, second.paths) == (first.root, first.paths)
    assert second.class_names == ("a", "b")
