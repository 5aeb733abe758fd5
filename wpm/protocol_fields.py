"""The types of a protocol's fields: which values a field may have, in a file and as text.

A field of `Protocol` is annotated with one of these, such as `Annotated[int, WholeNumber()]`.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

Value = bool | int | float | str | tuple[float, float]


class FieldType(ABC):
    """Which values a field may have."""

    @property
    def rule(self) -> str:
        """What a value must be, to complete the sentence "it must be ..."."""
        return self._describe()

    def read(self, value: object) -> Value:
        """Return a value of a TOML or JSON file as the field holds it.

        Raises:
            ValueError: the value breaks the rule.
        """
        return self._check(value)

    def parse(self, text: str) -> Value:
        """Return the value that a text from the command line stands for.

        Raises:
            ValueError: the text breaks the rule.
        """
        return self._check(self._split(text))

    @abstractmethod
    def _describe(self) -> str: ...

    @abstractmethod
    def _check(self, value: object) -> Value: ...

    @abstractmethod
    def _split(self, text: str) -> object: ...


@dataclass(frozen=True)
class Switch(FieldType):
    """Something that is done or not."""

    def _describe(self) -> str:
        return "true or false"

    def _check(self, value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError(value)
        return value

    def _split(self, text: str) -> object:
        return {"true": True, "false": False}.get(text)


@dataclass(frozen=True)
class WholeNumber(FieldType):
    """A whole number that is not too small."""

    low: int = 1

    def _describe(self) -> str:
        return f"a whole number >= {self.low}"

    def _check(self, value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < self.low:
            raise ValueError(value)
        return value

    def _split(self, text: str) -> object:
        return int(text)


@dataclass(frozen=True)
class RealNumber(FieldType):
    """A finite number in a range."""

    low: float = 0.0
    high: float = math.inf
    excludes_low: bool = False

    def _describe(self) -> str:
        start = f"{'>' if self.excludes_low else '>='} {self.low:g}"
        return f"a number {start}" + (f" and <= {self.high:g}" if self.high < math.inf else "")

    def _check(self, value: object) -> float:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(value)
        too_low = value <= self.low if self.excludes_low else value < self.low
        if too_low or value > self.high or not math.isfinite(value):
            raise ValueError(value)
        return float(value)

    def _split(self, text: str) -> object:
        return float(text)


@dataclass(frozen=True)
class LowAndHigh(FieldType):
    """The ends of a range, the lower one first."""

    each: RealNumber

    def _describe(self) -> str:
        return f"[low, high] with low <= high, each {self.each.rule}"

    def _check(self, value: object) -> tuple[float, float]:
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise ValueError(value)
        low, high = map(self.each._check, value)
        if low > high:
            raise ValueError(value)
        return low, high

    def _split(self, text: str) -> object:
        return [float(number) for number in text.strip("[]").split(",")]


@dataclass(frozen=True)
class Word(FieldType):
    """A name: one of some choices, or any where there are none."""

    choices: tuple[str, ...] = ()

    def _describe(self) -> str:
        return f"one of {', '.join(self.choices)}" if self.choices else "a name"

    def _check(self, value: object) -> str:
        if not isinstance(value, str) or not value or (self.choices and value not in self.choices):
            raise ValueError(value)
        return value

    def _split(self, text: str) -> object:
        return text
