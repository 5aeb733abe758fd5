"""Rank the trials of each study by validation MAP@R."""

import argparse
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from analysis.options import (
    build_parser,
    parse_count,
    read_studies,
    report_problems,
    require_study,
    run_main,
    select_studies,
)
from analysis.reference import PUBLISHED, add_against, read_trace
from analysis.statistics import standard_deviation
from wpm.console import format_duration
from wpm.errors import UserError
from wpm.records import (
    COMPLETE,
    FAILED,
    PRUNED,
    RUNNING,
    StudyPlace,
    TrainingFolder,
    TrainingRecord,
    read_trials,
)
from wpm.tables import format_table

DESCRIPTION = """Rank the trials of each study by validation MAP@R.

A trial's score is the mean over the folds of the best validation MAP@R, followed by the sample
standard deviation over the folds: percent for people, fractions in CSV. Complete trials come first;
then those that successive halving stopped, whose scores come from fewer epochs; then those that run
(best so far); then those that failed. Time is the worker seconds of training and validation.
"""
EXAMPLES = """  python -m analysis.rank_trials --dataset omniglot --row contrastive+wpm --top 10
  python -m analysis.rank_trials --dataset glyphs --format csv > trials.csv
  python -m analysis.rank_trials --dataset cub200 --against published
"""

_STATES = (COMPLETE, PRUNED, RUNNING, FAILED)  # in the order of the ranking
_STATE_NAMES = {PRUNED: "stopped"}
_REASON_WIDTH = 100
_TRACE_COUNTS = (1, 5, 10, 20, 50)  # trials after which two searches are compared
_CSV_COLUMNS = ("dataset", "protocol", "row", "rank", "trial", "state", "score", "score_deviation",
                "epochs", "seconds")  # fmt: skip


@dataclass(frozen=True)
class RankedTrial:
    """A trial as the ranking shows it.

    Attributes:
        rank: place among the trials with a final score, None while running or failed.
        number: the trial's.
        state: one of `wpm.records`'s.
        score: mean over the folds, a fraction; None if failed or not yet validated.
        deviation: over the folds; None with one fold.
        epochs: trained so far.
        seconds: worker time.
        parameters: of the configuration.
        reason: why it failed or was stopped.
    """

    rank: int | None
    number: int
    state: str
    score: float | None
    deviation: float | None
    epochs: int
    seconds: float
    parameters: Mapping[str, float]
    reason: str

    @property
    def state_name(self) -> str:
        """The state in words of the search."""
        return _STATE_NAMES.get(self.state, self.state)


@dataclass(frozen=True)
class Ranking:
    """A study's trials, best first.

    Attributes:
        place: the study.
        wanted: its budget of trials.
        ended: how many of them ended, in whatever way.
        trials: those with readable records, ranked.
    """

    place: StudyPlace
    wanted: int
    ended: int
    trials: Sequence[RankedTrial]


def read_ranking(place: StudyPlace) -> tuple[Ranking, list[str]]:
    """Read and rank a study's trials.

    Returns:
        The ranking, and a line for each damaged record.

    Raises:
        UserError: study.json is damaged.
    """
    study = require_study(place)
    records, problems = read_trials(place)
    for position, record in enumerate(records):
        if record.state == RUNNING:  # only its reports tell how far it is
            try:
                records[position] = TrainingFolder(record.folder).read()
            except UserError as error:
                problems.append(str(error))
    ended = sum(record.state != RUNNING for record in records)
    return Ranking(place, study["trials"], ended, rank_trials(records)), problems


def rank_trials(records: Sequence[TrainingRecord]) -> list[RankedTrial]:
    """Order trials: by state, then complete and stopped ones by score, the others by number."""

    def place_of(record: TrainingRecord) -> tuple[int, float, int]:
        by_score = record.state in (COMPLETE, PRUNED)
        score = _outcome_of(record)["score"] if by_score else None
        return (
            _STATES.index(record.state),
            float("inf") if score is None else -score,
            record.identity["number"],
        )

    ordered = sorted(records, key=place_of)
    return [_describe(record, rank) for rank, record in enumerate(ordered, start=1)]


def _describe(record: TrainingRecord, rank: int) -> RankedTrial:
    outcome = _outcome_of(record)
    # A failed trial has no score in the search either, whatever it reached before it failed.
    scored = record.state != FAILED and outcome["score"] is not None
    return RankedTrial(
        rank=rank if scored and record.state != RUNNING else None,
        number=record.identity["number"],
        state=record.state,
        score=outcome["score"] if scored else None,
        deviation=standard_deviation(outcome["fold_scores"]) if scored else None,
        epochs=outcome["epochs"],
        seconds=outcome["training_seconds"] + outcome["validation_seconds"],
        parameters=record.identity["parameters"],
        reason=outcome["reason"],
    )


