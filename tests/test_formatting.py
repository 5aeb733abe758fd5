"""Tables as text and markdown for people, and as csv for programs."""

import csv
import io
from typing import Any

import pytest

from wpm.formatting import FORMATS, format_table, name_first

COLUMNS = ("row", "P@1", "runs")
ROWS: list[list[Any]] = [["contrastive", 68.13, 10], ["triplet+wpm", "+9.5", ""], ["nca", "-", 100]]


def test_text_lines_numbers_up_at_the_right() -> None:
    assert format_table(COLUMNS, ROWS, "text") == "\n".join(
        [
            "row            P@1  runs",
            "contrastive  68.13    10",
            "triplet+wpm   +9.5",
            "nca              -   100",
        ]
    )


def test_markdown_aligns_the_same_way() -> None:
    assert format_table(COLUMNS, ROWS, "markdown") == "\n".join(
        [
            "| row         |   P@1 | runs |",
            "|-------------|------:|-----:|",
            "| contrastive | 68.13 |   10 |",
            "| triplet+wpm |  +9.5 |      |",
            "| nca         |     - |  100 |",
        ]
    )


def test_markdown_cells_cannot_open_a_column() -> None:
    table = format_table(["a", "b"], [["x|y", "z"]], "markdown").splitlines()
    assert table[2] == r"| x\|y | z |"


def test_csv_reads_back_with_commas_quotes_and_newlines() -> None:
    rows = [["a,b", 'say "x"'], ["two\nlines", ""], ["", "é"]]
    text = format_table(["first, column", "second"], rows, "csv")
    assert list(csv.reader(io.StringIO(text))) == [["first, column", "second"], *rows]
    assert not text.endswith("\n")


@pytest.mark.parametrize("cell", ["n/a", "x3", "failed", "+wpm"])
def test_words_stand_at_the_left(cell: str) -> None:
    lines = format_table(["a long heading"], [[cell], [7]], "text").splitlines()
    assert lines[1] == cell


@pytest.mark.parametrize("cell", ["12.3 ± 0.4", "68.1%", "-0.5", "1e-06", ".5", "- (68.13)"])
def test_numbers_with_their_unit_stand_at_the_right(cell: str) -> None:
    lines = format_table(["a long heading"], [[cell]], "text").splitlines()
    assert lines[1] == cell.rjust(len("a long heading"))


@pytest.mark.parametrize("style", FORMATS)
def test_table_without_rows_shows_its_headings(style: str) -> None:
    first = format_table(COLUMNS, [], style).splitlines()[0]
    assert all(column in first for column in COLUMNS)


def test_unknown_style_lists_the_choices() -> None:
    with pytest.raises(ValueError, match="unknown style 'html'; choose from text, markdown, csv"):
        format_table(COLUMNS, ROWS, "html")


def test_first_names_are_listed_and_more_are_hinted_at() -> None:
    assert name_first([]) == ""
    assert name_first(["a", "b", "c"]) == "a, b, c"
    assert name_first(["a", "b", "c", "d"]) == "a, b, c, ..."
    assert name_first(["a", "b"], 1, separator="; ") == "a; ..."
