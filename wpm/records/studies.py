"""Read and write the records of studies and of their trials."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.files import is_locked, read_json, write_json
from wpm.procedure import FIRST
from wpm.protocols import HALVING, NO_STOPPING, Protocol
from wpm.records.first_points import UNRECORDED
from wpm.records.layout import FORMAT, StudyPlace, check_format, sorted_folders
from wpm.records.trainings import TrainingFolder, TrainingRecord
from wpm.reports import Report

_IDENTITY_DEFAULTS = {
    "sampler": "tpe", "trial_seeds": "common", "procedure": FIRST, "warm_start": UNRECORDED,
}  # fmt: skip
_PROTOCOL_DEFAULTS = {f.name: f.default for f in fields(Protocol) if f.default is not MISSING}


def read_study(place: StudyPlace) -> dict[str, Any] | None:
    """Return study.json, or None where there is no such study.

    Raises:
        UserError: damaged, or of another record format.
    """
    path = place.folder / "study.json"
    if not path.exists():
        return None
    content: dict[str, Any] = read_json(path)
    check_format(content, path)
    # A study of an earlier version was run with the defaults of the settings added since.
    identity = {**_IDENTITY_DEFAULTS, **content["identity"]}
    was_halving = HALVING if identity.get("early_stopping", True) else NO_STOPPING
    identity.setdefault("stopping", was_halving)
    identity["protocol"] = {**_PROTOCOL_DEFAULTS, **identity.get("protocol", {})}
    content["identity"] = identity
    return content


def write_study(place: StudyPlace, content: Mapping[str, Any]) -> None:
    """Write study.json."""
    write_json(place.folder / "study.json", {"format": FORMAT, **content})


def remove_empty_study(place: StudyPlace) -> None:
    """Remove the files of a study without records, if possible; the caller holds its lock."""
    with suppress(OSError):
        if not trial_numbers(place):
            # Points that wait in it belong to a plan that may have changed.
            place.journal.unlink(missing_ok=True)
            if not any(place.folder.glob("finals/*")):
                (place.folder / "study.json").unlink()  # last: a journal alone is refused


def find_studies(
    run_root: Path,
    dataset: str | None = None,
    protocol: str | None = None,
    row: str | None = None,
    search: int | None = None,
) -> list[StudyPlace]:
    """Return the studies on disk, sorted; those with a given data set, protocol, row or search.

    A row that was searched several times has several studies.
    """
    asked = (dataset, protocol, row, search)
    places = []
    # Not in hidden folders: a launch may be removing one at this moment.
    for path in run_root.glob("[!.]*/*/*/study.json"):
        # A folder that somebody copied by hand, "triplet (copy)", is not a study.
        with suppress(UserError):
            place = StudyPlace.from_label(run_root, *path.relative_to(run_root).parts[:3])
            if all(a in (None, part) for a, part in zip(asked, place.order, strict=True)):
                places.append(place)
    return sorted(places, key=lambda place: place.order)


def trial_numbers(place: StudyPlace) -> list[int]:
    """Return the numbers of the trials that have a record, in order."""
    names = [p.parent.name for p in place.folder.glob("trials/*/trial.json")]
    return sorted(int(name) for name in names if name.isdigit())


def read_trials(
    place: StudyPlace, *, with_reports: bool = False
) -> tuple[list[TrainingRecord], list[str]]:
    """Read the trials of a study.

    Returns:
        The readable ones by number, and a line for each that is damaged.
    """
    records, problems = [], []
    for folder in sorted_folders(place.folder / "trials"):
        if not (folder / "trial.json").exists():
            continue  # killed between making the folder and writing into it
        try:
            records.append(TrainingFolder(folder).read(with_reports=with_reports))
        except UserError as error:
            problems.append(str(error))
    return records, problems


def read_all_reports(place: StudyPlace) -> dict[str, tuple[Report, ...]]:
    """Return the reports of all trainings of a study, search and final runs, by folder.

    Raises:
        UserError: a record is damaged.
    """
    folders = [*place.folder.glob("trials/*"), *place.folder.glob("finals/*/*/fold-*")]
    return {
        str(folder): TrainingFolder(folder).read_reports()
        for folder in folders
        if (folder / "reports.json").exists()
    }


def is_running(place: StudyPlace) -> bool:
    """Whether a launch works on the study now."""
    return is_locked(place.lock)
