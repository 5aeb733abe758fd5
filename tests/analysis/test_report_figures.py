"""The figures of the report: what they show, and that plotly accepts every attribute."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from analysis.report_page import parameter_figures, runs_figures, search_figures
from analysis.report_page.parallel_coordinates import parallel_coordinates
from analysis.report_page.study_section import lay_out_failures, lay_out_trials, summarise
from analysis.report_page.theme import Figure
from analysis.studies.comparison import Comparison, compare_rows
from analysis.studies.histories import Search, read_search
from analysis.studies.parameter_importance import measure_importance
from analysis.studies.published import read_trace
from analysis.studies.row_record import RowRecord
from analysis.studies.row_results import read_row
from analysis.studies.row_searches import RowSearches, group_searches
from analysis.studies.score_surface import predict_surface
from analysis.studies.validation import validate_rows
from tests.support.searches import (
    RANGES,
    draw_parameters,
    write_course,
    write_search_of_waiting_folds,
    write_searched,
)
from tests.support.stored import COMPLETE, FAILED, PRUNED, write_final, write_run, write_search
from wpm.records import StudyPlace, TrainingFolder, TrialState
from wpm.rows import Row

NAMES = {"stopped": (1, 2), "failed": {3: "NaN"}}


def search_of(root: Path, **more: Any) -> Search:
    search, problems = read_search(write_searched(root, **{**NAMES, **more}))
    assert problems == []
    return search


def trace(figure: Figure | None, name: str) -> Mapping[str, Any]:
    assert figure is not None
    return next(data for data in figure.data if data.get("name") == name)


def compare(first: RowRecord, second: RowRecord) -> Comparison:
    return compare_rows(RowSearches([first]), RowSearches([second]))


def check(figure: Figure | None) -> None:
    """Let plotly's own model check every attribute."""
    import plotly.graph_objects

    assert figure is not None
    plotly.graph_objects.Figure(data=figure.data, layout=figure.layout)
    assert figure.caption.endswith(".")


def test_best_so_far_rises_over_complete_trials_only(tmp_path: Path) -> None:
    scores = iter((0.3, 0.9, 0.8, 0.0, 0.2, 0.5))
    search = search_of(tmp_path, trials=6, score=lambda p: next(scores))
    figure = search_figures.best_so_far(search, None)
    check(figure)
    best = trace(figure, "best so far")
    assert (best["x"], best["y"]) == ([1, 5, 6, 6], [30.0, 30.0, 50.0, 50.0])
    assert trace(figure, "stopped")["x"] == [2, 3]
    assert "1 failed trials have no score" in figure.caption
    assert "No search of this row was published" in figure.caption


def test_diverged_trials_are_drawn_at_0_in_a_style_of_their_own(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=4)
    reason = "loss of fold 0 is nan"
    parameters = draw_parameters(1, RANGES)[0]
    write_course(place, 4, parameters, 0.0, TrialState.DIVERGED, epochs=2, reason=reason)
    search, problems = read_search(place)
    assert problems == []
    figure = search_figures.best_so_far(search, None)
    check(figure)
    diverged = trace(figure, "diverged")
    assert (diverged["x"], diverged["y"]) == ([5], [0.0])
    assert "Diverged trials score 0." in figure.caption
    complete = trace(figure, "complete")
    assert diverged["marker"]["symbol"] != complete["marker"]["symbol"]
    for other in (search_figures.timeline(search), search_figures.learning_curves(search)):
        check(other)
        trace(other, "diverged")
    assert search.best is not None and search.best.outcome.number != 4
    failures = lay_out_failures(search)
    assert [row[:2] for row in failures.rows] == [[4, "diverged"]]
    assert reason in failures.rows[0]
    assert summarise(search).startswith("5 of 4 trials ended (4 complete, 1 diverged)")


def test_labels_name_the_origin_of_known_configurations(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=4)
    identity = TrainingFolder(place.trial_folder(1)).read_identity()
    known = {**identity, "origin": "published <cub200>"}
    TrainingFolder(place.trial_folder(1)).write_identity(known)
    search, _ = read_search(place)
    shown = ["", " (published &lt;cub200&gt;)", "", ""]
    best = search_figures.best_so_far(search, None)
    check(best)
    assert trace(best, "complete")["text"] == shown
    assert "%{text}" in trace(best, "complete")["hovertemplate"]
    assert "Known before and tried first: 1; the labels say where from." in best.caption
    for figure in parameter_figures.slices(search, {}):
        check(figure)
        assert trace(figure, "complete")["text"] == shown
    table = lay_out_trials(search)
    assert table.columns[-1] == "origin"
    assert {row[1]: row[-1] for row in table.rows}["1"] == "published <cub200>"


def test_published_search_is_shown_beside_ours(tmp_path: Path) -> None:
    search = search_of(tmp_path, row="contrastive", dataset="cub200", protocol="mlrc")
    published = read_trace("cub200", "mlrc", "contrastive")
    figure = search_figures.best_so_far(search, published)
    check(figure)
    line = trace(figure, "published search")
    assert line["x"] == list(range(1, 51))
    assert line["y"][0] == pytest.approx(34.86, abs=0.01)
    assert line["line"]["dash"] == "longdash"  # not by its colour alone


