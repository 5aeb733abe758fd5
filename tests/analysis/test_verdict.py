"""Verdicts over several searches, by hand-computed intervals, and their words in every format."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from analysis import compare, report, table
from analysis.report_page import runs_figures, search_figures
from analysis.studies.comparison import Comparison, compare_rows
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import RowSearches, group_searches
from analysis.text.verdict import describe_difference, describe_order, word_verdict
from tests.support.stored import COMPLETE, write_final, write_run, write_search
from wpm.records import find_studies

T2 = 4.302653  # 97.5% quantile of Student's t with 2 degrees of freedom

# Scores of the runs of three searches, and what mining adds: 1, 3 and 5 points on average.
PLAIN = [(0.50, 0.52), (0.60, 0.62), (0.55, 0.57)]
MINED = [(0.51, 0.53), (0.62, 0.66), (0.60, 0.62)]


def write_row(root: Path, row: str, searches: Sequence[Sequence[float]], gain: float = 0.0) -> None:
    """Write searches whose first trials found more from one to the next, and their final runs."""
    for number, runs in enumerate(searches, start=1):
        scores = [0.1 * number + gain, 0.3 + gain, 0.2, 0.4 + gain]
        place = write_search(root, row, [COMPLETE] * 4, scores=scores, search=number)
        final = write_final(place, "aa", trial=3, score=0.4)
        for run, score in enumerate(runs):
            write_run(final, 1000 * number + run, score + 0.2)


@pytest.fixture
def run_root(tmp_path: Path) -> Path:
    write_row(tmp_path / "runs", "triplet", PLAIN)
    write_row(tmp_path / "runs", "triplet+wpm", MINED, gain=0.02)
    return tmp_path / "runs"


def rows_of(root: Path) -> list[RowSearches]:
    return group_searches(read_row(place)[0] for place in find_studies(root))


def compare_of(root: Path) -> Comparison:
    first, second = rows_of(root)
    return compare_rows(first, second)


def read_csv(text: str) -> list[Mapping[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_interval_is_over_the_means_of_searches(run_root: Path) -> None:
    found = compare_of(run_root)
    assert found.difference is not None
    # Means 0.01, 0.03 and 0.05: s = 0.02.
    assert found.difference.values == pytest.approx((0.01, 0.03, 0.05))
    assert found.difference.half_width == pytest.approx(T2 * 0.02 / 3**0.5, rel=1e-6)
    assert found.seeds == (1000, 1001, 2000, 2001, 3000, 3001)
    assert found.run_differences == pytest.approx((0.01, 0.01, 0.02, 0.04, 0.05, 0.05))


def test_variance_is_split_into_searches_and_seeds(run_root: Path) -> None:
    # Within: (0 + 0.0002 + 0) / 3; between: 2 x 0.0004; their difference is halved.
    split = compare_of(run_root).split
    assert split.seed_sd == pytest.approx((0.0002 / 3) ** 0.5)
    assert split.search_sd == pytest.approx(((0.0008 - 0.0002 / 3) / 2) ** 0.5)


def test_sentence_of_several_searches_names_them_and_the_split(run_root: Path) -> None:
    assert describe_difference(compare_of(run_root)) == (
        "omniglot/small: triplet+wpm against triplet: +3.00 points of test MAP@R, 95% interval "
        "-1.97 to +7.97, 3 searches of each row with 6 pairs of runs, p = 0.12: no clear "
        "difference. The differences have a standard deviation of 1.91 points between searches, "
        "0.82 points between seeds."
    )


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.04, 0.05, 0.06), "clearly better"),
        ((-0.04, -0.05, -0.06), "clearly worse"),
        ((0.04, -0.05, 0.06), "no clear difference"),
        ((0.05,), "no interval"),
    ],
)
def test_verdict_follows_interval_and_side(
    gains: Sequence[float], verdict: str, tmp_path: Path
) -> None:
    write_row(tmp_path, "nca", [(0.5,)] * len(gains))
    write_row(tmp_path, "nca+wpm", [(0.5 + gain,) for gain in gains])
    assert word_verdict(compare_of(tmp_path)) == verdict


def test_one_run_in_each_search_cannot_be_split(tmp_path: Path) -> None:
    write_row(tmp_path, "nca", [(0.5,), (0.6,), (0.7,)])
    write_row(tmp_path, "nca+wpm", [(0.6,), (0.75,), (0.84,)])
    assert "searches and seeds add cannot be told apart" in describe_difference(
        compare_of(tmp_path)
    )


def test_searches_that_differ_no_more_than_seeds_are_said_to(tmp_path: Path) -> None:
    write_row(tmp_path, "nca", [(0.5, 0.5)] * 3)
    write_row(tmp_path, "nca+wpm", [(0.6, 0.7), (0.7, 0.6), (0.61, 0.7)])
    sentence = describe_difference(compare_of(tmp_path))
    assert "by the estimate, 0 between searches: these differ no more than their seeds" in sentence


def all_texts(root: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what every format of compare, table and report says."""
    texts = []
    for style in ("text", "markdown", "csv"):
        assert compare.main(["--all-twins", "--run-root", str(root), "--format", style]) == 0
        assert table.main(["--run-root", str(root), "--format", style]) == 0
        texts.append(capsys.readouterr().out)
    assert report.main(["--run-root", str(root), "--out", str(out)]) == 0
    page = re.sub(r"<script>.*?</script>", "", out.read_text(encoding="utf-8"), flags=re.S)
    return "\n".join([*texts, page])


