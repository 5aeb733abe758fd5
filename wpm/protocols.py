"""Protocols: everything that all rows of a table share, and how one value of it is changed.

Their values are in `search_spaces/protocols/`, which `wpm.protocol_files` reads.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, get_type_hints

from wpm.errors import UserError
from wpm.protocol_fields import (
    FieldType,
    LowAndHigh,
    RealNumber,
    Switch,
    Value,
    WholeNumber,
    Word,
)

PRECISIONS = ("float32", "tf32", "bf16")
OPTIMIZERS = ("adam", "rmsprop")
PAUSING, HALVING, NO_STOPPING = "pausing", "halving", "none"
STOPPINGS = (PAUSING, HALVING, NO_STOPPING)

_BUDGETS = ("trials", "runs")  # a study's budget may grow, so each has a flag of its own
_LONGEST_NAME = 200  # of a folder of records; file systems take at most 255 bytes
_SELF_EXPLAINING = ("trunk", "precision")  # in a name, their values stand alone

Count = Annotated[int, WholeNumber()]
Name = Annotated[str, Word()]
_POSITIVE = RealNumber(0, math.inf, excludes_low=True)
_SHARE = RealNumber(0, 1, excludes_low=True)


@dataclass(frozen=True)
class Protocol:
    """Everything that is the same for every row of one table.

    Lengths are in epochs unless the name says otherwise, image sizes in pixels.
    """

    name: str
    # model
    trunk: Name
    embedding_dim: Count
    # images
    resize: Count  # shorter side of the cached image
    crop: Count  # side of the square that the trunk sees
    # share of the area that a random crop covers
    crop_scale: Annotated[tuple[float, float], LowAndHigh(_SHARE)]
    crop_ratio: Annotated[tuple[float, float], LowAndHigh(_POSITIVE)]  # width / height of a crop
    flip: Annotated[float, RealNumber(0, 1)]  # probability of a horizontal flip
    # batches
    classes_per_batch: Count
    images_per_class: Count
    # optimiser of trunk and embedder
    optimizer: Annotated[str, Word(OPTIMIZERS)]
    learning_rate: Annotated[float, _POSITIVE]
    weight_decay: Annotated[float, RealNumber()]
    # optimiser of a loss's own parameters (proxies, class weights, beta); its rate is searched
    loss_weight_decay: Annotated[float, RealNumber()]
    # schedule
    iterations_per_epoch: Count
    validation_interval: Count
    patience: Count
    max_epochs: Count
    folds: Annotated[int, WholeNumber(2)]  # one fold could not be validated on other classes
    # views of within-pair mining
    trunk_passes: Count
    embedding_masks: Count
    # asynchronous successive halving: the first rung, and how few stay at each (1 / factor)
    grace_epochs: Count
    reduction_factor: Annotated[int, WholeNumber(2)]  # with 1 every trial would stay
    # budgets, unless the command line sets others
    trials: Count
    runs: Count
    # arithmetic of trunk and embedder: "float32" as published, "tf32", or "bf16" (autocast)
    precision: Annotated[str, Word(PRECISIONS)] = "float32"
    # whether the model is validated before its first step too; that counts for patience alone
    validate_untrained: Annotated[bool, Switch()] = False
    # what becomes of trials that are behind at a rung, unless the command line says otherwise:
    # with "pausing" they wait and may train on later, with "halving" they end; "none": no rungs
    stopping: Annotated[str, Word(STOPPINGS)] = HALVING
    # so many folds of a trial train to their end before the others begin, which a stopped trial
    # saves; 0 trains all folds in lockstep
    first_folds: Annotated[int, WholeNumber(0)] = 0

    def __post_init__(self) -> None:
        for field, kind in field_types().items():
            value = getattr(self, field)
            try:
                kind.read(value)
            except ValueError:
                raise UserError(
                    f"protocol {self.name}: {field} is {value!r}, must be {kind.rule}"
                ) from None
        if self.crop > self.resize:
            raise UserError(
                f"protocol {self.name}: crop {self.crop} px exceeds resize {self.resize} px"
            )
        if self.first_folds >= self.folds:
            raise UserError(
                f"protocol {self.name}: first_folds is {self.first_folds}, must be less than "
                f"folds = {self.folds}; 0 trains all folds in lockstep"
            )

    def batch_size(self) -> int:
        """Number of images in a batch."""
        return self.classes_per_batch * self.images_per_class


def rung_steps(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the steps (`wpm.reports.Report.step`) at which a search compares trials, in order.

    They grow by the factor. None lies so late that hardly anything is left to save: after the last
    one in the epochs of the first folds, a trial still has to train `factor` times as long. The
    last of all is the end of the first folds, where others follow.

    Args:
        settings: values of a protocol by field, such as a study records them.
    """
    steps, step = [], settings["grace_epochs"]
    while step * settings["reduction_factor"] <= settings["max_epochs"]:
        steps.append(step)
        step *= settings["reduction_factor"]
    return (*steps, settings["max_epochs"]) if settings.get("first_folds") else tuple(steps)