def _outcome_of(record: TrainingRecord) -> Mapping[str, Any]:
    """Return result.json, or for a running trial the same keys from its reports."""
    if record.result is not None:
        return record.result
    nothing: Mapping[str, Any] = {"epoch": 0, "best_map_at_r": None, "folds": []}
    last = record.reports[-1] if record.reports else nothing
    folds = last["folds"]
    return {
        "score": last["best_map_at_r"],
        "fold_scores": [fold["best_map_at_r"] for fold in folds],
        "epochs": last["epoch"],
        "training_seconds": sum(fold["training_seconds"] for fold in folds),
        "validation_seconds": sum(fold["validation_seconds"] for fold in folds),
        "reason": "",
    }


def compare_trace(ranking: Ranking) -> str:
    """Compare the progress of a search with the published one, in a line without style."""
    place = ranking.place
    published = read_trace(place.dataset, place.protocol, place.row)
    if published is None:
        return "no published search of this row to compare with"
    complete = [trial for trial in ranking.trials if trial.state == COMPLETE]
    scores = [trial.score for trial in sorted(complete, key=lambda trial: trial.number)]
    known = [score for score in scores if score is not None]
    ours = [max(known[:count]) if count <= len(known) else None for count in _TRACE_COUNTS]
    theirs = [published[count - 1] if count <= len(published) else None for count in _TRACE_COUNTS]
    return (
        f"best MAP@R % so far after {' / '.join(map(str, _TRACE_COUNTS))} complete trials: "
        f"ours {' / '.join(map(_format_percent, ours))}, "
        f"published {' / '.join(map(_format_percent, theirs))}"
    )


def format_rankings(
    rankings: Sequence[Ranking], style: str, top: int | None, against: str | None = None
) -> str:
    """Lay rankings out.

    Args:
        rankings: one a study.
        style: one of `wpm.tables.FORMATS`; CSV makes one table of all studies.
        top: at most so many trials a study; None: all.
        against: `PUBLISHED` adds a line a study about the published search, but not in CSV.

    Returns:
        Text without a final newline.
    """
    if style == "csv":
        return _format_csv(rankings, top)
    blocks = []
    for ranking in rankings:
        block = _format_block(ranking, style, top)
        if against == PUBLISHED:
            line = compare_trace(ranking)
            block += f"\n\n- {line}" if style == "markdown" else f"\nnote: {line}"
        blocks.append(block)
    return "\n\n".join(blocks)


def _format_block(ranking: Ranking, style: str, top: int | None) -> str:
    trials = ranking.trials[:top]
    heading = f"{ranking.place.name}: {ranking.ended} of {ranking.wanted} trials ended"
    if len(trials) < len(ranking.trials):
        heading += f", the first {len(trials)} of {len(ranking.trials)} shown"
    if style == "markdown":
        heading = f"### {heading}\n"
    if not trials:
        return f"{heading}\nno trials yet"
    names = _parameter_names(trials)
    failures = any(trial.state == FAILED for trial in trials)
    columns = ["rank", "trial", "state", "MAP@R %", "± sd", "epochs", "time", *names]
    rows = [
        [
            "-" if trial.rank is None else trial.rank,
            trial.number,
            trial.state_name,
            _format_percent(trial.score),
            _format_percent(trial.deviation),
            trial.epochs,
            format_duration(trial.seconds),
            *(_format_parameter(trial.parameters.get(name)) for name in names),
            *([_format_reason(trial)] if failures else []),
        ]
        for trial in trials
    ]
    table = format_table([*columns, *(["reason"] if failures else [])], rows, style)
    return f"{heading}\n{table}"


def _format_csv(rankings: Sequence[Ranking], top: int | None) -> str:
    shown = [(ranking.place, trial) for ranking in rankings for trial in ranking.trials[:top]]
    names = _parameter_names([trial for _, trial in shown])
    rows = []
    for place, trial in shown:
        cells = [
            place.dataset, place.protocol, place.row, trial.rank, trial.number, trial.state_name,
            trial.score, trial.deviation, trial.epochs, trial.seconds,
            *(trial.parameters.get(name) for name in names), trial.reason,
        ]  # fmt: skip
        rows.append(["" if cell is None else cell for cell in cells])
    return format_table([*_CSV_COLUMNS, *names, "reason"], rows, "csv")


def _parameter_names(trials: Sequence[RankedTrial]) -> list[str]:
    return sorted({name for trial in trials for name in trial.parameters})


def _format_percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.2f}"


def _format_parameter(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _format_reason(trial: RankedTrial) -> str:
    """Return why a trial failed, in one cell of one line; CSV has the whole of it."""
    if trial.state != FAILED:
        return ""
    return textwrap.shorten(trial.reason, _REASON_WIDTH, placeholder=" ...")


def _print_rankings(args: argparse.Namespace) -> None:
    rankings = read_studies(select_studies(args), read_ranking)
    print(format_rankings(rankings, args.format, args.top, args.against))
    if args.format == "csv" and args.against:  # no room for lines in the table
        report_problems([f"{ranking.place.name}: {compare_trace(ranking)}" for ranking in rankings])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the script; return the exit code."""
    parser = build_parser("analysis.rank_trials", DESCRIPTION, EXAMPLES)
    parser.add_argument("--top", type=parse_count, metavar="N", help="only the first N a study")
    add_against(parser, "below each ranking, the progress of the published search beside ours")
    return run_main(parser, _print_rankings, arguments)


if __name__ == "__main__":
    sys.exit(main())
