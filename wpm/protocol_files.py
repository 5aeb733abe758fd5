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
    is_path = name.endswith(".toml") or "/" in name
    places = [Path(name)] if is_path else [p for p in _candidates(name, folder) if p.exists()]
    if not places:
        raise UserError(
            f"unknown protocol {name!r}; choose from {', '.join(protocol_names(folder))}, or give "
            "a file: FILE.toml"
        )
    path = places[0]
    if not NAME_PATTERN.fullmatch(path.stem):
        raise UserError(
            f"{path}: {path.stem!r} cannot name a protocol: letters, digits and '_.+-' only"
        )
    files = [_read_file(path)]
    while files[0].base is not None:
        base = _find_base(files[0], folder)
        if any(base.samefile(file.path) for file in files):
            circle = " -> ".join(file.path.stem for file in reversed(files))
            raise UserError(
                f"{files[0].path}: base is {base.stem!r}, which leads back to itself "
                f"({circle} -> {base.stem})"
            )
        files.insert(0, _read_file(base))
    return files


def _find_base(file: ProtocolFile, folder: Path) -> Path:
    """Return the file of a base. One that is named like the file itself lies in another folder."""
    base = file.base or ""
    found = [
        path
        for path in _candidates(base, file.path.parent, folder)
        if NAME_PATTERN.fullmatch(base) and path.exists()
    ]
    if not found:
        known = ", ".join(protocol_names(folder))
        raise UserError(f"{file.path}: base is {base!r}, must be one of {known}")
    others = [path for path in found if not path.samefile(file.path)]
    return (others or found)[0]


def _candidates(name: str, *folders: Path) -> list[Path]:
    """Return where the file of a protocol may be, in the order in which it is looked up."""
    return [folder / f"{name}.toml" for folder in (*folders, PROTOCOLS_FOLDER)]


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
