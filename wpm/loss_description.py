"""What a row's file says of its loss: which classes, and which values they get.

A description is plain data. Reading one needs no torch, it travels to workers as JSON, and a study
records it. `wpm.losses` builds the loss that it describes.
"""

import difflib
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Union

from wpm.errors import UserError
from wpm.toml_files import check_keys, read_table

# What the training loop reads itself; everything else in a row's file goes to the loss.
TRAINING_PARAMETERS = frozenset(
    {"metric_loss_lr", "metric_loss_weight_decay", "classes_per_batch", "images_per_class"}
)
# Sizes that arguments may name like parameters: training classes C, dimensions D of an embedding.
SIZES = ("num_classes", "embedding_size")
DESCRIPTION_KEYS = frozenset({"loss", "own_weights", "arguments", "miner", "distance", "reducer"})


@dataclass(frozen=True)
class ParameterValue:
    """An argument whose value is that of a searched or fixed parameter, or a size.

    Attributes:
        name: of the parameter.
        whole: whether the class gets it as an int; parameters themselves are floats.
    """

    name: str
    whole: bool = False


Argument = Union[ParameterValue, "ClassCall", float, str]  # numbers and text are constants


@dataclass(frozen=True)
class ClassCall:
    """A class, and the keyword arguments to construct it with.

    Attributes:
        name: a class of pytorch-metric-learning, or `module:Class`.
        arguments: by name.
    """

    name: str
    arguments: Mapping[str, Argument]

    @property
    def module(self) -> str | None:
        """The module that the name gives; None for a class of pytorch-metric-learning."""
        module, colon, _ = self.name.partition(":")
        return module if colon else None

    def calls(self) -> "Iterator[ClassCall]":
        """Yield this call and those among its arguments."""
        yield self
        for argument in self.arguments.values():
            if isinstance(argument, ClassCall):
                yield from argument.calls()

    def parameters(self) -> Iterator[str]:
        """Yield the names of the parameters and sizes that the arguments get."""
        for call in self.calls():
            for argument in call.arguments.values():
                if isinstance(argument, ParameterValue):
                    yield argument.name

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON types."""
        arguments = {name: _argument_to_json(value) for name, value in self.arguments.items()}
        return {"class": self.name, "arguments": arguments}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "ClassCall":
        """Read what `to_json` returned."""
        arguments = {name: _argument_from_json(value) for name, value in data["arguments"].items()}
        return cls(data["class"], arguments)


@dataclass(frozen=True)
class OwnModule:
    """A Python file of the user that a description names.

    Attributes:
        sha256: of its text.
        source: its text, so that workers need not see the file; None in a record, which only says
            which text it was.
    """

    sha256: str
    source: str | None = field(default=None, compare=False)


@dataclass(frozen=True)
class LossDescription:
    """The loss of a row, and the library's miner that picks pairs in front of it.

    Attributes:
        loss: the loss.
        miner: the miner; None for all pairs or triplets. It is not the miner of the row's name.
        modules: the user's own modules by name.
    """

    loss: ClassCall
    miner: ClassCall | None = None
    modules: Mapping[str, OwnModule] = field(default_factory=dict)

    @property
    def parameters(self) -> list[str]:
        """Names of the parameters and sizes that the classes need, each once."""
        calls = [self.loss, *([] if self.miner is None else [self.miner])]
        return list(dict.fromkeys(name for call in calls for name in call.parameters()))

    def to_json(self, *, with_source: bool = True) -> dict[str, Any]:
        """Return plain JSON types.

        Args:
            with_source: include the text of own modules, which workers need and records do not.
        """
        return {
            **self.loss.to_json(),
            "miner": None if self.miner is None else self.miner.to_json(),
            "modules": {
                name: {
                    "sha256": module.sha256,
                    **({"source": module.source} if with_source else {}),
                }
                for name, module in self.modules.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LossDescription":
        """Read what `to_json` returned."""
        return cls(
            loss=ClassCall.from_json(data),
            miner=None if data["miner"] is None else ClassCall.from_json(data["miner"]),
            modules={
                name: OwnModule(module["sha256"], module.get("source"))
                for name, module in data["modules"].items()
            },
        )


def _argument_to_json(value: Argument) -> Any:
    if isinstance(value, ParameterValue):
        return {"parameter": value.name, "whole": value.whole}
    return value.to_json() if isinstance(value, ClassCall) else value


def _argument_from_json(data: Any) -> Argument:
    if not isinstance(data, dict):
        constant: float | str = data
        return constant
    if "parameter" in data:
        return ParameterValue(data["parameter"], data["whole"])
    return ClassCall.from_json(data)


def suggest(name: str, choices: Collection[str]) -> str:
    """Return "; did you mean X?" where a name is close to a choice, else an empty text."""
    close = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def read_description(
    path: Path, data: Mapping[str, Any], parameters: Collection[str], whole: Collection[str]
) -> LossDescription | None:
    """Read what a row's file says of its loss.

    Args:
        path: the file.
        data: its content.
        parameters: names of all searched and fixed parameters.
        whole: those of them whose values are whole numbers.

    Returns:
        The description; None where the file names no loss.

    Raises:
        UserError: something in it is not understood. Whether the classes exist is not checked.
    """
    if "loss" not in data:
        stray = sorted(DESCRIPTION_KEYS & data.keys())
        if stray:
            raise UserError(f"{path}: {stray[0]} needs the class that it is for; add loss = CLASS")
        return None
    if not isinstance(data["loss"], str):
        raise UserError(f"{path}: loss is {data['loss']!r}, must be the name of a class")
    own_weights = data.get("own_weights", False)
    if not isinstance(own_weights, bool):
        raise UserError(f"{path}: own_weights is {own_weights!r}, must be true or false")
    reader = _Reader(path, parameters, whole)
    miner = reader.read_call("miner", data["miner"]) if "miner" in data else None
    arguments = {
        name: reader.read_argument(f"arguments.{name}", value)
        for name, value in read_table(path, "arguments", data).items()
    }
    for name in ("distance", "reducer"):
        if name in data:
            if name in arguments:
                raise UserError(f"{path}: arguments.{name} and {name} are both set; keep one")
            arguments[name] = reader.read_call(name, data[name])
    if miner is not None and "distance" in data and "distance" not in miner.arguments:
        # One distance for both: the miner's threshold is about the numbers that the loss reads.
        miner = ClassCall(miner.name, {**miner.arguments, "distance": arguments["distance"]})
    if own_weights:
        arguments = {**{name: ParameterValue(name, whole=True) for name in SIZES}, **arguments}
    for name in sorted(parameters):
        if name in reader.named or name in TRAINING_PARAMETERS:
            continue
        if name in arguments:
            raise UserError(
                f"{path}: {name} is a parameter and an argument of its own; rename the parameter, "
                f"or write arguments.{name} = {name!r}"
            )
        arguments[name] = ParameterValue(name, name in whole)
    loss = ClassCall(data["loss"], arguments)
    return LossDescription(loss, miner, _read_modules(path.parent, loss, miner))


class _Reader:
    """Reads classes and arguments from a file, and remembers which parameters they name."""

    def __init__(self, path: Path, parameters: Collection[str], whole: Collection[str]) -> None:
        self._path, self._parameters, self._whole = path, parameters, whole
        self.named: set[str] = set()

    def read_call(self, where: str, value: Any) -> ClassCall:
        """Read a class: its name, or a table with the name as `class` and its arguments."""
        table = {"class": value} if isinstance(value, str) else value
        if not isinstance(table, dict) or not isinstance(table.get("class"), str):
            raise UserError(
                f"{self._path}: {where} is {value!r}, must name a class: {where} = "
                f'"CLASS", or {where} = {{ class = "CLASS", ... }}'
            )
        return ClassCall(
            table["class"],
            {
                name: self.read_argument(f"{where}.{name}", argument)
                for name, argument in table.items()
                if name != "class"
            },
        )

    def read_argument(self, where: str, value: Any) -> Argument:
        """Read an argument: a parameter by name, a number, `{ value = ... }`, or a class."""
        if isinstance(value, bool | int | float):
            return value
        if isinstance(value, str):
            return self._read_parameter(where, value)
        if isinstance(value, dict) and "class" in value:
            return self.read_call(where, value)
        if isinstance(value, dict) and "value" in value:
            check_keys(self._path, where, value, {"value"})
            if isinstance(value["value"], str | bool | int | float):
                constant: str | float = value["value"]
                return constant
        raise UserError(
            f"{self._path}: {where} is {value!r}, must be the name of a parameter, a number, "
            '{ value = "text" } or { class = "CLASS" }'
        )

    def _read_parameter(self, where: str, name: str) -> ParameterValue:
        if name in SIZES:
            return ParameterValue(name, whole=True)
        if name not in self._parameters:
            near = suggest(name, [*self._parameters, *SIZES])
            raise UserError(
                f"{self._path}: {where} names {name!r}, which is neither searched nor fixed{near} "
                '(write { value = "..." } for text)'
            )
        self.named.add(name)
        return ParameterValue(name, name in self._whole)


def _read_modules(folder: Path, *calls: ClassCall | None) -> dict[str, OwnModule]:
    """Read the user's own modules that calls name: files beside the row's, or where we run.

    Modules of installed packages are not among them; every worker imports those by name.
    """
    named = {part.module for call in calls if call is not None for part in call.calls()}
    modules = {}
    for module in sorted(name for name in named if name and name.partition(".")[0] != "wpm"):
        relative = Path(*module.split(".")).with_suffix(".py")
        file = next((p for p in (folder / relative, Path.cwd() / relative) if p.is_file()), None)
        if file is None:
            continue
        try:
            source = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{file}: cannot be read ({error}); it is named in {folder}") from error
        modules[module] = OwnModule(hashlib.sha256(source.encode()).hexdigest(), source)
    return modules
