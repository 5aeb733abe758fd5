"""Rows that were searched several times: every command sees all searches and names them."""

import csv
import io
from pathlib import Path

import pytest

from analysis import compare, deviations, export, rank_trials, report, table
from analysis.report_page.study_section import anchor_of
from analysis.studies.best_runs import choose_search
from analysis.studies.embeddings import folder_of
from tests.support.stored import write_final, write_run, write_search
from wpm.records import StudyPlace, find_studies

LABELS = ["contrastive", "contrastive.search-2", "contrastive.search-3",
          "contrastive+wpm", "contrastive+wpm.search-2"]  # fmt: skip


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    """Write three searches of a row and two of its twin; the second of each found most."""
    root = tmp_path / "runs"
    for row, searches in (("contrastive", 3), ("contrastive+wpm", 2)):
        for search in range(1, searches + 1):
            best = 0.6 if search == 2 else 0.3
            place = write_search(root, row, scores=(0.1, best, 0.2, 0.1), search=search)
            final = write_final(place, f"key{search}", trial=1, score=best)
            for run in range(2):
                write_run(final, 1000 * search + run, 0.5 + search / 10 + run / 100)
    return root


def searches_of(root: Path, row: str) -> list[StudyPlace]:
    return find_studies(root, row=row)


def test_table_has_one_line_for_all_searches_of_a_row(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--run-root", str(run_root), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["row"] for row in rows] == ["contrastive", "contrastive+wpm"]
    assert [(row["searches"], row["n"]) for row in rows] == [("3", "6"), ("2", "4")]
    arguments = ["--run-root", str(run_root), "--format", "csv", "--search", "2"]
    assert table.main(arguments) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["row"] for row in rows] == ["contrastive.search-2", "contrastive+wpm.search-2"]


@pytest.mark.parametrize("style", [["--side-by-side"], ["--format", "latex"]])
def test_published_layout_names_searches(
    run_root: Path, style: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--run-root", str(run_root), *style]) == 0
    out = capsys.readouterr().out
    assert [label for label in LABELS if label not in out] == []


def test_published_number_stands_beside_a_single_search(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for search in (1, 2):
        write_search(tmp_path, "contrastive", dataset="cub200", protocol="mlrc", search=search)
    arguments = ["--against", "published", "--row", "contrastive", "--format", "csv"]
    for more in ([], ["--search", "2"]):
        assert table.main(["--run-root", str(tmp_path), *arguments, *more]) == 0
        (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        assert row["concatenated_map_at_r_published"] != ""


def test_search_without_a_partner_is_left_out_by_name(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rows in (["--all-twins"], ["contrastive", "contrastive+wpm"]):
        assert compare.main([*rows, "--run-root", str(run_root), "--format", "csv"]) == 0
        (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
        where = "omniglot/small/"
        assert (row["first"], row["second"]) == (f"{where}contrastive", f"{where}contrastive+wpm")
        assert (row["searches"], row["pairs"]) == ("2", "4")
        assert row["notes"].startswith("contrastive: search 3 is left out: contrastive+wpm has no")
        assert "--searches 3 adds it" in row["notes"]


def test_search_flag_selects_by_number(run_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--run-root", str(run_root), "--search", "2", "3", "--row", "contrastive"]
    assert rank_trials.main(arguments) == 0
    out = capsys.readouterr().out
    assert "omniglot/small/contrastive.search-2: 4 of 4" in out
    assert "omniglot/small/contrastive.search-3: 4 of 4" in out
    assert "small/contrastive:" not in out


def test_search_that_is_not_there_is_named(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--run-root", str(run_root)]
    assert rank_trials.main([*root, "--search", "1", "7", "--row", "contrastive"]) == 0
    assert f"no study */*/contrastive, search 7, under {run_root}" in capsys.readouterr().err
    assert rank_trials.main([*root, "--search", "7"]) == 2
    err = capsys.readouterr().err
    assert "no studies of --search 7" in err
    assert "python launch.py --searches 7" in err
    with pytest.raises(SystemExit):
        rank_trials.main([*root, "--search", "0"])
    assert "0 is too small, must be at least 1" in capsys.readouterr().err


def test_name_of_a_search_is_not_taken_for_a_row(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run-root", str(run_root), "--row", "contrastive.search-2"]
    assert rank_trials.main(arguments) == 2
    assert "give --row contrastive --search 2" in capsys.readouterr().err


def test_ranking_across_studies_has_a_column_of_searches(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run-root", str(run_root), "--row", "contrastive", "--across", "--top", "1"]
    assert rank_trials.main(arguments) == 0
    heading, best = (line.split() for line in capsys.readouterr().out.splitlines()[1:3])
    assert best[heading.index("search")] == "2"


def test_deviations_are_listed_for_each_search(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--run-root", str(run_root), "--row", "contrastive", "--format", "csv"]
    assert deviations.main(arguments) == 0
    rows = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert {(row["row"], row["search"]) for row in rows} == {
        ("contrastive", "1"), ("contrastive", "2"), ("contrastive", "3"),
    }  # fmt: skip


def test_best_search_is_chosen_by_validation_and_named(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Search 3 has the highest test score, search 2 the highest validation score.
    assert choose_search(searches_of(run_root, "contrastive")).search == 2
    err = capsys.readouterr().err
    assert "taken is search 2, the best in validation of 3 with tested runs" in err
    one = searches_of(run_root, "contrastive")[2:]
    assert choose_search(one).search == 3
    assert capsys.readouterr().err == ""


def test_export_still_wants_one_row(
    run_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert export.main(["--run-root", str(run_root), "--out", str(tmp_path / "out")]) == 2
    assert "choose one with --dataset, --row and --protocol" in capsys.readouterr().err


def test_every_search_has_its_own_folder_and_section(run_root: Path) -> None:
    places = searches_of(run_root, "contrastive")
    assert len({folder_of(Path("embeddings"), place) for place in places}) == 3
    assert len({anchor_of(place) for place in places}) == 3


def test_report_shows_the_searches(run_root: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    arguments = ["--run-root", str(run_root), "--row", "contrastive", "--search", "1", "2"]
    assert report.main([*arguments, "--out", str(out)]) == 0
    page = out.read_text()
    link = '<a href="#study-omniglot-small-contrastive.search-2" title="contrastive.search-2">2</a>'
    assert link in page
    assert "--row contrastive --search 1 2" in page  # the command that writes it again
    assert "--search 2</code> makes them" in page
    assert "search-3" not in page
