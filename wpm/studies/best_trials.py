"""Choose the best complete trials of a study for its final runs."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.loss_description import LossDescription
from wpm.protocols import Protocol, protocol_from_json
from wpm.records import (
    StudyPlace,
    TrainingRecord,
    TrialState,
    configuration_key,
    read_study,
    read_trials,
    validation_order,
)
from wpm.studies.plan import (
    PUT_SPLIT_BACK,
    RENAME_PROTOCOL,
    check_same_decoding,
    describe_loss,
    first_difference,
    recorded_loss,
    refuse_procedure,
)


def choose_best_trials(
    place: StudyPlace, count: int | None = 1, *, allow_unfinished: bool
) -> list[TrainingRecord]:
    """Return a study's best complete trials, the best first, no configuration twice.

    Args:
        place: the study.
        count: how many; fewer are returned where fewer are complete. None: all.
        allow_unfinished: take the best so far of a study whose budget is not used up.

    Raises:
        UserError: no such study, it is unfinished or of another procedure, a record is damaged,
            or no trial is complete.
    """
    study = read_study(place)
    if study is None:
        raise UserError(f"no study {place.name} under {place.run_root}; run the search first")
    refuse_procedure(place, study)
    records, problems = read_trials(place)
    if problems:
        raise UserError(problems[0])
    ended = sum(record.state.has_ended for record in records)
    if ended < study["trials"] and not allow_unfinished:
        raise UserError(
            f"study {place.name} is unfinished: {ended} of {study['trials']} trials ended; "
            "finish it with the same command without --best-only, or add --allow-unfinished"
        )
    complete = [record for record in records if record.state is TrialState.COMPLETE]
    if not complete:
        raise UserError(
            f"study {place.name} has no complete trial among its {len(records)}; see --status, and "
            "search with more --trials"
        )
    ranked = sorted(complete, key=lambda r: validation_order(r.outcome.score, r.number))
    first: dict[str, TrainingRecord] = {}
    for record in ranked:
        first.setdefault(configuration_key(record.parameters), record)
    return list(first.values())[:count]


def check_same_study(
    place: StudyPlace,
    protocol: Protocol,
    pixel_cache: Path,
    weights: str,
    split: Mapping[str, Any] | None = None,
) -> None:
    """Refuse final runs under another protocol or split, on other images or weights.

    Raises:
        UserError: they differ.
    """
    study = read_study(place)
    assert study is not None
    identity = study["identity"]
    if protocol_from_json(identity["protocol"]) != protocol:
        now = json.loads(json.dumps(asdict(protocol)))
        difference = first_difference(identity["protocol"], now, "protocol.")
        raise UserError(
            f"study {place.name} was searched with {difference}; {RENAME_PROTOCOL}"
            "search again with another --run-root"
        )
    if identity.get("split") != split:
        difference = first_difference({"split": identity.get("split")}, {"split": split})
        raise UserError(
            f"study {place.name} was searched with {difference}; {PUT_SPLIT_BACK}search again with "
            "another --run-root"
        )
    if identity["images"]["pixels"] != pixel_cache.name:
        check_same_decoding(place, identity["images"], pixel_cache)
        raise UserError(
            f"study {place.name} was searched on other images ({identity['images']['pixels']}, now "
            f"{pixel_cache.name}); give the same --data-root, or search again with another "
            "--run-root"
        )
    if identity["weights"] != Path(weights).name:
        raise UserError(
            f"study {place.name} started from weights {identity['weights']}, now "
            f"{Path(weights).name}; give the same --weights"
        )


def check_same_loss(place: StudyPlace, loss: LossDescription | None) -> None:
    """Refuse final runs of another loss than the search's.

    Raises:
        UserError: a class or an argument differs.
    """
    study = read_study(place)
    assert study is not None
    searched, now = recorded_loss(study["identity"]), describe_loss(loss)
    if searched != now:
        raise UserError(
            f"study {place.name} was searched with {first_difference(searched, now, 'loss.')}; "
            "put the row's file back, or search again with another --run-root"
        )
