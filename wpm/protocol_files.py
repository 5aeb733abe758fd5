"""Find protocols by name, and read their files.

A protocol is a TOML file beside the search spaces: `search_spaces/protocols/NAME.toml`.
docs/protocol.md says how to write one.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm.errors import UserError
from wpm.files import NAME_PATTERN
from wpm.protocol_fields import Value
from wpm.protocols import Protocol, change_protocol, field_types
from wpm.toml_files import check_keys, read_table, read_toml

PROTOCOLS_FOLDER = Path(__file__).resolve().parent.parent / "search_spaces" / "protocols"


@dataclass(frozen=True)
class ProtocolFile:
    """The checked content of one file.

    Attributes:
        path: the file.
        base: name of the protocol whose values it takes over; None for none.
        values: fields that it sets for every data set.
        datasets: by data set, the fields that it sets otherwise there.
    """

    path: Path
    base: str | None
    values: Mapping[str, Value]
    datasets: Mapping[str, Mapping[str, Value]]

    def values_for(self, dataset: str) -> dict[str, Value]:
        """Return the fields that the file sets for a data set."""
        return {**self.values, **self.datasets.get(dataset, {})}


def find_protocol(
    name: str,
    dataset: str,
    *,
    changes: Mapping[str, Value] | None = None,
    folder: Path = PROTOCOLS_FOLDER,
) -> Protocol:
    """Return a protocol as it applies to a data set.

    Args:
        name: of the protocol, or the path of its file.
        dataset: name of the data set.
        changes: values that replace those of the protocol. They become part of its name, so that
            the studies get folders of their own.
        folder: where names are looked up before the folder that ships.

    Raises:
        UserError: there is no such protocol, a file or a change breaks a rule, or a value is
            missing; one line with the file.
    """
    files = read_protocol(name, folder)
    values: dict[str, Value] = {}
    for file in files:
        values |= file.values_for(dataset)
    path = files[-1].path
    required = [f.name for f in dataclasses.fields(Protocol) if f.default is dataclasses.MISSING]
    missing = [field for field in required if field not in values and field != "name"]
    if missing:
        raise UserError(f"{path}: has no {missing[0]}; set it, or take it over with base = NAME")
    try:
        protocol = Protocol(name=path.stem, **values)  # type: ignore[arg-type]
    except UserError as error:  # of two values that are right by themselves
        raise UserError(f"{path}: {error}") from error
    return change_protocol(protocol, changes or {})


def default_protocol(dataset: str) -> str:
    """Return the protocol of the data set's published table; "small" where there is none."""
    published = read_protocol("mlrc")[-1].datasets
    return "mlrc" if dataset in published else "small"


def protocol_names(folder: Path = PROTOCOLS_FOLDER) -> list[str]:
    """Return the names of all protocols of a folder and of the folder that ships, sorted."""
    paths = [*folder.glob("*.toml"), *PROTOCOLS_FOLDER.glob("*.toml")]
    return sorted({path.stem for path in paths if NAME_PATTERN.fullmatch(path.stem)})


def read_protocol(name: str, folder: Path = PROTOCOLS_FOLDER) -> list[ProtocolFile]:
    """Read the file of a protocol and those of its bases.

    Args:
        name: of the protocol, or the path of its file.
        folder: where names are looked up before the folder that ships.

    Returns:
        The files, each after the one that it is based on.

    Raises:
        UserError: there is no such protocol or base, or a file breaks a rule.
    """
    path = Path(name) if name.endswith(".toml") or "/" in name else _look_up(name, [folder])
    if path is None:
        raise UserError(
            f"unknown protocol {name!r}; choose from {', '.join(protocol_names(folder))}, or give "
            "a file: FILE.toml"
        )
    if not NAME_PATTERN.fullmatch(path.stem):
        raise UserError(
            f"{path}: {path.stem!r} cannot name a protocol: letters, digits and '_.+-' only"
        )
    files = [_read_file(path)]
    while (base := files[0].base) is not None:
        current = files[0].path
        known = NAME_PATTERN.fullmatch(base)
        found = _look_up(base, [current.parent, folder]) if known else None
        if found is None:
            raise UserError(
                f"{current}: base is {base!r}, must be one of {', '.join(protocol_names(folder))}"
            )
        if any(found.resolve() == file.path.resolve() for file in files):
            circle = " -> ".join([file.path.stem for file in reversed(files)] + [base])
            raise UserError(f"{current}: base is {base!r}, which leads back to itself ({circle})")
        files.insert(0, _read_file(found))
    return files


def _look_up(name: str, folders: list[Path]) -> Path | None:
    """Return the first file of a protocol in some folders and in the one that ships."""
    paths = [folder / f"{name}.toml" for folder in (*folders, PROTOCOLS_FOLDER)]
    return next((path for path in paths if path.exists()), None)


def _read_file(path: Path) -> ProtocolFile:
    """Read and check one file."""
    data = read_toml(path)
    base = data.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise UserError(f"{path}: base is {base!r}, must be the name of a protocol")
    if not isinstance(data.pop("description", ""), str):
        raise UserError(f"{path}: description must be text")
    tables = read_table(path, "dataset", data)
    data.pop("dataset", None)
    check_keys(path, "the file", data, {"base", "description", "dataset", *field_types()})
    datasets = {}
    for dataset in tables:
        table, where = read_table(path, dataset, tables), f"dataset.{dataset}"
        check_keys(path, where, table, field_types())
        datasets[dataset] = _read_values(path, f"{where}.", table)
    return ProtocolFile(path, base, _read_values(path, "", data), datasets)


def _read_values(path: Path, prefix: str, data: Mapping[str, Any]) -> dict[str, Value]:
    values = {}
    for field, value in data.items():
        kind = field_types()[field]
        try:
            values[field] = kind.read(value)
        except ValueError:
            raise UserError(f"{path}: {prefix}{field} is {value!r}, must be {kind.rule}") from None
    return values
