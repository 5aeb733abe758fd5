"""Data sets by name: where each lies, and what is refused."""

from pathlib import Path

import pytest

from tests.support.download_server import Server, serve
from tests.support.errors import error_line
from tests.support.image_trees import make_tree, make_zip
from wpm.data import datasets
from wpm.data.datasets import DATASETS, load_index
from wpm.data.index import DataSource
from wpm.errors import UserError


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


def test_folder_is_listed_also_where_weights_are_fetched(tmp_path: Path) -> None:
    root = make_tree(tmp_path / "tree", "a/1.png", "b/1.png")
    plain = load_index(source("folder", root, tmp_path))
    assert load_index(source("folder", root, tmp_path), fetch=True).paths == plain.paths


@pytest.mark.parametrize("dataset", ["folder", "omniglot"])
def test_place_that_is_not_there_is_refused(tmp_path: Path, dataset: str) -> None:
    with pytest.raises(UserError) as caught:
        load_index(source(dataset, tmp_path / "nowhere", tmp_path))
    assert str(tmp_path / "nowhere") in error_line(caught)


def test_missing_omniglot_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="add --fetch") as caught:
        load_index(source("omniglot", None, tmp_path))
    assert datasets.OMNIGLOT_SMALL1.url in error_line(caught)


def test_omniglot_is_fetched_unpacked_and_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [f"images_small/{script}/{c}/1.png" for script in "AB" for c in "xy"]
    data = make_zip(tmp_path / "served.zip", *members).read_bytes()
    with serve(Server(data)) as server:
        monkeypatch.setattr(datasets, "OMNIGLOT_SMALL1", server.archive)
        index = load_index(source("omniglot", None, tmp_path), fetch=True)
    assert index.class_names == ("A/x", "A/y", "B/x", "B/y")
    # What was fetched is found again without the network, and without --fetch.
    assert load_index(source("omniglot", None, tmp_path)).paths == index.paths
