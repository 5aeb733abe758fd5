"""The plan of a study, and the check that an existing study has the same."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from wpm.data.readings import read_former
from wpm.errors import UserError
from wpm.loss_description import LossDescription
from wpm.procedure import FIRST, PROCEDURE, describe_procedure
from wpm.protocols import HALVING, NO_STOPPING, Protocol
from wpm.records import (
    START_KEYS,
    UNRECORDED,
    FirstPoint,
    SearchCost,
    StudyPlace,
    describe_start,
    provenance,
    read_study,
    write_study,
)
from wpm.rows import Row
from wpm.spaces import SearchSpace, shipped_loss
from wpm.studies.samplers import DEFAULT_SAMPLER
from wpm.studies.seeds import new_trial_seed
from wpm.studies.warm_start import WarmStart

RENAME_PROTOCOL = "put it back, or save the protocol under another name; or "
PUT_SPLIT_BACK = "give --split as before (or leave it out, if there was none); or "


@dataclass(frozen=True)
class StudyPlan:
    """What a study searches, and with which trial budget.

    Attributes:
        place: where its records are written.
        space: which parameters are searched, and in which ranges.
        protocol: the settings that all rows share.
        images: identifies the images, so that a launch on others is refused.
        pixel_cache: folder of the decoded trainval images.
        trials: the budget: how many trials in all, however they end.
        seed: of the sampler, and of every trial's training unless each trial has a new one.
        first_points: what is tried first; missing parameters are sampled.
        warm_start: where these points come from; in words, since a study of an earlier version has
            none of the choices that there are now.
        twin_cost: what the plain twin's search took, if they are its best trials.
        stopping: what becomes of trials that are behind, one of `wpm.protocols.STOPPINGS`.
        weights: file of the trunk's weights, or "random".
        sampler: name of the sampler, one of `SAMPLER_NAMES`.
        new_trial_seeds: whether every trial's training has a seed of its own.
        left_out: path and reason of every image that could not be read, for the record.
        findings: number of images in which little can be seen, by finding, for the record.
        split: identifies a split that the user gives; None for the protocol's halves.
        notes: more about the images, for the record.
    """

    place: StudyPlace
    space: SearchSpace
    protocol: Protocol
    images: Mapping[str, Any]
    pixel_cache: Path
    trials: int
    seed: int
    first_points: tuple[FirstPoint, ...] = ()
    warm_start: str = WarmStart.AUTO
    twin_cost: SearchCost | None = None
    stopping: str = HALVING
    weights: str = "random"
    sampler: str = DEFAULT_SAMPLER
    new_trial_seeds: bool = False
    left_out: Sequence[tuple[str, str]] = ()
    findings: Mapping[str, int] = field(default_factory=dict)
    split: Mapping[str, Any] | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def trial_seed(self, number: int) -> int:
        """Return the seed of a trial's training; the same again where an orphan is adopted.

        New seeds lie beyond those of final runs and those that people give, so that no final run
        repeats a trial.
        """
        return new_trial_seed(self.seed, number) if self.new_trial_seeds else self.seed

    def identity(self) -> dict[str, Any]:
        """Return everything that must stay the same while a study exists, in JSON types."""
        # Not in studies under the protocol's halves, so that older ones can be continued.
        split = {} if self.split is None else {"split": dict(self.split)}
        return json.loads(  # type: ignore[no-any-return]
            json.dumps(
                {
                    "row": str(self.space.row),
                    "searched": {name: asdict(r) for name, r in self.space.searched.items()},
                    "fixed": dict(self.space.fixed),
                    "protocol": asdict(self.protocol),
                    "images": dict(self.images),
                    "seed": self.seed,
                    "early_stopping": self.stopping != NO_STOPPING,
                    "stopping": self.stopping,
                    # By name only: the same file may be in another folder next time.
                    "weights": Path(self.weights).name,
                    "sampler": self.sampler,
                    "loss": describe_loss(self.space.loss),
                    "warm_start": str(self.warm_start),
                    "trial_seeds": "new" if self.new_trial_seeds else "common",
                    # Nothing of it concerns the row without training.
                    "procedure": PROCEDURE if self.space.row.is_trained else FIRST,
                    **split,
                }
            )
        )


def record_plan(plan: StudyPlan, trials: int) -> None:
    """Write study.json, or check that the study there has the same identity.

    Args:
        plan: the study to run.
        trials: budget to record; a smaller one than before changes nothing. 0: no search.

    Raises:
        UserError: the plan differs from the study's, or its files are damaged.
    """
    place, identity = plan.place, plan.identity()
    before = read_study(place)
    if before is None:
        if place.journal.exists():
            raise UserError(
                f"{place.folder} has a study.journal but no study.json; restore study.json, or "
                "start a new study with another --run-root"
            )
    else:
        refuse_procedure(place, before)
        # Whoever only tests a configuration begins no search, and no choice has begun without one.
        fixed = trials and before["trials"] and before["identity"]["warm_start"] != UNRECORDED
        ignored = () if fixed else ("warm_start",)
        _refuse_difference(plan, before, identity, ignored)
    if before is None or trials > before["trials"]:
        start = describe_start(plan.first_points, plan.twin_cost) if trials else {}
        if before is not None and before["trials"]:
            # The search has begun: what it tried first stays as it is.
            start = {key: before[key] for key in START_KEYS if key in before}
            identity["warm_start"] = before["identity"]["warm_start"]
        now = {
            **provenance(),
            "left_out": list(plan.left_out),
            "findings": dict(plan.findings),
            "own_modules": _list_sources(plan.space.loss),
            **plan.notes,
        }
        first = before["provenance"] if before else now
        content = {"identity": identity, "trials": trials, "provenance": first, **start}
        write_study(place, content)


def check_same_decoding(place: StudyPlace, images: Mapping[str, Any], pixel_cache: Path) -> None:
    """Refuse a study on the same images if an earlier version decoded them otherwise.

    Args:
        place: the study.
        images: what the study's identity says of its images.
        pixel_cache: folder of the decoded trainval images now.

    Raises:
        UserError: the study's images are these, as they were decoded before.
    """
    former = read_former(pixel_cache) if pixel_cache.exists() else None
    if former is not None and former.name == images.get("pixels"):
        raise UserError(
            f"study {place.name} was started by a version that decoded its images otherwise: now "
            f"{former.reason}; start a new one with another --run-root, or move {place.folder} away"
        )


def describe_loss(loss: LossDescription | None) -> dict[str, Any]:
    """Return a loss as a study records it: own modules by their checksums, without their text."""
    return {} if loss is None else loss.to_json(with_source=False)


def recorded_loss(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the loss of a study; studies of before record none, and had the one that ships."""
    recorded: dict[str, Any] | None = identity.get("loss")
    return (
        describe_loss(shipped_loss(Row.parse(identity["row"]).loss))
        if recorded is None
        else recorded
    )


