"""Say what is unequal or unfinished about rows that are compared."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from analysis.studies.published import PROTOCOL
from analysis.studies.row_record import RowRecord
from wpm.procedure import PROCEDURE, describe_procedure
from wpm.protocol_files import find_protocol
from wpm.protocols import NO_STOPPING
from wpm.records import TrialState, chosen_order

_SETTINGS = {
    "procedure": "training procedures",
    "protocol": "protocol settings",
    "split": "splits",
    "images": "images",
    "weights": "weights",
    "trial_seeds": "training seeds of trials",
}
# Budgets and stopping of a protocol are only defaults; a study records what it does.
_NOT_SETTINGS = ("name", "trials", "runs", "stopping")
_MOST_NAMED = 3  # a line lists at most this many different values


def describe_settings(row: RowRecord, other: RowRecord) -> list[str]:
    """Name the settings of a row's search that differ from those of another row."""
    return [
        f"{row.name}: {what} differ from those of {other.name} "
        f"({_list_differences(row.identity.get(key), other.identity.get(key))}), not comparable"
        for key, what in _SETTINGS.items()
        if row.identity.get(key) != other.identity.get(key)
        and (key != "procedure" or (row.place.row.is_trained and other.place.row.is_trained))
    ]


def _list_differences(own: Any, other: Any) -> str:
    if not isinstance(own, Mapping) or not isinstance(other, Mapping):
        return f"{own}, there {other}"
    differences = [
        f"{key} {own.get(key)}, there {other.get(key)}"
        for key in sorted({*own, *other})
        if own.get(key) != other.get(key)
    ]
    more = ["..."] if len(differences) > _MOST_NAMED else []
    return "; ".join([*differences[:_MOST_NAMED], *more])


def describe_age(rows: Sequence[RowRecord]) -> list[str]:
    """Name the rows that were trained under another procedure than this version's."""
    found: dict[int, list[str]] = {}
    for row in rows:
        if row.place.row.is_trained and row.procedure != PROCEDURE:
            found.setdefault(row.procedure, []).append(row.name)
    return [
        f"trained under {describe_procedure(number)}, not comparable with studies of this version: "
        f"{', '.join(names)}"
        for number, names in found.items()
    ]


def describe_departures(rows: Sequence[RowRecord], dataset: str) -> list[str]:
    """Say where rows depart from the published procedure, one line for each kind of departure.

    Args:
        rows: rows of one data set under the protocol of the published table.
        dataset: name of the data set.
    """
    found: dict[str, list[str]] = {}
    for row in rows:
        # A published configuration comes from the published search, so our search does not count.
        # The untrained trunk is neither searched nor repeated.
        untrained = not row.place.row.is_trained
        searched = not untrained and (row.finals is None or isinstance(row.finals.trial, int))
        budgets = {"trials": len(row.ended)} if searched else {}
        if row.finals and not untrained:
            budgets["runs"] = len(row.finals.tested)
        departures = list_departures(dataset, row.identity, budgets, searched=searched)
        if searched and row.known:
            departures.append(f"{row.known} known configurations tried first (published: none)")
        if departures:
            found.setdefault("; ".join(departures), []).append(row.name)
    return [
        f"not the published procedure: {departures}: {', '.join(names)}"
        for departures, names in found.items()
    ]


def list_departures(
    dataset: str, identity: Mapping[str, Any], budgets: Mapping[str, int], *, searched: bool = True
) -> list[str]:
    """List the differences between a study and the published procedure.

    Args:
        dataset: name of the data set.
        identity: identity of the study: protocol, weights and more.
        budgets: number of "trials" that ended and of "runs" that were tested; a number without an
            entry is not compared.
        searched: whether to compare how the search stops trials.
    """
    published = json.loads(json.dumps(asdict(find_protocol(PROTOCOL, dataset))))
    settings = {k: v for k, v in identity.get("protocol", {}).items() if k not in _NOT_SETTINGS}
    departures = [
        f"{key} {value} (published {published.get(key)})"
        for key, value in {**settings, **budgets}.items()
        if value != published.get(key)
    ]
    if searched and identity.get("stopping", NO_STOPPING) != NO_STOPPING:
        departures.append("trials stopped early (published: none)")
    split = identity.get("split")
    if split is not None:
        departures.append(f"split {split['file']} (published: halves of the classes)")
    if identity.get("weights") == "random":
        departures.append("random weights (published: ImageNet)")
    return departures


def describe_budgets(first: RowRecord, second: RowRecord) -> list[str]:
    """Say how the budgets of two searches differ: in trials, early stopping and known points."""
    lines = []
    if _count_trials(first) != _count_trials(second):
        lines.append(
            f"unequal search budgets: {first.name} {first.ended_of_budget} trials, "
            f"{second.name} {second.ended_of_budget} trials"
        )
    if first.stopping != second.stopping:
        lines.append(
            f"unequal search budgets: {first.name} with --stopping {first.stopping}, "
            f"{second.name} with --stopping {second.stopping}"
        )
    # Of different losses different numbers of points were published.
    twins = first.place.row.loss == second.place.row.loss
    known = (first.known, second.known)
    unequal = None not in known and first.known != second.known
    if twins and unequal and first.twin_cost == second.twin_cost:
        lines.append(
            f"unequal search budgets: {first.name} began with {first.known} known configurations, "
            f"{second.name} with {second.known}"
        )
    return lines


