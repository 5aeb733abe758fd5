"""The frozen configuration of one training."""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wpm.errors import UserError
from wpm.loss_description import LossDescription
from wpm.protocols import Protocol, protocol_from_json
from wpm.rows import Row


@dataclass(frozen=True)
class TrainingConfig:
    """One configuration to train: the same values and seed give the same numbers on the CPU.

    Attributes:
        row: which loss, and which miner before it.
        protocol: what all rows share.
        parameters: values of the row's searched and fixed parameters.
        seed: base seed; fold k of it is independent of which other folds are trained.
        folds: positions of the folds to train, advanced in lockstep.
        weights: file of the trunk's weights, or "random".
        loss: the classes of the row's loss; None for those that ship under its name.
    """

    row: Row
    protocol: Protocol
    parameters: Mapping[str, float]
    seed: int
    folds: tuple[int, ...]
    weights: str = "random"
    loss: LossDescription | None = None

    def __post_init__(self) -> None:
        for name, value in self.parameters.items():
            if not math.isfinite(value):
                raise UserError(f"parameter {name} is {value}, must be finite")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}, must be >= 0")

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            **dataclasses.asdict(self),
            "row": str(self.row),
            "parameters": dict(self.parameters),
            "loss": None if self.loss is None else self.loss.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "TrainingConfig":
        """Read what `to_json` returned."""
        return cls(
            row=Row.parse(data["row"]),
            protocol=protocol_from_json(data["protocol"]),
            parameters=dict(data["parameters"]),
            seed=data["seed"],
            folds=tuple(data["folds"]),
            weights=data["weights"],
            loss=LossDescription.from_json(data["loss"]) if data.get("loss") else None,
        )
