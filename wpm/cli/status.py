"""Show the progress of all studies, read from their records."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wpm.cli.checks import check_address
from wpm.cli.options import LaunchOptions
from wpm.errors import UserError
from wpm.formatting import format_duration, format_table
from wpm.procedure import PROCEDURE, describe_procedure
from wpm.records import (
    StudyPlace,
    TrainingRecord,
    TrialState,
    find_studies,
    is_running,
    read_finals,
    read_study,
    read_trials,
    saving_share,
    worker_seconds,
)
from wpm.records.training_log import last_lines

_COLUMNS = ("study", "ended", "complete", "stopped", "diverged", "failed", "running", "waiting",
            "trials x folds", "best", "final runs", "time", "validating", "saving",
            "now")  # fmt: skip
_SHOWN_FAILURES = 3  # per study

_CLEAR = "\x1b[H\x1b[2J"  # moves the cursor to the corner and clears the terminal
_SHARE = 0.1  # reading the records takes at most this share of the time


def show_status(options: LaunchOptions) -> None:
    """Print the progress of all studies in the run folder, here or as a cluster's node sees it.

    Raises:
        UserError: there are no studies, or no cluster answers.
    """
    if options.address == "local":
        watch_status(lambda: describe_status(options.run_root), print, options.watch)
        return
    from wpm.cluster.connection import Resources, connect  # imports Ray
    from wpm.cluster.remote import call_on_a_node, run_on_head

    run_root = options.run_root.resolve()
    if options.address.startswith(("http://", "https://")):
        if options.watch is not None:
            raise UserError("--watch needs an --address of Ray itself, HOST:PORT, or none")
        command = ["python", "launch.py", "--status", "--run-root", str(run_root)]
        print(run_on_head(options.address, command))
        return
    check_address(options.address)
    with connect(Resources(options.address, 1, 0), print):
        watch_status(lambda: call_on_a_node(describe_status, run_root), print, options.watch)


def watch_status(
    look: Callable[[], tuple[str, bool]], show: Callable[[str], None], every_s: float | None
) -> None:
    """Show the status, once or until no launch works on any study.

    Args:
        look: returns what `describe_status` does, of a run folder here or on a cluster.
        show: prints a text.
        every_s: seconds from one look to the next; None to look once.

    Raises:
        UserError: there are no studies.
    """
    while True:
        start = time.monotonic()
        text, running = look()
        took = time.monotonic() - start
        if every_s is not None and sys.stdout.isatty():
            text = f"{_CLEAR}{text}\n{time.strftime('%H:%M:%S')}, Ctrl-C ends the watching only"
        show(text)
        if every_s is None or not running:
            return
        time.sleep(max(every_s, took / _SHARE))


def describe_status(run_root: Path) -> tuple[str, bool]:
    """Return the status as text, and whether a launch works on any study.

    Raises:
        UserError: there are no studies.
    """
    return format_status(run_root), any(map(is_running, find_studies(run_root)))


def format_status(run_root: Path) -> str:
    """Return a table of all studies under a run folder, their last failures, and what is damaged.

    Raises:
        UserError: there are no studies.
    """
    places = find_studies(run_root)
    if not places:
        raise UserError(f"no studies under {run_root}; start one with python launch.py")
    rows, failures, problems = [], [], []
    for place in places:
        try:
            row, failed, damaged = _describe(place)
            rows.append(row)
            failures += failed
            problems += damaged
        except UserError as error:
            problems.append(str(error))
    return "\n".join([format_table(_COLUMNS, rows, "text"), *failures, *problems])


def _describe(place: StudyPlace) -> tuple[list[Any], list[str], list[str]]:
    """Return a study's line of the table, notes on it, and its damaged records."""
    study = read_study(place)
    assert study is not None  # found by its study.json
    records, problems = read_trials(place, with_reports=True)
    states = Counter(record.state for record in records)
    complete = [r.outcome.score for r in records if r.state is TrialState.COMPLETE]
    scores = [score for score in complete if score is not None]
    finals, more_problems = read_finals(place)
    tested = sum(len(final.tested) for final in finals)
    alive = is_running(place)
    ended = sum(record.state.has_ended for record in records)
    now = "running" if alive else "finished" if ended >= study["trials"] else "interrupted"
    row = [
        place.name,
        f"{ended}/{study['trials']}",
        states[TrialState.COMPLETE],
        states[TrialState.PRUNED],
        states[TrialState.DIVERGED],
        states[TrialState.FAILED],
        states[TrialState.RUNNING],
        states[TrialState.WAITING],
        _folds_trained(study, records),
        f"{max(scores):.4f}" if scores else "-",
        tested,
        format_duration(sum(worker_seconds(record.reports) for record in records)),
        _validating(records),
        _saving(records),
        now,
    ]
    notes = [
        *_describe_age(study, place),
        *_last_failures(place, records),
    ]
    return row, notes, problems + more_problems


def _describe_age(study: Mapping[str, Any], place: StudyPlace) -> list[str]:
    """Say that a study cannot be continued, since it is of another training procedure."""
    number = study["identity"]["procedure"]
    if number == PROCEDURE or not place.row.is_trained:
        return []
    return [f"{place.name} can be read and not continued: {describe_procedure(number)}"]


def _folds_trained(study: Mapping[str, Any], records: Sequence[TrainingRecord]) -> str:
    """Say how many trials have trained how many folds, where not all folds train in lockstep."""
    if not study["identity"]["protocol"]["first_folds"]:
        return "-"
    trained = Counter(len(record.outcome.fold_scores) for record in records)
    return ", ".join(f"{trained[folds]} x {folds}" for folds in sorted(trained) if folds) or "-"


def _last_failures(place: StudyPlace, records: Sequence[TrainingRecord]) -> list[str]:
    """Return for the last trials that failed or diverged: the reason, and the end of the log."""
    failed = [r for r in records if r.state in (TrialState.FAILED, TrialState.DIVERGED)]
    lines = []
    for record in sorted(failed, key=lambda r: r.outcome.ended or "")[-_SHOWN_FAILURES:]:
        log = record.folder / "error.log"
        state = record.state.for_people
        lines.append(f"{place.name} trial {record.number} {state}: {record.outcome.reason}")
        if log.exists():
            lines.append(f"    {log}")
        lines += [f"    | {line}" for line in last_lines(record.folder)]
    return lines


def _validating(records: Sequence[TrainingRecord]) -> str:
    """Return the share of the trials' time that went into validation, in percent."""
    folds = [fold for record in records if record.reports for fold in record.reports[-1].folds]
    validation = sum(fold.validation_seconds for fold in folds)
    total = sum(fold.worker_seconds for fold in folds)
    return f"{validation / total:.0%}" if total else "-"


def _saving(records: Sequence[TrainingRecord]) -> str:
    """Return the share of the trials' time that saving took, in percent."""
    share = saving_share(record.reports for record in records)
    return "-" if share is None else f"{share:.1%}"
