"""Estimate what a launch would take before anything starts, from the records of past trials."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wpm.errors import UserError
from wpm.formatting import format_duration, format_table
from wpm.protocols import Protocol
from wpm.records import (
    StudyPlace,
    find_studies,
    read_all_reports,
    read_trials,
    worker_seconds,
)
from wpm.reports import Report


@dataclass(frozen=True)
class Forecast:
    """What remains to be done in a study.

    Attributes:
        place: the study.
        pieces: trials, or trainings of final runs, that have not ended.
        seconds: of a worker, per piece; None where there is no record to estimate from.
        source: the records that the seconds come from.
    """

    place: StudyPlace
    pieces: int
    seconds: float | None
    source: str


def forecast_search(place: StudyPlace, trials: int) -> Forecast:
    """Return the trials to go in a study, and how long one takes, by the trials that have ended."""
    if not place.row.is_trained:
        return Forecast(place, 0, None, "nothing to search")
    records, _ = read_trials(place)
    ended = sum(record.state.has_ended for record in records)
    for other in _alike(place):
        seconds = [worker_seconds(reports) for reports in _trial_reports(other)]
        if seconds:
            source = f"{len(seconds)} trials of {other.name}"
            return Forecast(place, max(0, trials - ended), sum(seconds) / len(seconds), source)
    return Forecast(place, max(0, trials - ended), None, "no records of this row")


def forecast_finals(
    place: StudyPlace, protocol: Protocol, runs: int, configurations: int = 1
) -> Forecast:
    """Return the trainings of final runs to go, and how long one takes, by those that have ended.

    Args:
        place: the study.
        protocol: of the study.
        runs: seeds per configuration.
        configurations: how many configurations are trained again.
    """
    if not place.row.is_trained:
        return Forecast(place, 0, None, "one test, no training")
    done = len(list(place.folder.glob("finals/*/seed-*/fold-*/result.json")))
    to_go = max(0, configurations * runs * protocol.folds - done)
    for other in _alike(place):
        reports = read_all_reports(other)
        seconds = [worker_seconds(r) for folder, r in reports.items() if "/finals/" in folder]
        if seconds:
            source = f"{len(seconds)} trainings of {other.name}"
            return Forecast(place, to_go, sum(seconds) / len(seconds), source)
    trials = [reports for other in _alike(place) for reports in _trial_reports(other)]
    if trials:
        # Some of these trials were stopped early, so a complete training takes at least this.
        folds = sum(len(reports[-1].folds) for reports in trials)
        each = sum(map(worker_seconds, trials)) / folds
        return Forecast(place, to_go, each, f"at least, by {len(trials)} trials")
    return Forecast(place, to_go, None, "no records of this row")


def _alike(place: StudyPlace) -> list[StudyPlace]:
    """Return the study, then the row's other searches, then those on other data sets."""
    others = find_studies(place.run_root, protocol=place.protocol, row=str(place.row))
    return sorted(others, key=lambda other: (other != place, other.dataset != place.dataset))


def _trial_reports(place: StudyPlace) -> Iterator[Sequence[Report]]:
    """Yield the reports of every trial that has ended and has any."""
    records, _ = read_trials(place, with_reports=True)
    for record in records:
        if record.state.has_ended and record.reports:
            yield record.reports


def format_forecasts(
    forecasts: Sequence[Forecast], slots: int, gpus: float, disk: dict[Path, int]
) -> str:
    """Lay out what a launch would take.

    Args:
        forecasts: one per study.
        slots: how many pieces can run at a time.
        gpus: GPUs per piece.
        disk: bytes that will be written, by folder.

    Raises:
        UserError: nothing can run.
    """
    if slots < 1:
        raise UserError(
            "no node can hold a trial; lower --cpus-per-trial or --gpus-per-trial, or add nodes"
        )
    rows = [
        [
            forecast.place.name,
            forecast.pieces,
            "?" if forecast.seconds is None else format_duration(forecast.seconds),
            "?" if forecast.seconds is None else f"{forecast.pieces * forecast.seconds / 3600:.2f}",
            forecast.source,
        ]
        for forecast in forecasts
    ]
    table = format_table(["study", "to go", "each", "worker-hours", "known from"], rows, "text")
    hours = sum(f.pieces * (f.seconds or 0.0) for f in forecasts) / 3600
    unknown = sum(f.seconds is None and f.pieces > 0 for f in forecasts)
    but = f", and {unknown} studies of which nothing is known" if unknown else ""
    total = f"{hours:.2f} worker-hours" + (f" = {hours * gpus:.2f} GPU-hours" if gpus else "")
    lines = [table, f"in all {total}{but}; {slots} at a time: {hours / slots:.2f} hours"]
    lines += [f"disk: at most {size / 1e9:.2f} GB more in {path}" for path, size in disk.items()]
    return "\n".join(lines)
