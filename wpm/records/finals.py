"""Read the final runs of a study's best configurations."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.files import append_line, read_json
from wpm.records.layout import StudyPlace, check_format, sorted_folders
from wpm.records.provenance import timestamp
from wpm.records.states import TrialState
from wpm.records.trainings import TrainingFolder


@dataclass(frozen=True)
class FinalRecord:
    """One configuration's final runs.

    Attributes:
        folder: where it was read.
        content: final.json: parameters, where they come from, provenance.
        results: result.json of every seed that was begun, None for one that has not ended.
        folds: for each of these seeds, result.json of the folds that have ended.
    """

    folder: Path
    content: Mapping[str, Any]
    results: list[dict[str, Any] | None]
    folds: list[list[dict[str, Any]]]

    def with_state(self, state: TrialState) -> list[dict[str, Any]]:
        """Return the results of the seeds that ended in a state."""
        return [r for r in self.results if r is not None and r["state"] == state]


def best_tested(finals: Sequence[FinalRecord]) -> FinalRecord | None:
    """Return the tested configuration that was best in validation; None without a tested one.

    Of equal scores the earlier trial; what was not chosen by a search comes last.
    """

    def order(final: FinalRecord) -> tuple[float, str]:
        chosen = final.content["chosen"]
        score = float("-inf") if chosen["score"] is None else chosen["score"]
        return -score, str(chosen["trial"]).zfill(9)

    return min((f for f in finals if f.with_state(TrialState.COMPLETE)), key=order, default=None)


def read_finals(place: StudyPlace) -> tuple[list[FinalRecord], list[str]]:
    """Read the final runs of all configurations of a study.

    Returns:
        The readable ones, and a line for each damaged record.
    """
    finals, problems = [], []
    for folder in sorted_folders(place.folder / "finals"):
        path = folder / "final.json"
        if not path.exists():
            continue  # killed between making the folder and writing into it
        try:
            content = read_json(path)
            check_format(content, path)
        except UserError as error:
            problems.append(str(error))
            continue
        results, folds = [], []
        for seed in sorted_folders(folder):
            try:
                results.append(TrainingFolder(seed).read_result())
            except UserError as error:
                problems.append(str(error))
                continue
            ended, more_problems = _read_results(seed)
            folds.append(ended)
            problems += more_problems
        finals.append(FinalRecord(folder, content, results, folds))
    return finals, problems


def _read_results(seed: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """Return result.json of the folds of a run that have ended, and a line for each damaged one."""
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


def note_test_access(place: StudyPlace, reason: str) -> None:
    """Leave a line that test images are about to be opened."""
    line = json.dumps({"time": timestamp(), "process": os.getpid(), "reason": reason})
    append_line(place.folder / "test_access.jsonl", line)