def test_learning_curves_go_by_outcome_and_show_the_rungs(tmp_path: Path) -> None:
    figure = search_figures.learning_curves(search_of(tmp_path, trials=6))
    check(figure)
    assert figure is not None
    stopped = trace(figure, "stopped")
    assert stopped["x"] == [1, 2, 3, 4, 5, None] * 2
    assert stopped["customdata"] == [1] * 5 + [None] + [2] * 5 + [None]
    assert [shape["x0"] for shape in figure.layout["shapes"]] == [5]
    styles = {data["line"].get("dash", "solid") for data in figure.data}
    assert len(styles) == 2
    without = search_figures.learning_curves(search_of(tmp_path / "b", stopped=(), trials=6))
    assert without is not None
    assert without.layout["shapes"] == []


def test_learning_curves_are_drawn_over_steps_where_some_folds_wait(tmp_path: Path) -> None:
    search, _ = read_search(write_search_of_waiting_folds(tmp_path))
    figure = search_figures.learning_curves(search)
    check(figure)
    assert figure is not None
    best = trace(figure, "best: trial 0")
    assert (best["x"][0], best["x"][-2]) == (1, 40)
    assert "step" in best["hovertemplate"]
    title = figure.layout["xaxis"]["title"]["text"]
    assert title == "step (epochs of 1 of 2 folds, then of the others)"
    assert [shape["x0"] for shape in figure.layout["shapes"]] == [5, 20]
    assert "After step 20 the other folds train" in figure.caption
    assert "fewer epochs or folds" in search_figures.best_so_far(search, None).caption


def test_level_stretches_are_drawn_by_their_ends() -> None:
    curve = [(1, 0.1), (2, 0.2), (3, 0.2), (4, 0.2), (5, 0.3), (6, 0.3)]
    assert list(search_figures._corners(curve)) == [*curve[:2], *curve[3:]]


def test_slices_mark_the_published_value_on_the_searched_scale(tmp_path: Path) -> None:
    search = search_of(tmp_path, trials=6)
    figures = {figure.title: figure for figure in parameter_figures.slices(search, {"lr": 0.01})}
    assert list(figures) == sorted(RANGES)  # as study.json holds them
    for figure in figures.values():
        check(figure)
    lr = figures["lr"].layout
    assert lr["xaxis"]["type"] == "log"
    assert [shape["x0"] for shape in lr["shapes"]] == [1e-4, 1e-1, 0.01]
    assert lr["annotations"][0]["x"] == pytest.approx(-2)  # plotly wants the logarithm here
    assert len(figures["margin"].layout["shapes"]) == 2


def test_parallel_coordinates_run_from_edge_to_edge(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=2, score=lambda p: 0.2)
    write_course(place, 2, {"margin": 1.8, "lr": 1e-4, "bins": 6}, 0.4)
    search, _ = read_search(place)
    figure = parallel_coordinates(search, {"lr": 0.01})
    check(figure)
    best = trace(figure, "best 1 of complete")
    assert best["y"] == [0.5, 0.0, 1.0, 1.0, None]  # bins, lr, margin, score
    assert trace(figure, "published")["y"] == [None, pytest.approx(2 / 3, abs=1e-4), None, None]
    single, _ = read_search(write_searched(tmp_path / "one", trials=1))
    assert parallel_coordinates(single, {}) is None


def test_importance_and_contour(tmp_path: Path) -> None:
    search = search_of(tmp_path, stopped=(), failed={})
    estimates, _ = measure_importance(search)
    assert estimates is not None
    figure = parameter_figures.importance(estimates)
    check(figure)
    assert trace(figure, "fANOVA")["y"][-1] == "margin"  # the first at the top
    assert trace(figure, "permutation")["marker"]["symbol"] != "circle"
    surface = predict_surface(search, ("margin", "lr"))
    assert surface is not None
    contour = parameter_figures.contour(search, surface, "score", {"margin": 0.1, "lr": 0.01})
    check(contour)
    assert contour.layout["yaxis"]["type"] == "log"
    assert len(trace(contour, "trials")["x"]) == 24
    assert trace(contour, "published")["x"] == [0.1]


def test_timeline_bars_last_as_long_as_trials(tmp_path: Path) -> None:
    figure = search_figures.timeline(search_of(tmp_path, trials=6))
    check(figure)
    stopped = trace(figure, "stopped")
    assert stopped["base"] == ["2026-01-02 03:01:05", "2026-01-02 03:02:05"]
    assert stopped["x"] == [54000, 54000]  # milliseconds
    assert stopped["marker"]["pattern"]["shape"] == "/"  # not by its colour alone
    running = write_searched(tmp_path / "r", trials=2)
    write_course(running, 2, draw_parameters(1)[0], 0.3, None, epochs=3)
    assert trace(search_figures.timeline(read_search(running)[0]), "running")["x"] == [1000]


