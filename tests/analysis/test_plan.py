"""Plans of searches, trials and runs from stored records, against hand-computed spreads."""

import csv
import io
import itertools
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from analysis import plan
from analysis.numbers.search_curve import best_spread
from tests.support.stored import COMPLETE, bytes_under, write_final, write_run, write_search
from wpm.spreads import detectable_difference, needed_searches

GAINS = [(0.01, 0.01), (0.02, 0.04), (0.05, 0.05)]  # of the runs of three searches
# Means 1, 3 and 5: mean square within 2 / 3, between 2 x 4, in points squared.
SEARCH_SD, SEED_SD = ((8 - 2 / 3) / 2) ** 0.5 / 100, (2 / 3) ** 0.5 / 100
TRIALS = [0.1, 0.4, 0.2, 0.3]


def write_twins(
    root: Path,
    gains: Sequence[Sequence[float]] = GAINS,
    loss: str = "nca",
    hours: float = 2.0,
    scores: Sequence[float] = TRIALS,
) -> None:
    """Write searches of four trials of `hours` each; a final run has two folds of half an hour."""
    for row in (loss, f"{loss}+wpm"):
        for number, runs in enumerate(gains, start=1):
            place = write_search(
                root, row, [COMPLETE] * len(scores), scores=scores, hours=hours, search=number
            )
            final = write_final(place, "aa", trial=1, score=0.4)
            for run, gain in enumerate(runs):
                score = 0.5 + 0.1 * number + 0.02 * run + (gain if "+" in row else 0.0)
                folds = [0.4, 0.4] if hours else []
                write_run(final, 1000 * number + run, score, validation=folds)


def run(root: Path, *arguments: str) -> int:
    return plan.main([*arguments, "--run-root", str(root)])


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_searches_follow_from_spreads_and_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path)
    assert run(tmp_path, "--points", "2", "--format", "csv") == 0
    rows = [row for row in read_csv(capsys.readouterr().out) if row["trials"] == "4"]
    assert [row["runs"] for row in rows] == ["1", "2", "3", "5", "10"]
    for row in rows:
        mean_sd = (SEARCH_SD**2 + SEED_SD**2 / int(row["runs"])) ** 0.5
        searches = int(row["searches"])
        assert detectable_difference(mean_sd, searches) <= 0.02
        assert detectable_difference(mean_sd, searches - 1) > 0.02
        assert float(row["search_sd"]) == pytest.approx(SEARCH_SD)
        assert float(row["seed_sd"]) == pytest.approx(SEED_SD)
        # Two rows, four trials of two hours, runs of two folds of half an hour.
        assert float(row["device_hours"]) == pytest.approx(
            2 * searches * (4 * 2.0 + int(row["runs"]) * 1.0)
        )


def test_shorter_searches_vary_more_and_find_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path)
    assert run(tmp_path, "--points", "2", "--format", "csv") == 0
    one, two = (row for row in read_csv(capsys.readouterr().out) if row["trials"] in ("1", "2"))
    assert float(one["first_expected"]) == pytest.approx(0.25)
    # Of two of the four the best is 0.4 in three of six draws, 0.3 in two, 0.2 in one.
    assert float(two["second_expected"]) == pytest.approx((3 * 0.4 + 2 * 0.3 + 0.2) / 6)
    relative = best_spread(TRIALS * 3, 1) / best_spread(TRIALS * 3, 4)
    assert float(one["search_sd"]) == pytest.approx(SEARCH_SD * relative)
    assert relative > 1
    mean_sd = (float(one["search_sd"]) ** 2 + SEED_SD**2 / int(one["runs"])) ** 0.5
    assert int(one["searches"]) == needed_searches(0.02, mean_sd)


def test_best_of_drawn_scores_varies_as_over_all_draws() -> None:
    scores = [0.1, 0.4, 0.2, 0.4]
    for count in (1, 2, 3):
        draws = [max(draw) for draw in itertools.product(scores, repeat=count)]
        assert best_spread(scores, count) == pytest.approx(np.std(draws))
    assert best_spread([0.3], 5) == 0.0


