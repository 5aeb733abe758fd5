"""Where studies lie in the run folder, with several searches of a row and in older folders."""

from pathlib import Path

import pytest

from tests.support.stored import write_search
from wpm.errors import UserError
from wpm.records import StudyPlace, find_studies
from wpm.rows import Row

MINED = Row("contrastive", "wpm")


def test_first_search_has_the_rows_own_folder_and_name(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", MINED)
    assert place.search == 1
    assert place.folder == tmp_path / "omniglot/small/contrastive+wpm"
    assert place.name == "omniglot/small/contrastive+wpm"


def test_further_searches_are_named_by_their_number(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", MINED, 12)
    assert place.label == "contrastive+wpm.search-12"
    assert place.folder == tmp_path / "omniglot/small/contrastive+wpm.search-12"
    assert place.name == "omniglot/small/contrastive+wpm.search-12"


@pytest.mark.parametrize("search", [1, 2, 9, 10, 999])
def test_label_is_read_back(tmp_path: Path, search: int) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", MINED, search)
    assert StudyPlace.from_label(tmp_path, "omniglot", "small", place.label) == place


@pytest.mark.parametrize(
    "label",
    ["triplet.search-1", "triplet.search-0", "triplet.search-02", "triplet.search-", "triplet.2",
     "triplet.search-2.search-3", ".search-2", "triplet.search-2 (copy)"],
)  # fmt: skip
def test_other_names_are_no_study(tmp_path: Path, label: str) -> None:
    with pytest.raises(UserError, match="row"):
        StudyPlace.from_label(tmp_path, "omniglot", "small", label)


@pytest.mark.parametrize("search", [0, -1])
def test_searches_are_counted_from_one(tmp_path: Path, search: int) -> None:
    with pytest.raises(UserError, match="counted from 1"):
        StudyPlace(tmp_path, "omniglot", "small", MINED, search)


def test_all_searches_of_a_row_are_found_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for search in (10, 2, 1):
        write_search(tmp_path, "triplet", search=search)
    write_search(tmp_path, "triplet+wpm", search=2)
    write_search(tmp_path, "margin")
    (tmp_path / "omniglot/small/triplet.search-03").mkdir()
    (tmp_path / "omniglot/small/triplet.search-03/study.json").write_text("{}")
    labels = [place.label for place in find_studies(tmp_path)]
    assert labels == ["margin", "triplet", "triplet.search-2", "triplet.search-10",
                      "triplet+wpm.search-2"]  # fmt: skip
    assert [p.search for p in find_studies(tmp_path, row="triplet")] == [1, 2, 10]
    assert [p.label for p in find_studies(tmp_path, search=2)] == [
        "triplet.search-2",
        "triplet+wpm.search-2",
    ]