@cache
def field_types() -> Mapping[str, FieldType]:
    """Return the type of every field that a file may set, in the order of `Protocol`."""
    hints = get_type_hints(Protocol, include_extras=True)
    return {
        name: hint.__metadata__[0] for name, hint in hints.items() if hasattr(hint, "__metadata__")
    }


def change_protocol(protocol: Protocol, changes: Mapping[str, Value]) -> Protocol:
    """Return a protocol with other values, whose name says which, in the order of the fields.

    Raises:
        UserError: a value breaks its rule, or there are too many for a name.
    """
    changed = {
        field: changes[field]
        for field in field_types()
        if field in changes and changes[field] != getattr(protocol, field)
    }
    name = "-".join([protocol.name, *(_name_change(*change) for change in changed.items())])
    if len(name) > _LONGEST_NAME:
        raise UserError(
            f"protocol {name[:40]}...: {len(changed)} changes are too many for the name of a "
            "folder; write a file with base = NAME, and give --protocol FILE.toml"
        )
    return dataclasses.replace(protocol, name=name, **changed)  # type: ignore[arg-type]


def _name_change(field: str, value: Value) -> str:
    text = "_".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = text.lower() if isinstance(value, bool) else text.replace(":", ".")
    return text if field in _SELF_EXPLAINING else f"{field}_{text}"


def parse_setting(text: str) -> tuple[str, Value]:
    """Read a change of one field, written FIELD=VALUE.

    Raises:
        UserError: there is no such field, or the value breaks its rule.
    """
    field, equals, given = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is not FIELD=VALUE, such as max_epochs=40")
    if field in _BUDGETS:
        raise UserError(f"{field} is a budget, which may grow; give --{field} {given}")
    fields = [name for name in field_types() if name not in _BUDGETS]
    if field not in fields:
        raise UserError(f"a protocol has no field {field!r}; choose from {', '.join(fields)}")
    kind = field_types()[field]
    try:
        return field, kind.parse(given)
    except ValueError:
        raise UserError(f"{field} is {given!r}, must be {kind.rule}") from None


def protocol_from_json(data: Mapping[str, Any]) -> Protocol:
    """Read a protocol from JSON types, where tuples have become lists.

    Raises:
        UserError: a newer version wrote it, with fields that this one does not know.
    """
    unknown = sorted(data.keys() - {field.name for field in dataclasses.fields(Protocol)})
    if unknown:
        raise UserError(
            f"protocol {data.get('name')} was recorded by a newer version of wpm: this one does "
            f"not know {', '.join(unknown)}; use the version that the record names"
        )
    values: dict[str, Any] = {
        key: tuple(v) if isinstance(v, list) else v for key, v in data.items()
    }
    return Protocol(**values)
