"""The table of trunks: what it counts, and that the document has what the benchmark prints."""

from pathlib import Path

import pytest
import torch

from benchmarks.trunks import (
    COLUMNS,
    QUICK,
    TRUNKS,
    count_multiply_adds,
    describe,
    main,
    make_model,
)
from wpm.model.trunks import TRUNKS as ENTRIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trunks.md"
MEASURED = 2  # columns at the right


@pytest.mark.parametrize(
    ("name", "published"),
    # Millions of multiply-adds as the makers publish them, which counts the classifier.
    [("mobilenet_v1_0.25", 14), ("mobilenet_v1_0.5", 77), ("mobilenet_v2", 300)],
)
def test_multiply_adds_and_classifier_are_the_published_ones(name: str, published: int) -> None:
    trunk = make_model(name).trunk
    classifier = trunk.feature_dim * 1001
    assert (count_multiply_adds(trunk) + classifier) / 1e6 == pytest.approx(published, abs=1)


def test_the_document_has_the_table_without_its_times() -> None:
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "|" in line]
    rows = [row for row in rows if len(row) == len(COLUMNS)]
    assert tuple(rows[0]) == COLUMNS
    expected = [describe(name, steps=0)[:-MEASURED] for name in TRUNKS]
    assert [tuple(row[:-MEASURED]) for row in rows[2:]] == expected


def test_every_trunk_of_ours_is_in_the_table() -> None:
    assert {name for name in ENTRIES if not name.endswith(":")} <= set(TRUNKS)


def test_the_quick_form_measures(capsys: pytest.CaptureFixture[str]) -> None:
    threads = torch.get_num_threads()
    main(["--quick"])
    torch.set_num_threads(threads)
    machine, _, *table = capsys.readouterr().out.splitlines()
    assert "median of 3 steps" in machine
    cells = [line.strip("|").split("|") for line in table[2:]]
    assert [row[0].strip(" `") for row in cells] == list(QUICK)
    assert all(float(cell) > 0 for row in cells for cell in row[-MEASURED:])
