"""Read the TOML files that users write; whatever is not understood is refused in one line."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from wpm.errors import UserError

_BYTE_ORDER_MARK = "\ufeff"
# TOML's whole numbers have 64 bits. Python's have any length, and not all of them fit a float.
_WHOLE_NUMBERS = range(-(2**63), 2**63)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UserError: it cannot be read, or is not TOML in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if text.startswith(_BYTE_ORDER_MARK):
            raise UserError(
                f"{path}: not valid TOML (it starts with a byte order mark); save it as UTF-8 "
                "without one"
            )
        data = tomllib.loads(text)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not valid TOML ({error}); save it as UTF-8") from error
    except (ValueError, RecursionError) as error:  # of TOML; too long a number; too deep a list
        raise UserError(f"{path}: not valid TOML ({error})") from error
    _check_whole_numbers(path, "", data)
    return data


def _check_whole_numbers(path: Path, where: str, value: Any) -> None:
    """Refuse whole numbers beyond 64 bits, at any depth."""
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_whole_numbers(path, f"{where}.{key}" if where else key, inner)
    elif isinstance(value, list):
        for inner in value:
            _check_whole_numbers(path, where, inner)
    elif isinstance(value, int) and value not in _WHOLE_NUMBERS:
        raise UserError(
            f"{path}: {where} is a whole number beyond TOML's 64 bits "
            f"({_WHOLE_NUMBERS[0]} to {_WHOLE_NUMBERS[-1]}); give a smaller one"
        )


def check_keys(path: Path, where: str, data: Mapping[str, Any], allowed: Collection[str]) -> None:
    """Refuse a table with a key that means nothing.

    Args:
        path: the file.
        where: the table's name for the message.
        data: the table.
        allowed: the keys that mean something.

    Raises:
        UserError: lists what is allowed.
    """
    unknown = sorted(data.keys() - set(allowed))
    if unknown:
        raise UserError(
            f"{path}: {where} has {unknown[0]!r}, which is not known; "
            f"allowed are {', '.join(sorted(allowed))}"
        )


def read_table(path: Path, name: str, data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a table of a file; an empty one where the file does not have it.

    Raises:
        UserError: there is something else under its name.
    """
    table = data.get(name, {})
    if not isinstance(table, dict):
        raise UserError(f"{path}: {name} is {table!r}, must be a table")
    return table
