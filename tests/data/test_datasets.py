"""Image sets on disk: trees, zips and downloads, whole or refused with one line."""

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
from wpm.data import datasets
from wpm.data.archives import Archive, fetch_archive, unpack_zip
from wpm.data.datasets import DATASETS, load_index
from wpm.data.index import DataSource, index_class_folders
from wpm.errors import StorageError, UserError

# Trees


def test_every_folder_with_images_is_a_class(tmp_path: Path) -> None:
    make_tree(tmp_path, "b/2.png", "b/1.png", "a/x.png", "c/x.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.class_names == ("a", "b", "c")
    assert index.paths == ("a/x.png", "b/1.png", "b/2.png", "c/x.png")
    assert index.labels.tolist() == [0, 1, 1, 2]
    assert index.labels.dtype == np.int64
    assert (index.dataset, index.root, index.channels) == ("folder", tmp_path, 3)


def test_nested_classes_are_named_by_their_path(tmp_path: Path) -> None:
    make_tree(tmp_path, "greek/alpha/1.png", "greek/beta/1.png", "latin/a/1.png", "latin/1.png")
    index = index_class_folders("folder", tmp_path, channels=1)
    assert index.class_names == ("greek/alpha", "greek/beta", "latin", "latin/a")
    assert all(
        path.rpartition("/")[0] == index.class_names[label]
        for path, label in zip(index.paths, index.labels, strict=True)
    )


def test_hidden_files_and_other_files_are_left_out(tmp_path: Path) -> None:
    make_tree(
        tmp_path,
        "a/1.png",
        "a/._1.png",
        "a/.cache/2.png",
        ".git/3.png",
        "__MACOSX/a/4.png",
        "b/__MACOSX/5.png",
        "b/1.png",
    )
    (tmp_path / "a" / "notes.txt").touch()
    (tmp_path / "readme.md").touch()
    (tmp_path / "empty").mkdir()
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == ("a/1.png", "b/1.png")
    assert index.class_names == ("a", "b")


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    names = ["1.PNG", "2.Jpg", "3.jpeg", "4.TIFF", "5.webp", "6.bmp", "7.gif", "8.pgm"]
    make_tree(tmp_path, *(f"a/{name}" for name in names), "a/9.svg", "b/1.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == (*(f"a/{name}" for name in names), "b/1.png")


@pytest.mark.parametrize("wrapper", ["data", "data/images/train"])
def test_wrapper_folders_do_not_change_the_names(tmp_path: Path, wrapper: str) -> None:
    make_tree(tmp_path / wrapper, "a/1.png", "b/1.png")
    make_tree(tmp_path, "__MACOSX/x.png", ".hidden/x.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.class_names == ("a", "b")
    assert index.root == tmp_path / wrapper


def test_one_class_is_not_a_wrapper(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "a/2.png")
    assert index_class_folders("folder", tmp_path, channels=3).class_names == ("a",)


def test_links_that_go_round_end(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "b" / "self").symlink_to(tmp_path / "b")
    index = index_class_folders("folder", tmp_path, channels=3)
    assert index.paths == ("a/1.png", "b/1.png")


def test_tree_of_nothing_but_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path)
    with pytest.raises(UserError, match="no images under"):
        index_class_folders("folder", tmp_path, channels=3)


def test_linked_folders_are_classes_too(tmp_path: Path) -> None:
    make_tree(tmp_path / "elsewhere", "x/1.png")
    make_tree(tmp_path / "tree", "a/1.png")
    (tmp_path / "tree" / "b").symlink_to(tmp_path / "elsewhere" / "x")
    index = index_class_folders("folder", tmp_path / "tree", channels=3)
    assert index.paths == ("a/1.png", "b/1.png")


def test_folder_with_two_names_always_gets_the_same_one(tmp_path: Path) -> None:
    """Labels, splits and scores hang on names: they must not hang on a disk's listing order."""
    first_name_won = set()
    for number in range(12):
        root = make_tree(tmp_path / f"tree_{number}", f"a{number}/1.png", f"z{number}/1.png")
        (root / f"b{number}").symlink_to(root / f"a{number}")
        (root / f"y{number}").symlink_to(root / f"z{number}")
        names = index_class_folders("folder", root, channels=3).class_names
        assert len(names) == 2
        first_name_won.add((names[0] == f"a{number}", names[1] == f"y{number}"))
    # Either the first in order or the real folder: any rule, but one.
    assert first_name_won in ({(True, True)}, {(True, False)})


def test_images_beside_the_class_folders_are_refused(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png", "stray.png")
    with pytest.raises(UserError, match=r"holds images itself \(stray.png\)") as caught:
        index_class_folders("folder", tmp_path, channels=3)
    assert str(tmp_path) in error_line(caught)


def test_tree_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").touch()
    for root in (tmp_path, tmp_path / "a"):
        with pytest.raises(UserError, match="no images under") as caught:
            index_class_folders("folder", root, channels=3)
        assert str(root) in error_line(caught)


@pytest.mark.parametrize("name", ["nowhere", "file"])
def test_place_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is not a folder"):
        index_class_folders("folder", tmp_path / name, channels=3)


@pytest.mark.parametrize("closed", [".", "a", "b/inner"])
def test_folder_that_cannot_be_listed_is_a_user_error(tmp_path: Path, closed: str) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/inner/1.png")
    (root / closed).chmod(0)
    try:
        if os.access(root / closed, os.R_OK):
            pytest.skip("root may list every folder")
        with pytest.raises(UserError, match="cannot be listed"):
            index_class_folders("folder", root, channels=3)
    finally:
        (root / closed).chmod(0o700)


def test_subset_keeps_labels_and_names(tmp_path: Path) -> None:
    make_tree(tmp_path, "a/1.png", "b/1.png", "b/2.png", "c/1.png")
    index = index_class_folders("folder", tmp_path, channels=3)
    subset = index.subset([2, 1])
    assert subset.paths == ("b/1.png", "b/2.png", "c/1.png")
    assert subset.labels.tolist() == [1, 1, 2]
    assert subset.class_names == index.class_names
    assert index.subset([]).paths == ()


# Data sets by name


def source(dataset: str, root: Path | None, tmp_path: Path) -> DataSource:
    return DataSource(dataset, root, tmp_path / "work")


def test_folder_is_read_in_colour_and_omniglot_in_grey(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/1.png")
    assert load_index(source("folder", root, tmp_path)).channels == 3
    assert load_index(source("omniglot", root, tmp_path)).channels == 1
    assert load_index(source("omniglot", root, tmp_path)).dataset == "omniglot"


def test_unknown_data_set_lists_the_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown data set 'cub'") as caught:
        load_index(source("cub", None, tmp_path))
    assert all(name in error_line(caught) for name in DATASETS)


def test_folder_without_a_place_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs --data-root"):
        load_index(source("folder", None, tmp_path))


def test_options_without_meaning_are_refused(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/1.png")
    with pytest.raises(UserError, match=r"--data-root .* has no meaning for glyphs"):
        load_index(source("glyphs", root, tmp_path))
    with pytest.raises(UserError, match="--fetch has no meaning"):
        load_index(source("folder", root, tmp_path), fetch=True)


@pytest.mark.parametrize("dataset", ["folder", "omniglot"])
def test_place_that_is_not_there_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(UserError) as caught:
        load_index(source(dataset, tmp_path / "nowhere", tmp_path))
    assert str(tmp_path / "nowhere") in error_line(caught)


def test_missing_omniglot_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add --fetch") as caught:
        load_index(source("omniglot", None, tmp_path))
    assert datasets.OMNIGLOT_SMALL1.url in error_line(caught)


# Zips


@pytest.mark.parametrize("place", ["images.zip", "."], ids=["the_zip", "folder_with_one_zip"])
def test_zip_is_unpacked_once(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "download"
    make_zip(folder / "images.zip", "images/a/1.png", "images/b/1.png", "__MACOSX/a/1.png")
    (folder / "README.txt").touch()
    index = load_index(source("folder", folder / place, tmp_path))
    assert index.paths == ("a/1.png", "b/1.png")
    assert (index.root / "b/1.png").read_bytes() == image_bytes(1)
    assert index.root.is_relative_to(tmp_path / "work")
    stamp = (index.root / "a/1.png").stat().st_mtime_ns
    again = load_index(source("folder", folder / place, tmp_path))
    assert again.paths == index.paths
    assert (again.root / "a/1.png").stat().st_mtime_ns == stamp
    assert sorted(p.name for p in folder.iterdir()) == ["README.txt", "images.zip"]


def test_folder_with_a_zip_and_folders_is_read_as_a_tree(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/1.png")
    make_zip(root / "other.zip", "x/1.png")
    assert load_index(source("folder", root, tmp_path)).class_names == ("a", "b")


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


# Downloads, from a server of this process


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.fixture
def archive_bytes(tmp_path: Path) -> bytes:
    noise = np.random.default_rng(0).bytes(30_000)
    return make_zip(tmp_path / "served.zip", "set/a/1.png", content=noise).read_bytes()


def archive_of(server: Server) -> Archive:
    return Archive(server.url, hashlib.sha256(server.data).hexdigest())


def test_archive_is_fetched_whole_and_once(tmp_path: Path, archive_bytes: bytes) -> None:
    with serve(Server(archive_bytes)) as server:
        path = fetch_archive(archive_of(server), tmp_path / "new" / "folder")
        assert fetch_archive(archive_of(server), tmp_path / "new" / "folder") == path
    assert path == tmp_path / "new" / "folder" / "images.zip"
    assert path.read_bytes() == archive_bytes
    assert server.ranges == [None]
    assert list(path.parent.iterdir()) == [path]


def test_cut_download_is_resumed(tmp_path: Path, archive_bytes: bytes) -> None:
    with serve(Server(archive_bytes, cut_at=10_000)) as server:
        for _ in range(2):
            with pytest.raises(UserError, match="run again to resume") as caught:
                fetch_archive(archive_of(server), tmp_path)
        assert f"at 20000 of {len(archive_bytes)} bytes" in error_line(caught)
        assert not (tmp_path / "images.zip").exists()
        server.cut_at = None
        path = fetch_archive(archive_of(server), tmp_path)
    assert path.read_bytes() == archive_bytes
    assert server.ranges == [None, "bytes=10000-", "bytes=20000-"]
    assert not (tmp_path / "images.zip.partial").exists()


def test_download_starts_again_where_the_server_cannot_resume(
    tmp_path: Path, archive_bytes: bytes
) -> None:
    (tmp_path / "images.zip.partial").write_bytes(archive_bytes[:5000])
    with serve(Server(archive_bytes, resumes=False)) as server:
        path = fetch_archive(archive_of(server), tmp_path)
    assert path.read_bytes() == archive_bytes
    assert server.ranges == ["bytes=5000-"]


def test_partial_file_that_is_whole_is_kept(tmp_path: Path, archive_bytes: bytes) -> None:
    (tmp_path / "images.zip.partial").write_bytes(archive_bytes)
    with serve(Server(archive_bytes)) as server:
        path = fetch_archive(archive_of(server), tmp_path)
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
        assert fetch_archive(archive_of(server), tmp_path).read_bytes() == archive_bytes


def test_file_already_there_is_verified_too(tmp_path: Path, archive_bytes: bytes) -> None:
    (tmp_path / "images.zip").write_bytes(b"put here by hand, of another version")
    with serve(Server(archive_bytes)) as server, pytest.raises(UserError, match="SHA-256"):
        fetch_archive(archive_of(server), tmp_path)


def test_dead_link_says_how_to_do_it_by_hand(tmp_path: Path) -> None:
    with serve(Server(b"")) as server:
        pass
    with pytest.raises(UserError, match="does not answer") as caught:
        fetch_archive(archive_of(server), tmp_path)
    message = error_line(caught)
    assert server.url in message
    assert f"download it by hand to {tmp_path / 'images.zip'}" in message


@pytest.mark.parametrize("status", [404, 403, 500])
def test_refused_download_is_a_user_error(tmp_path: Path, status: int) -> None:
    with serve(Server(b"", status=status)) as server:
        with pytest.raises(UserError, match="by hand"):
            fetch_archive(archive_of(server), tmp_path)
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
            fetch_archive(archive_of(server), tmp_path)
        assert server.url in error_line(caught)
        assert not (tmp_path / "images.zip").exists()


def test_omniglot_is_fetched_unpacked_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [f"images_small/{script}/{c}/1.png" for script in "AB" for c in "xy"]
    data = make_zip(tmp_path / "served.zip", *members).read_bytes()
    with serve(Server(data)) as server:
        monkeypatch.setattr(datasets, "OMNIGLOT_SMALL1", archive_of(server))
        index = load_index(source("omniglot", None, tmp_path), fetch=True)
    assert index.class_names == ("A/x", "A/y", "B/x", "B/y")
    # What was fetched is found again without the network, and without --fetch.
    assert load_index(source("omniglot", None, tmp_path)).paths == index.paths