@pytest.mark.parametrize("gain", [0.0, 0.2, -0.2])
def test_one_search_is_about_these_configurations_everywhere(
    gain: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_row(tmp_path / "runs", "nca", [(0.5, 0.52, 0.54)])
    write_row(tmp_path / "runs", "nca+wpm", [(0.501 + gain, 0.52 + gain, 0.543 + gain)])
    text = all_texts(tmp_path / "runs", tmp_path / "report.html", capsys)
    assert "clear" not in text.lower()
    verdict = "no difference shown of these configurations"
    if gain:
        better = "nca+wpm" if gain > 0 else "nca"
        verdict = f"of these configurations that of {better} is better"
    assert text.count(verdict) == 4  # compare as text, Markdown and CSV, and the page
    assert text.count("± is of these configurations with other seeds") == 3  # table, and the page
    (_, row) = (line for line in text.splitlines() if line.startswith("omniglot,small,"))
    assert ",1,these configurations," in row


def test_several_searches_are_in_every_format(
    run_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = all_texts(run_root, tmp_path / "report.html", capsys)
    assert text.count("no clear difference") == 4
    assert "these configurations" not in re.sub("of these configurations with other seeds where a "
                                                "row was searched once", "", text)  # fmt: skip
    assert text.count("triplet: ± holds another search and another seed, of 3 searches") == 3
    assert "what all of their trials as one search would find" in text


def test_csv_has_searches_scope_and_split(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compare.main(["--all-twins", "--run-root", str(run_root), "--format", "csv"]) == 0
    (pair,) = read_csv(capsys.readouterr().out)
    assert (pair["searches"], pair["pairs"], pair["first_runs"]) == ("3", "6", "6")
    assert pair["interval_of"] == "searches and seeds"
    assert float(pair["search_sd"]) == pytest.approx(0.019149, abs=1e-6)
    assert float(pair["seed_sd"]) == pytest.approx(0.008165, abs=1e-6)
    assert pair["first_trials_ended"] == "12"
    assert table.main(["--run-root", str(run_root), "--format", "csv"]) == 0
    plain, _ = read_csv(capsys.readouterr().out)
    assert (plain["searches"], plain["n"], plain["trial"]) == ("3", "6", "3 3 3")
    assert plain["half_width_of"] == "searches and seeds"
    # Means 0.51, 0.61 and 0.56: s = 0.05; within 0.0002, between 2 x 0.0025.
    half_width = float(plain["concatenated_map_at_r_half_width"])
    assert half_width == pytest.approx(T2 * 0.05 / 3**0.5, rel=1e-6)
    assert float(plain["concatenated_map_at_r_search_sd"]) == pytest.approx(0.0024**0.5)
    assert float(plain["concatenated_map_at_r_seed_sd"]) == pytest.approx(0.0002**0.5)


def test_table_shows_runs_and_trials_of_every_search(
    run_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert table.main(["--run-root", str(run_root), "--row", "triplet"]) == 0
    cells = re.split(r"\s{2,}", capsys.readouterr().out.splitlines()[2].strip())
    assert cells[3] == "56.00 ± 12.42"
    assert cells[-5:] == ["2, 2, 2", "3, 3, 3", "12/12", "12.0", "0.000"]


def test_unpaired_searches_of_other_numbers_are_not_compared(tmp_path: Path) -> None:
    write_row(tmp_path, "nca", PLAIN)
    write_row(tmp_path, "nca+wpm", MINED)
    first, second = rows_of(tmp_path)
    found = compare_rows(first.only({1}), second.only({2}))
    assert found.difference is None
    assert word_verdict(found) == "nothing to compare"
    assert [note.partition(" is left out")[0] for note in found.notes[:2]] == [
        "nca: search 1", "nca+wpm.search-2: search 2",
    ]  # fmt: skip


def test_curve_of_several_searches_is_their_mean_with_an_interval_over_them(
    run_root: Path,
) -> None:
    plain, _ = compare_of(run_root).curves
    # Trials 0.1, 0.2, 0.3 (first of each search), 0.3, 0.2, 0.4: means 0.25, 0.275 and 0.3.
    assert plain.counts == (1, 2, 3, 4)
    assert plain.expected[0] == pytest.approx(0.275)
    half_width = T2 * 0.025 / 3**0.5
    assert plain.low[0] == pytest.approx(0.275 - half_width, rel=1e-6)
    assert plain.high[0] == pytest.approx(0.275 + half_width, rel=1e-6)
    # All searches found 0.4 at last.
    assert (plain.low[-1], plain.high[-1]) == pytest.approx((0.4, 0.4))
    assert plain.best == pytest.approx((0.2, 0.3, 0.3, 0.4))


def test_figure_of_the_expected_best_has_both_twins_and_bands(run_root: Path) -> None:
    import plotly.graph_objects

    figure = search_figures.expected_best(compare_of(run_root))
    assert figure is not None
    plotly.graph_objects.Figure(data=figure.data, layout=figure.layout)
    names = [data["name"] for data in figure.data]
    assert names == [
        f"{row}{what}"
        for row in ("triplet", "triplet+wpm")
        for what in (", low", ", 95% interval", "", ", all searches as one")
    ]
    plain, mined = (next(d for d in figure.data if d["name"] == n) for n in (names[2], names[6]))
    assert plain["line"]["dash"] != mined["line"]["dash"]
    assert plain["x"] == [1, 2, 3, 4]
    assert figure.data[3]["x"] == list(range(4, 13))
    assert figure.data[3]["y"][-1] == pytest.approx(40.0)
    assert "over 3 searches" in figure.caption


def test_figure_of_one_search_says_that_another_is_not_in_it(run_root: Path) -> None:
    first, second = (row.only({1}) for row in rows_of(run_root))
    figure = search_figures.expected_best(compare_rows(first, second))
    assert figure is not None
    assert len(figure.data) == 6
    assert "another is not in them" in figure.caption


@pytest.mark.parametrize(
    ("plain", "mined", "turns"),
    [
        # The mean of all trials, then the best: 0.2, 0.2 against 0.1, 0.19.
        ((0.2, 0.2), (0.01, 0.19), "would turn"),
        ((0.2, 0.2), (0.01, 0.02), "would not turn"),
        ((0.01, 0.19), (0.2, 0.2), "would turn"),
        ((0.1, 0.3), (0.05, 0.2), "would not turn"),
    ],
)
def test_order_follows_the_trend_of_the_last_trials(
    plain: Sequence[float], mined: Sequence[float], turns: str, tmp_path: Path
) -> None:
    for row, scores in (("nca", plain), ("nca+wpm", mined)):
        write_search(tmp_path, row, [COMPLETE] * 2, budget=2, scores=scores)
    sentence = describe_order(compare_of(tmp_path))
    assert sentence is not None
    assert f"twice as many trials {turns} the order." in sentence


def test_search_without_trials_has_no_order(tmp_path: Path) -> None:
    for row in ("nca", "nca+wpm"):
        write_search(tmp_path, row, [])
    found = compare_of(tmp_path)
    assert describe_order(found) is None
    assert search_figures.expected_best(found) is None


def test_runs_of_all_searches_are_on_one_line_of_the_figure(run_root: Path) -> None:
    figure = runs_figures.final_runs(rows_of(run_root), "concatenated")
    assert figure is not None
    assert figure.data[0]["customdata"] == [1000, 1001, 2000, 2001, 3000, 3001]
    assert figure.layout["yaxis"]["ticktext"] == ["triplet", "triplet+wpm"]
    assert figure.data[-1]["error_x"]["array"][0] == pytest.approx(12.421, abs=1e-3)