def _count_trials(row: RowRecord) -> tuple[int, int, int]:
    return len(row.ended), row.budget, row.twin_cost.trials if row.twin_cost else 0


def find_footnotes(rows: Sequence[RowRecord]) -> dict[str, list[str]]:
    """Return for each row the notes that a reader of its test scores must know.

    Args:
        rows: rows of one data set under one protocol; the notes name settings that differ from
            those of the first row.
    """
    most = max((len(row.finals.tested) for row in rows if row.finals), default=0)
    return {
        row.name: [
            *describe_split(row),
            *describe_runs(row, most),
            *describe_search(row),
            *(line for pair in _find_twins(row, rows) for line in describe_budgets(*pair)),
            *describe_settings(row, rows[0]),
        ]
        for row in rows
    }


def _find_twins(row: RowRecord, rows: Sequence[RowRecord]) -> Iterator[tuple[RowRecord, RowRecord]]:
    """Yield every pair of twins that contains a row, with the plain row first."""
    for other in rows:
        if other.place.search != row.place.search:
            continue
        if other.place.row.twin == row.place.row:
            yield row, other
        elif row.place.row.twin == other.place.row:
            yield other, row


def describe_split(row: RowRecord) -> list[str]:
    """Say where the test of a row is easier than one on other classes and other pictures."""
    lines = []
    split = row.identity.get("split")
    if split is not None and split["shared_classes"]:
        lines.append(
            f"{row.name}: tested on other images of classes that were trained on "
            f"({split['shared_classes']} classes, split {split['file']})"
        )
    if row.finals and row.finals.duplicates:
        images = _count(row.finals.duplicates, "image")
        lines.append(f"{row.name}: tested with {images} to train or validate on too")
    return lines


def describe_runs(row: RowRecord, most: int) -> list[str]:
    """Say what is missing among the final runs of a row.

    Args:
        most: the largest number of tested runs among the rows of the table.
    """
    finals = row.finals
    if finals is None:
        return []
    lines = []
    if finals.failed:
        lines.append(f"{row.name}: {_count(finals.failed, 'final run')} failed, left out")
    if finals.pending:
        lines.append(f"{row.name}: {_count(finals.pending, 'final run')} not ended yet")
    if finals.left_out:
        images = _count(finals.left_out, "image")
        lines.append(f"{row.name}: tested without {images} that could not be read")
    # The row without training has only one run.
    if len(finals.tested) < most and finals.trial != "none":
        lines.append(
            f"{row.name}: {_count(len(finals.tested), 'tested run')}, other rows have up to {most}"
        )
    trials = {configuration.trial for configuration in row.configurations}
    if row.best is not None and row.best[1] > finals.score and row.best[0] not in trials:
        lines.append(
            f"{row.name}: shown is {_name_configuration(finals.trial)}, but trial {row.best[0]} is "
            "better in validation and has no final runs (python launch.py --best-only makes them)"
        )
    return lines


def describe_choice(row: RowRecord) -> list[str]:
    """Say which configuration is shown, if several configurations of a row have final runs.

    Also name configurations that are better in validation but not shown, because none of their runs
    was tested.
    """
    shown = row.finals
    if shown is None or len(row.configurations) == 1:
        return []
    better = [other for other in row.configurations if chosen_order(other) < chosen_order(shown)]
    rule = "in validation of those that were tested" if better else "of them in validation"
    line = (
        f"{row.name}: {len(row.configurations)} configurations have final runs; shown is "
        f"{_name_configuration(shown.trial)}, the best {rule}"
    )
    for other in better:
        ended = "have not ended" if other.pending else "failed"
        name = _name_configuration(other.trial)
        line += f"; {name} is better in validation, but its final runs {ended}"
    return [line]


def describe_search(row: RowRecord) -> list[str]:
    """Say how a search began, whether it is unfinished, and how many of its trials diverged."""
    lines = []
    if row.twin_cost is not None:
        trials = _count(row.twin_cost.trials, "trial")
        lines.append(
            f"{row.name}: began with the best trials of its plain twin, whose search ({trials}, "
            f"{row.twin_cost.epochs} epochs, {row.twin_cost.hours:.2g} device-hours) counts as its "
            "cost too"
        )
    if len(row.ended) < row.budget:
        lines.append(f"{row.name}: unfinished search, {row.ended_of_budget} trials ended")
    diverged = sum(trial.state is TrialState.DIVERGED for trial in row.trials)
    if diverged:
        lines.append(f"{row.name}: {diverged} of {len(row.ended)} trials diverged, which score 0")
    return lines


def _name_configuration(trial: int | str) -> str:
    """Name a configuration by its trial, or by what else it comes from."""
    return f"trial {trial}" if isinstance(trial, int) else f"the {trial} configuration"


def _count(number: int, what: str) -> str:
    return f"1 {what}" if number == 1 else f"{number} {what}s"
