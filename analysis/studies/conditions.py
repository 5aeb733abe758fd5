"""Read conditions on trials, such as `sharpness > 16 and epochs >= 5`, without running code."""

import argparse
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from wpm.errors import UserError

_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_CONDITION = re.compile(r"([A-Za-z_]\w*)\s*([<>=!]+)\s*(\S+)")


@dataclass(frozen=True)
class Condition:
    """A comparison of one value with a number."""

    name: str
    comparison: str
    number: float

    def holds(self, value: float | None) -> bool:
        """Return whether a value meets the condition; a missing value never does."""
        return value is not None and _COMPARE[self.comparison](value, self.number)


def parse_conditions(text: str) -> list[Condition]:
    """Read `NAME OP NUMBER [and NAME OP NUMBER ...]`, for `add_argument(type=...)`.

    Raises:
        argparse.ArgumentTypeError: the text has another form; the message names the part.
    """
    return [_parse_condition(part.strip()) for part in re.split(r"\band\b", text)]


def _parse_condition(text: str) -> Condition:
    match = _CONDITION.fullmatch(text)
    if match is None or match[2] not in _COMPARE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME OP NUMBER, with OP one of {' '.join(_COMPARE)}; "
            "join several with and"
        )
    try:
        number = float(match[3])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"{match[3]!r} in {text!r} is not a number")
    return Condition(match[1], match[2], number)


def check_names(names: Iterable[str], known: Sequence[str], flag: str) -> None:
    """Refuse unknown names.

    Raises:
        UserError: names the first unknown name, and lists the known ones.
    """
    for name in names:
        if name not in known:
            raise UserError(f"{flag}: unknown name {name!r}; choose from {', '.join(known)}")