def _comparable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the reasons of its ranges, whose wording changes nothing."""
    searched = {
        name: {key: value for key, value in limits.items() if key != "reason"}
        for name, limits in identity["searched"].items()
    }
    return {**identity, "searched": searched, "loss": recorded_loss(identity)}


def _list_sources(loss: LossDescription | None) -> dict[str, str | None]:
    """Return the text of the user's own modules by name, for the record."""
    return {} if loss is None else {name: m.source for name, m in loss.modules.items()}


def refuse_procedure(place: StudyPlace, study: Mapping[str, Any]) -> None:
    """Refuse to train more in a study that was trained under another procedure.

    Args:
        place: the study.
        study: content of its study.json.

    Raises:
        UserError: it was; says what changed and what to do.
    """
    number = study["identity"]["procedure"]
    if number == PROCEDURE or not place.row.is_trained:
        return
    writer = study.get("provenance", {}).get("wpm", "another version")
    raise UserError(
        f"study {place.name} was begun by wpm {writer} under {describe_procedure(number)}: its "
        "scores and new ones do not compare; analysis still reads it. Start a new study with "
        f"another --run-root, or move {place.folder} away, or continue with that version"
    )


def _refuse_difference(
    plan: StudyPlan,
    study: Mapping[str, Any],
    identity: Mapping[str, Any],
    ignored: Sequence[str],
) -> None:
    old, new = _comparable(study["identity"]), _comparable(identity)
    new |= {key: old[key] for key in ignored}
    if old == new:
        return
    place, difference = plan.place, first_difference(old, new)
    if difference.startswith("images."):
        check_same_decoding(place, study["identity"]["images"], plan.pixel_cache)
    rename = RENAME_PROTOCOL if difference.startswith("protocol.") else ""
    rename = PUT_SPLIT_BACK if difference.startswith("split") else rename
    if difference.startswith("warm_start"):
        rename = f"give --warm-start {old['warm_start']} to continue it; or "
    raise UserError(
        f"study {place.name} was started with {difference}; {rename}start a new one with "
        f"another --run-root, or move {place.folder} away"
    )


def first_difference(before: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> str:
    """Name the first value that differs, old and new."""
    # Protocol and split first, because another `resize` or split makes another pixel cache too.
    for key in sorted({*before, *now}, key=lambda key: (key not in ("protocol", "split"), key)):
        old, new = before.get(key), now.get(key)
        if old != new:
            if isinstance(old, dict) and isinstance(new, dict):
                return first_difference(old, new, f"{path}{key}.")
            return f"{path}{key} = {old!r}, now {new!r}"
    return "another configuration"
