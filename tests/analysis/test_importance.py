"""Importance on searches whose answer is known, and the command on stored records."""

import csv
import io
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from analysis import importance
from analysis.studies.forest import collect_points
from analysis.studies.histories import Search, read_search
from analysis.studies.parameter_importance import (
    describe_agreement,
    measure_importance,
)
from analysis.studies.score_surface import predict_surface
from tests.support.searches import RANGES, write_course, write_searched
from tests.support.stored import bytes_under
from wpm.records import StudyPlace

ROOT = Path(__file__).resolve().parents[2]


def search_of(place: StudyPlace) -> Search:
    search, problems = read_search(place)
    assert problems == []
    return search


def run(root: Path, *arguments: str) -> int:
    return importance.main(["--run-root", str(root), *arguments])


def log_lr(p: Mapping[str, float]) -> float:
    return float(0.6 + 0.1 * np.log10(p["lr"]) + 0.01 * p["margin"])


def test_parameter_that_makes_the_score_comes_first_on_its_scale(tmp_path: Path) -> None:
    search = search_of(write_searched(tmp_path, trials=40, score=log_lr))
    found, why_not = measure_importance(search)
    assert found is not None
    assert why_not == ""
    assert found.first == ("lr", "lr")
    assert list(found.fanova) == sorted(found.fanova, key=lambda n: -found.fanova[n])
    assert sum(found.fanova.values()) == pytest.approx(1)
    assert sum(found.permutation.values()) == pytest.approx(1)
    assert found.permutation["lr"] > 0.9
    assert found.skill > 0.8
    assert found.trials == found.available == 40
    assert "both put lr first" in describe_agreement(found)
    assert measure_importance(search) == (found, "")  # the same records, the same numbers


def test_interaction_is_where_the_estimates_disagree(tmp_path: Path) -> None:
    """A parameter that only reverses another explains nothing by itself."""

    def turned(p: Mapping[str, float]) -> float:
        return 0.5 + 0.1 * (p["margin"] - 0.8) * (1 if p["lr"] > 0.00316 else -1)

    found, _ = measure_importance(search_of(write_searched(tmp_path, trials=120, score=turned)))
    assert found is not None
    assert found.permutation["lr"] > found.fanova["lr"] + 0.15


def test_noise_is_reported_as_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    place = write_searched(tmp_path, trials=20, score=lambda p: float(rng.uniform(0.2, 0.5)))
    found, _ = measure_importance(search_of(place))
    assert found is not None
    assert found.skill < 0.1
    assert "the shares mean nothing yet" in describe_agreement(found)


def test_stopped_trials_are_compared_at_the_first_rung(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=12, stopped=range(6), failed={11: "NaN"})
    target, points = collect_points(search_of(place))
    assert target == "score at the first rung (epoch 5) of complete and stopped trials"
    assert len(points) == 11
    parameters, score = points[-1]  # complete: it went from half its score to all in 20 epochs
    final = 0.5 + 0.2 * parameters["margin"]
    assert score == pytest.approx(final * (0.5 + 0.5 * 4 / 19))
    target, points = collect_points(search_of(place), complete_only=True)
    assert target == "final score of complete trials"
    assert len(points) == 5


def test_value_outside_its_range_is_not_weighed(tmp_path: Path) -> None:
    place = write_searched(tmp_path, trials=12)
    write_course(place, 12, {"margin": 99.0, "lr": 0.01, "bins": 3}, 0.9)
    write_course(place, 13, {"margin": 1.0}, 0.9)
    assert len(collect_points(search_of(place))[1]) == 12


@pytest.mark.parametrize(
    ("trials", "ranges", "line"),
    [
        (9, RANGES, "too few trials to tell which parameters mattered: 9 have a final score"),
        (24, {"margin": RANGES["margin"]}, "1 parameter is searched: there is nothing to weigh"),
        (24, {"lr": RANGES["lr"], "bins": RANGES["bins"]}, "all 24 trials have the same final"),
    ],
)
def test_too_little_to_tell_is_a_line(
    tmp_path: Path, trials: int, ranges: Mapping[str, Mapping[str, object]], line: str
) -> None:
    place = write_searched(
        tmp_path, trials=trials, ranges=ranges, score=lambda p: 0.5 + 0.1 * p.get("margin", 0.0)
    )
    found, why_not = measure_importance(search_of(place))
    assert found is None
    assert why_not.startswith(line)


def test_many_trials_are_drawn_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("analysis.studies.parameter_importance.MOST_TRIALS", 15)
    found, _ = measure_importance(search_of(write_searched(tmp_path, trials=20)))
    assert found is not None
    assert (found.trials, found.available) == (15, 20)


def test_surface_rises_where_the_score_does(tmp_path: Path) -> None:
    search = search_of(write_searched(tmp_path, trials=60, score=log_lr))
    surface = predict_surface(search, ("lr", "margin"))
    assert surface is not None
    assert surface.x[[0, -1]] == pytest.approx([1e-4, 1e-1])
    assert surface.y[[0, -1]] == pytest.approx([-0.2, 1.8])
    assert surface.score.shape == (25, 25)
    rise = surface.score[:, -1] - surface.score[:, 0]  # three decades of 0.1 each
    assert np.all((rise > 0.2) & (rise < 0.31))
    assert (
        predict_surface(search_of(write_searched(tmp_path / "few", trials=9)), ("lr", "bins"))
        is None
    )


def test_text_shows_shares_disagreement_and_edges(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_searched(tmp_path, trials=16)
    write_course(place, 16, {"margin": 1.75, "lr": 0.01, "bins": 6}, 0.99)
    before = bytes_under(tmp_path)
    assert run(tmp_path) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(
        "omniglot/small/contrastive+wpm: importance for the final score of complete trials (n = 17)"
        "\nparameter  fANOVA %  permutation %  differ by\nmargin"
    )
    assert "note: both put margin first" in out
    assert (
        "boundary check of trial 16, validation MAP@R 99.00 %\n"
        "parameter  value             searched  distance %  edge    try next\n"
        "margin      1.75          -0.2 to 1.8         2.5  high  0.8 to 2.8\n"
    ) in out
    assert "within 5% of an edge of the range: margin (high); search these further" in out
    assert bytes_under(tmp_path) == before


def test_markdown_and_csv_of_several_studies(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_searched(tmp_path, trials=16)
    few = write_searched(tmp_path, "triplet", trials=2, failed={0: "NaN", 1: "NaN"})
    assert run(tmp_path, "--format", "markdown") == 0
    out = capsys.readouterr().out
    assert "### omniglot/small/contrastive+wpm: importance" in out
    assert "### omniglot/small/triplet: importance\n\ntoo few trials" in out
    assert "triplet: boundary check\n\nno complete trial to check against the edges" in out
    assert run(tmp_path, "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["row"] for row in rows] == ["contrastive+wpm"] * 3 + ["triplet"] * 3
    assert float(rows[0]["trials"]) == 16
    assert rows[3]["fanova"] == ""
    assert rows[3]["why_not"].startswith("too few trials")
    (few.folder / "trials" / "0001" / "result.json").write_text("{")
    assert run(tmp_path, "--row", "triplet") == 0
    assert "0001/result.json: damaged" in capsys.readouterr().err


def test_command_starts_without_heavy_libraries() -> None:
    code = (
        "import sys, analysis.importance as i; "
        "heavy = {'torch', 'ray', 'optuna', 'sklearn', 'scipy', 'plotly', 'pandas'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); i.main(['--help'])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "python -m analysis.importance --dataset omniglot" in done.stdout
