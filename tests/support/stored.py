"""Small stored studies, written as the search and the final runs write them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from wpm.files import write_json
from wpm.procedure import PROCEDURE
from wpm.records import (
    FORMAT,
    FailedRun,
    Outcome,
    ScoredRun,
    StudyPlace,
    TrainingFolder,
    TrialState,
    write_run_result,
    write_study,
)
from wpm.rows import Row

# Short names, so that the states of several trials can be read in a row.
COMPLETE, FAILED = TrialState.COMPLETE, TrialState.FAILED
PRUNED, RUNNING = TrialState.PRUNED, TrialState.RUNNING
# 48-d concatenated: not the published numbers
PROTOCOL = {"embedding_dim": 16, "folds": 3, "trunk": "convnet", "precision": "float32"}


def write_search(
    root: Path,
    row: str,
    states: Sequence[TrialState] = (
        COMPLETE,
        COMPLETE,
        COMPLETE,
        PRUNED,
    ),
    budget: int = 4,
    dataset: str = "omniglot",
    protocol: str = "small",
    settings: Mapping[str, Any] = PROTOCOL,
    scores: Sequence[float] | None = None,
    hours: float = 1.0,
    search: int = 1,
    **identity: Any,
) -> StudyPlace:
    """Write a study with one trial for each state; `budget` is how many it was to have.

    The score of a trial is 0.1 * number unless `scores` says otherwise; it took `hours`.
    """
    place = StudyPlace(root, dataset, protocol, Row.parse(row), search)
    standard = {
        "protocol": settings, "images": {"pixels": "abc"}, "early_stopping": True,
        "procedure": PROCEDURE,
    }  # fmt: skip
    content = {"identity": {**standard, **identity}, "trials": budget, "provenance": {}}
    write_study(place, content)
    for number, state in enumerate(states):
        folder = TrainingFolder(place.trial_folder(number))
        folder.write_identity({"number": number, "parameters": {"margin": 0.5}})
        if state != RUNNING:
            score = number / 10 if scores is None else scores[number]
            folder.write_result(training_result(score, hours, state))
    return place


def training_result(score: float, hours: float = 1.0, state: TrialState = COMPLETE) -> Outcome:
    """Return how a training of ten epochs ended; a tenth of its time is validation."""
    return Outcome(
        state=state,
        reason="",
        score=score,
        epochs=10,
        fold_scores=(score,),
        training_seconds=3240 * hours,
        validation_seconds=360 * hours,
    )


def write_final(place: StudyPlace, key: str, trial: int | None, score: float | None) -> Path:
    """Write which configuration was chosen for final runs; return its folder."""
    folder = place.folder / "finals" / key
    chosen: dict[str, Any] = {"trial": trial, "score": score}
    if trial is None:
        chosen["published"] = "a paper"
    write_json(folder / "final.json", {"format": FORMAT, "chosen": chosen})
    return folder


def write_run(
    folder: Path,
    seed: int,
    concatenated: float | None,
    separated: float = 0.0,
    validation: Sequence[float] = (),
) -> None:
    """Write a final run that was tested, or a failed one where `concatenated` is None.

    The scores given are P@1; RP is 0.1 and MAP@R 0.2 below. Each score in `validation` is that of
    a fold, which took half an hour.
    """

    def scores(p: float) -> Mapping[str, float]:
        return {"precision_at_1": p, "r_precision": p - 0.1, "map_at_r": p - 0.2}

    for fold, score in enumerate(validation):
        training = TrainingFolder(folder / f"seed-{seed}" / f"fold-{fold}")
        training.write_identity({"number": fold, "parameters": {"margin": 0.5}})
        training.write_result(training_result(score, hours=0.5))
    result: ScoredRun | FailedRun = FailedRun(seed, "fold 1: diverged")
    if concatenated is not None:
        result = ScoredRun(seed, scores(separated), scores(concatenated), 1, 100, 10)
    write_run_result(folder / f"seed-{seed}", result)


def bytes_under(root: Path) -> dict[str, bytes]:
    """Return the content of every file under a folder, to check that nothing changes."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}
