"""The forecast of a launch: work that remains, seconds from the nearest records, sums."""

from pathlib import Path

import pytest

from tests.support.searches import write_search_of_waiting_folds
from tests.support.stored import COMPLETE, PRUNED, write_search
from tests.support.trials import fold_report, outcome
from wpm.cli.forecast import Forecast, forecast_finals, forecast_search, format_forecasts
from wpm.errors import UserError
from wpm.protocol_files import find_protocol
from wpm.records import StudyPlace, TrainingFolder
from wpm.reports import Report
from wpm.rows import Row

PROTOCOL = find_protocol("small", "omniglot")


def write_reports(folder: Path, seconds: float, folds: int = 1) -> None:
    fold = fold_report(
        training_seconds=seconds / folds * 0.9, validation_seconds=seconds / folds * 0.1
    )
    TrainingFolder(folder).progress.write_reports([Report(1, 0.5, (fold,) * folds)])


def test_ended_trials_are_taken_off_and_timed(tmp_path: Path) -> None:
    place = write_search(tmp_path, "triplet", [COMPLETE, COMPLETE, PRUNED], 3)
    for number, seconds in enumerate((10.0, 20.0, 60.0)):
        write_reports(place.trial_folder(number), seconds)
    forecast = forecast_search(place, 10)
    assert (forecast.pieces, forecast.seconds) == (7, 30.0)
    assert forecast.source == "3 trials of omniglot/small/triplet"


def test_row_is_timed_on_another_data_set_if_it_must_be(tmp_path: Path) -> None:
    other = write_search(tmp_path, "triplet", [COMPLETE], 1, dataset="glyphs")
    write_reports(other.trial_folder(0), 12.0)
    forecast = forecast_search(StudyPlace(tmp_path, "omniglot", "small", Row("triplet")), 5)
    assert (forecast.pieces, forecast.seconds) == (5, 12.0)
    assert forecast.source == "1 trials of glyphs/small/triplet"
    unknown = forecast_search(StudyPlace(tmp_path, "omniglot", "small", Row("margin")), 5)
    assert (unknown.pieces, unknown.seconds) == (5, None)


def test_further_search_is_timed_by_the_rows_other_searches_first(tmp_path: Path) -> None:
    for dataset, seconds in (("glyphs", 50.0), ("omniglot", 12.0)):
        place = write_search(tmp_path, "triplet", [COMPLETE], 1, dataset=dataset)
        write_reports(place.trial_folder(0), seconds)
    forecast = forecast_search(StudyPlace(tmp_path, "omniglot", "small", Row("triplet"), 2), 5)
    assert (forecast.pieces, forecast.seconds) == (5, 12.0)
    assert forecast.source == "1 trials of omniglot/small/triplet"


def test_final_runs_are_timed_by_their_own_kind_first(tmp_path: Path) -> None:
    place = write_search(tmp_path, "triplet", [COMPLETE, PRUNED], 2)
    for number in range(2):
        write_reports(place.trial_folder(number), 40.0, folds=4)
    by_trials = forecast_finals(place, PROTOCOL, runs=5)
    assert (by_trials.pieces, by_trials.seconds) == (20, 10.0)
    assert by_trials.source == "at least, by 2 trials"
    fold = place.folder / "finals" / "0123" / "seed-1000" / "fold-0"
    write_reports(fold, 25.0)
    TrainingFolder(fold).write_result(outcome(0.5))
    by_finals = forecast_finals(place, PROTOCOL, runs=5)
    assert (by_finals.pieces, by_finals.seconds) == (19, 25.0)


def test_final_runs_are_timed_by_the_folds_that_trials_trained(tmp_path: Path) -> None:
    """Two trials trained both folds and one a single fold, for a second each."""
    place = write_search_of_waiting_folds(tmp_path, "triplet")
    assert forecast_search(place, 4).seconds == pytest.approx((2 + 1 + 2) / 3)
    assert forecast_finals(place, PROTOCOL, runs=5).seconds == pytest.approx(1.0)


def test_row_without_training_takes_nothing(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", Row("pretrained"))
    assert forecast_search(place, 20).pieces == forecast_finals(place, PROTOCOL, 5).pieces == 0


def test_sum_counts_gpus_and_names_what_is_not_known(tmp_path: Path) -> None:
    place = StudyPlace(tmp_path, "omniglot", "small", Row("triplet"))
    forecasts = [Forecast(place, 40, 360.0, "records"), Forecast(place, 3, None, "none")]
    text = format_forecasts(forecasts, slots=4, gpus=0.25, disk={tmp_path: 2_000_000_000})
    last = text.splitlines()[-2:]
    assert last[0] == (
        "in all 4.00 worker-hours = 1.00 GPU-hours, and 1 studies of which nothing is known; "
        "4 at a time: 1.00 hours"
    )
    assert last[1] == f"disk: at most 2.00 GB more in {tmp_path}"
    with pytest.raises(UserError, match="no node can hold a trial"):
        format_forecasts(forecasts, slots=0, gpus=1.0, disk={})