def row_with_runs(root: Path, row: str, scores: Sequence[float], trial: int = 2) -> RowRecord:
    place = write_search(root, row)
    for seed, score in enumerate(scores):
        write_run(write_final(place, "aa", trial, 0.2), 1000 + seed, score, validation=[0.2])
    record, problems = read_row(place)
    assert problems == []
    return record


def test_every_final_run_is_a_point_with_an_interval_below(tmp_path: Path) -> None:
    rows = [
        row_with_runs(tmp_path, "contrastive", (0.5, 0.6, 0.7)),
        row_with_runs(tmp_path, "contrastive+wpm", (0.8,)),
    ]
    figure = runs_figures.final_runs(group_searches(rows), "concatenated")
    check(figure)
    plain = trace(figure, "runs, plain")
    assert plain["x"] == pytest.approx([30, 40, 50])
    assert plain["customdata"] == [1000, 1001, 1002]
    means = trace(figure, "mean, 95% interval")
    assert means["x"] == pytest.approx([40, 60])
    # s = 10, 4.302653 * 10 / sqrt(3); a single run has no interval
    assert means["error_x"]["array"] == pytest.approx([24.841, 0], abs=1e-3)
    untested = group_searches([read_row(write_search(tmp_path, "x"))[0]])
    assert runs_figures.final_runs(untested, "separated") is None


def test_difference_shows_zero_pairs_and_interval(tmp_path: Path) -> None:
    first = row_with_runs(tmp_path, "contrastive", (0.5, 0.6, 0.7))
    second = row_with_runs(tmp_path, "contrastive+wpm", (0.6, 0.62, 0.76))
    figure = runs_figures.differences([compare(first, second)])
    check(figure)
    assert figure is not None
    assert trace(figure, "pairs of runs")["x"] == pytest.approx([10, 2, 6])
    mean = trace(figure, "mean difference, 95% interval")
    assert mean["x"] == pytest.approx([6])
    low, high = figure.layout["xaxis"]["range"]
    assert low < 6 - mean["error_x"]["array"][0] < 0 < 6 + mean["error_x"]["array"][0] < high
    assert runs_figures.differences([]) is None


def test_progress_counts_the_hours_of_every_trial(tmp_path: Path) -> None:
    first, second = (
        read_row(write_search(tmp_path, row, states, hours=hours, scores=(0.2, 0.9, 0.4, 0.3)))[0]
        for row, states, hours in (
            (
                "triplet",
                [COMPLETE, PRUNED, COMPLETE, FAILED],
                2.0,
            ),
            (
                "triplet+wpm",
                [FAILED, COMPLETE, COMPLETE, COMPLETE],
                5.0,
            ),
        )
    )
    figure = search_figures.progress_by_hours(compare(first, second))
    check(figure)
    plain, mined = trace(figure, "triplet"), trace(figure, "triplet+wpm")
    # What was stopped cannot be chosen, but its hours are spent; before a choice no point.
    assert (plain["x"], plain["y"]) == ([2, 4, 6, 8], [20, 20, 40, 40])
    assert (mined["x"], mined["y"]) == ([10, 15, 20], [90, 90, 90])
    assert plain["line"]["dash"] != mined["line"]["dash"]
    nothing = read_row(write_search(tmp_path, "margin", [FAILED] * 2))[0]
    assert search_figures.progress_by_hours(compare(nothing, nothing)) is None


def test_validation_against_test_has_a_symbol_a_row(tmp_path: Path) -> None:
    rows = [row_with_runs(tmp_path, name, (0.5, 0.6)) for name in ("margin", "triplet")]
    (validation,) = validate_rows(rows, "concatenated", "map_at_r")
    figure = runs_figures.validation_against_test(validation.points, "concatenated")
    check(figure)
    assert figure is not None
    assert len({data["marker"]["symbol"] for data in figure.data}) == 2
    assert trace(figure, "triplet")["y"] == pytest.approx([35])
    assert runs_figures.validation_against_test([], "concatenated") is None


def test_names_from_records_are_shown_not_read_as_html(tmp_path: Path) -> None:
    """Plotly reads a little HTML in every label."""
    name = "<b>margin</b>"
    place = write_searched(tmp_path, trials=4, ranges={name: RANGES["margin"]},
                           score=lambda p: 0.1 * abs(p[name]))  # fmt: skip
    search, _ = read_search(place)
    (figure,) = parameter_figures.slices(search, {})
    assert figure.layout["xaxis"]["title"]["text"] == "&lt;b&gt;margin&lt;/b&gt;"


def test_study_without_trials_has_no_curves(tmp_path: Path) -> None:
    search, _ = read_search(write_searched(tmp_path, trials=0))
    assert search_figures.learning_curves(search) is None
    assert search_figures.timeline(search) is None
    check(search_figures.best_so_far(search, None))
    place = StudyPlace(tmp_path, "omniglot", "small", Row("contrastive", "wpm"))
    assert search.place == place
    assert not any(len(figure.data) for figure in parameter_figures.slices(search, {}))