TEXT = """\
omniglot/small: nca+wpm against nca: to find 2 points of test MAP@R, concatenated, with searches of 4 trials
runs of each search  searches of each row  trials in all  final runs in all  device-hours
                  1                    11             88                 22         198.0
                  2                    10             80                 40         200.0
                  3                    10             80                 60         220.0
                  5                    10             80                100         260.0
                 10                    10             80                200         360.0
note: standard deviation of 1.91 points between searches, 0.82 points between seeds, of the differences of 6 pairs of runs in 3 searches
note: a spread seen in 3 searches is rough: the true one is between 0.5 and 6.3 times it (95%), and the searches needed grow with its square
note: 4 of 5 such comparisons find the difference (t-test over searches, p < 0.05); trials, runs and hours are of both rows together
"""  # noqa: E501


def test_text_shows_two_small_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_twins(tmp_path)
    assert run(tmp_path, "--points", "2") == 0
    by_runs, by_trials = capsys.readouterr().out.split("\n\n")
    assert by_runs + "\n" == TEXT
    lines = by_trials.splitlines()
    assert lines[0] == "the cheapest numbers of runs and searches, by the trials of each search"
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "4"]
    assert lines[4].split()[1:4] == ["40.00", "40.00", "1.91"]
    assert lines[5].startswith("note: expected: best validation MAP@R %")


def test_hours_are_left_out_where_records_do_not_say(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path, hours=0.0)
    assert run(tmp_path, "nca", "nca+wpm", "--points", "2", "--format", "markdown") == 0
    out = capsys.readouterr().out
    assert "- the records do not say how long trials and final runs took" in out
    cells = [line.strip("| ").split("|")[-1].strip() for line in out.splitlines()[4:9]]
    assert cells == ["-"] * 5


def test_difference_too_small_for_many_searches_is_said_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path)
    assert run(tmp_path, "--points", "0.1") == 0
    assert len(re.findall(r"above 200 +- +- +-\n", capsys.readouterr().out)) == 8


@pytest.mark.parametrize(
    ("gains", "message"),
    [
        ([(0.01, 0.02)], "one search of each row has final runs, which does not say how searches"),
        ([(0.01,), (0.02,)], "each search has one final run, which does not say how runs vary"),
        ([()], "no final runs of both rows (python launch.py --best-only makes them)"),
    ],
)
def test_records_that_do_not_suffice_are_refused_in_one_line(
    gains: Sequence[Sequence[float]],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_twins(tmp_path, gains)
    assert run(tmp_path) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"plan: error: omniglot/small: nca+wpm against nca: {message}")
    assert err.count("\n") == 1


def test_searches_without_ended_trials_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path, scores=())
    assert run(tmp_path) == 2
    assert "no trial has ended, so no curve says what trials find" in capsys.readouterr().err


def test_pair_without_records_is_named_beside_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_twins(tmp_path)
    write_twins(tmp_path, [(0.01, 0.02)], loss="triplet")
    assert run(tmp_path) == 0
    out, err = capsys.readouterr()
    assert "nca+wpm against nca: to find 1 point of test" in out
    assert err.startswith("note: omniglot/small: triplet+wpm against triplet: one search of each")


@pytest.mark.parametrize("points", ["0", "-1", "nan", "inf", "101", "some"])
def test_points_must_be_a_difference(points: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        plan.main([f"--points={points}"])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert f"{points} is not a difference in percentage points, above 0 and at most 100" in err


def test_one_row_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_twins(tmp_path)
    assert run(tmp_path, "nca") == 2
    assert "give two rows, before the flags, or none for all twins" in capsys.readouterr().err


def test_records_are_left_as_they_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_twins(tmp_path)
    before = bytes_under(tmp_path)
    for style in ("text", "markdown", "csv"):
        assert run(tmp_path, "--format", style) == 0
    assert bytes_under(tmp_path) == before
    capsys.readouterr()
