"""Read and write the final runs of a study's best configurations."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from wpm.errors import UserError
from wpm.files import append_line, read_json, write_json
from wpm.records.layout import (
    FORMAT,
    StudyPlace,
    check_format,
    configuration_key,
    refuse_unexpected,
    sorted_folders,
)
from wpm.records.outcomes import FailedRun, Outcome, ScoredRun, read_run
from wpm.records.provenance import provenance, timestamp
from wpm.records.trainings import TrainingFolder


@dataclass(frozen=True)
class Chosen:
    """Where a configuration with final runs comes from.

    Attributes:
        trial: number of the trial; None if no search chose it.
        score: validation MAP@R of that trial.
        source: the publication of a published configuration; None otherwise. The row without
            training has no trial and no source.
    """

    trial: int | None = None
    score: float | None = None
    source: str | None = None

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read "chosen" of final.json."""
        return cls(content["trial"], content["score"], content.get("published"))

    def to_json(self) -> dict[str, Any]:
        """Return "chosen" of final.json."""
        published = {} if self.source is None else {"published": self.source}
        return {"trial": self.trial, "score": self.score, **published}

    def __str__(self) -> str:
        if self.trial is not None:
            return f"trial {self.trial}, validation MAP@R {self.score:.4f}"
        if self.source is not None:
            return f"as published ({self.source})"
        return "the trunk as it comes, without training"


@dataclass(frozen=True)
class FinalRecord:
    """One configuration's final runs.

    Attributes:
        folder: where it was read.
        chosen: where the configuration comes from.
        runs: how every seed that was begun ended; None for one that has not ended.
        folds: for each of these seeds, how those of its folds ended that have ended.
        parameters: of the configuration, by name.
        provenance: code, libraries and machine that wrote final.json.
    """

    folder: Path
    chosen: Chosen
    runs: Sequence[ScoredRun | FailedRun | None]
    folds: Sequence[Sequence[Outcome]]
    parameters: Mapping[str, float] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> list[ScoredRun]:
        """The runs that were tested."""
        return [run for run in self.runs if isinstance(run, ScoredRun)]

    @property
    def failed(self) -> list[FailedRun]:
        """The runs that failed."""
        return [run for run in self.runs if isinstance(run, FailedRun)]


def finals_folder(place: StudyPlace, parameters: Mapping[str, float]) -> Path:
    """Return the folder of a configuration's final runs."""
    return place.folder / "finals" / configuration_key(parameters)


def write_final(place: StudyPlace, parameters: Mapping[str, float], chosen: Chosen) -> None:
    """Write which configuration is trained again; a record that is there is only checked.

    Raises:
        UserError: the record that is there is damaged, or of another format.
    """
    path = finals_folder(place, parameters) / "final.json"
    if path.exists():
        check_format(read_json(path), path)
        return
    content = {
        "format": FORMAT,
        "parameters": dict(parameters),
        "chosen": chosen.to_json(),
        "row": str(place.row),
        "provenance": provenance(),
    }
    write_json(path, content)


def read_finals(place: StudyPlace) -> tuple[list[FinalRecord], list[str]]:
    """Read the final runs of all configurations of a study.

    Returns:
        The readable ones, and a line for each damaged record.
    """
    finals, problems = [], []
    for folder in sorted_folders(place.folder / "finals"):
        if not (folder / "final.json").exists():
            continue  # killed between making the folder and writing into it
        try:
            final, more_problems = _read_final(folder)
        except UserError as error:
            problems.append(str(error))
            continue
        finals.append(final)
        problems += more_problems
    return finals, problems


def _read_final(folder: Path) -> tuple[FinalRecord, list[str]]:
    """Read one configuration's final runs.

    Returns:
        The record without damaged runs and folds, and a line for each of those.

    Raises:
        UserError: final.json itself is damaged, or another version wrote it.
    """
    path = folder / "final.json"
    content = read_json(path)
    check_format(content, path)
    with refuse_unexpected(path):
        chosen = Chosen.from_json(content["chosen"])
    runs, folds, problems = [], [], []
    for seed in sorted_folders(folder):
        try:
            runs.append(read_run_result(seed))
        except UserError as error:
            problems.append(str(error))
            continue
        ended, more_problems = _read_folds(seed)
        folds.append(ended)
        problems += more_problems
    parameters, origin = content.get("parameters", {}), content.get("provenance", {})
    return FinalRecord(folder, chosen, runs, folds, parameters, origin), problems


def _read_folds(seed: Path) -> tuple[list[Outcome], list[str]]:
    """Return how the folds of a run ended that have ended, and a line for each damaged record."""
    results, problems = [], []
    for fold in sorted_folders(seed):
        try:
            result = TrainingFolder(fold).read_result()
        except UserError as error:
            problems.append(str(error))
            continue
        if result is not None:
            results.append(result)
    return results, problems


def read_run_result(folder: Path) -> ScoredRun | FailedRun | None:
    """Return how a final run ended, None if it has not ended.

    Args:
        folder: of the run: `seed-...` below a configuration's.

    Raises:
        UserError: result.json is damaged, or another version wrote it.
    """
    path = folder / "result.json"
    if not path.exists():
        return None
    content = read_json(path)
    with refuse_unexpected(path):
        return read_run(content)


def write_run_result(folder: Path, result: ScoredRun | FailedRun) -> None:
    """Write how a final run ended."""
    write_json(folder / "result.json", result.to_json())


def note_test_access(place: StudyPlace, reason: str) -> None:
    """Append a line to the study's records: test images are about to be opened."""
    line = json.dumps({"time": timestamp(), "process": os.getpid(), "reason": reason})
    append_line(place.folder / "test_access.jsonl", line)
