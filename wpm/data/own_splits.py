"""Read a split that the user gives: a CSV file, or folders called train, val and test."""

import csv
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wpm.data.index import ImageIndex
from wpm.data.parts import SPLIT_FOLDERS, Part, name_parts
from wpm.errors import UserError
from wpm.formatting import name_first

NO_FOLD = -1
_WRAPPERS = 4  # folders around the tree that names in a file may begin with
_DELIMITERS = ",;\t"


@dataclass(frozen=True)
class GivenSplit:
    """A split as the user gives it.

    Attributes:
        parts: the half of every image of the index.
        folds: the fold that validates on each image, `NO_FOLD` for none; None where the user names
            no folds.
        identity: what the study records and keeps: "file", "sha256" and "shared_classes", the
            number of classes in both halves.
    """

    parts: Sequence[Part]
    folds: Sequence[int] | None
    identity: Mapping[str, Any]


@dataclass(frozen=True)
class _Row:
    line: int
    name: str
    part: Part
    fold: int


def read_given_split(index: ImageIndex, split: str, folds: int, same_classes: bool) -> GivenSplit:
    """Return the half and the fold of every image.

    Args:
        index: all images.
        split: path of a CSV file, or `SPLIT_FOLDERS`.
        folds: of the protocol.
        same_classes: whether a class may be in both halves, and validated on where it is trained.

    Raises:
        UserError: the file cannot be understood, does not fit the images, or breaks the rules.
    """
    if split == SPLIT_FOLDERS:
        parts, numbers, digest = _read_folders(index)
        name = where = SPLIT_FOLDERS
    else:
        parts, numbers, digest = _read_file(index, Path(split))
        where, name = split, Path(split).name
    for part in Part:
        if part not in parts:
            raise UserError(f"--split {where}: no image is {part}; both halves need some")
    if numbers is not None:
        _check_numbers(where, numbers, folds)
    shared = _find_shared(index, [str(part) for part in parts])
    if shared and not same_classes:
        raise UserError(
            f"--split {where}: {len(shared)} classes have images in both halves "
            f"({name_first(shared)}), but the test is on classes that are not trained on; change "
            "the split, or add --same-classes to test on other images of the same classes"
        )
    if numbers is not None and not same_classes:
        spread = _find_shared(index, [f"{p} {n}" for p, n in zip(parts, numbers, strict=True)])
        if spread:
            raise UserError(
                f"--split {where}: {len(spread)} classes have images in several folds "
                f"({name_first(spread)}), but a fold validates on classes that it does not train "
                "on; change the split, or add --same-classes"
            )
    identity = {"file": name, "sha256": digest, "shared_classes": len(shared)}
    return GivenSplit(parts, numbers, identity)


def _read_folders(index: ImageIndex) -> tuple[list[Part], None, str]:
    tops = [path.partition("/")[0] for path in index.paths]
    named = name_parts(set(tops))
    parts = [named[top] for top in tops]
    lines = {
        f"{index.class_names[label]}\0{part}\n"
        for label, part in zip(index.labels.tolist(), parts, strict=True)
    }
    return parts, None, hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def _read_file(index: ImageIndex, file: Path) -> tuple[list[Part], list[int] | None, str]:
    try:
        data = file.read_bytes()
        text = data.decode("utf-8-sig")
    except OSError as error:
        raise UserError(f"--split {file}: cannot be read ({error.strerror or error})") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"--split {file}: is not UTF-8 ({error.reason}); save it as UTF-8"
        ) from error
    column, rows = _parse(file, text)
    if column == "image":
        names: Sequence[str] = index.paths
    else:
        names = [index.class_names[label] for label in index.labels]
    by_name = _match(index, file, column, rows, names)
    chosen = [by_name[name] for name in names]
    numbers = [row.fold for row in chosen]
    has_folds = any(number != NO_FOLD for number in numbers)
    digest = hashlib.sha256(data).hexdigest()
    return [row.part for row in chosen], numbers if has_folds else None, digest


def _parse(file: Path, text: str) -> tuple[str, list[_Row]]:
    """Return what the rows name, "image" or "class", and the rows."""
    heading = text.partition("\n")[0]
    delimiter = max(_DELIMITERS, key=heading.count)
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise UserError(f"--split {file}: is not a CSV file ({error})") from error
    columns = [name.strip().lower() for name in lines[0]] if lines else []
    what = [name for name in ("image", "class") if name in columns]
    if len(what) != 1 or "part" not in columns or len(set(columns)) != len(columns):
        raise UserError(
            f"--split {file}: the first line is {heading.strip()[:60]!r}; it must name the columns "
            "image or class, part, and if you like fold"
        )
    return what[0], list(_parse_rows(file, what[0], columns, lines))


def _parse_rows(
    file: Path, what: str, columns: Sequence[str], lines: Sequence[Sequence[str]]
) -> Iterator[_Row]:
    for number, values in enumerate(lines[1:], start=2):
        if not any(value.strip() for value in values):
            continue
        where = f"--split {file}, line {number}"
        if len(values) != len(columns):
            raise UserError(f"{where}: has {len(values)} values, not {len(columns)}")
        row = {column: value.strip() for column, value in zip(columns, values, strict=True)}
        try:
            part = Part(row["part"].lower())
        except ValueError:
            raise UserError(
                f"{where}: part is {row['part']!r}, must be {' or '.join(Part)}"
            ) from None
        text = row.get("fold", "")
        if text and not (text.isascii() and text.isdigit()):
            raise UserError(
                f"{where}: fold is {text!r}, must be a whole number from 0 on, or empty"
            )
        if text and part is Part.TEST:
            raise UserError(f"{where}: a {what} of the test is in no fold, not {text}")
        yield _Row(number, row[what], part, int(text) if text else NO_FOLD)


def _match(
    index: ImageIndex, file: Path, what: str, rows: Sequence[_Row], names: Sequence[str]
) -> dict[str, _Row]:
    """Return the row of every name; refuse names without a row and rows without a name."""
    known = set(names)
    by_name: dict[str, _Row] = {}
    strange = []
    for row in rows:
        name = _find_name(index, row.name, known)
        if name is None:
            strange.append(row.name)
            continue
        before = by_name.setdefault(name, row)
        if (before.part, before.fold) != (row.part, row.fold):
            raise UserError(
                f"--split {file}, line {row.line}: {what} {name} is there again, with another part "
                f"or fold than in line {before.line}"
            )
    plural = "images" if what == "image" else "classes"
    if strange:
        raise UserError(
            f"--split {file}: {len(strange)} {plural} are not in {index.root} "
            f"({name_first(strange)}); there are {name_first(sorted(known))}"
        )
    missing = sorted(known - by_name.keys())
    if missing:
        raise UserError(
            f"--split {file}: has no line for {len(missing)} of the {len(known)} {plural} in "
            f"{index.root} ({name_first(missing)}); add them, or move them elsewhere"
        )
    return by_name


def _find_name(index: ImageIndex, given: str, known: set[str]) -> str | None:
    """Return the name that is meant; it may begin with folders around the tree."""
    tries = [given, given.replace("\\", "/").removeprefix("./")]
    for count in range(1, _WRAPPERS + 1):
        around = "/".join(index.root.parts[-count:]) + "/"
        tries += [name.removeprefix(around) for name in tries[:2]]
    return next((name for name in tries if name in known), None)


def _check_numbers(where: str, numbers: Sequence[int], folds: int) -> None:
    found = sorted(set(numbers) - {NO_FOLD})
    if found != list(range(folds)):
        raise UserError(
            f"--split {where}: folds are {', '.join(map(str, found))}, but the protocol has "
            f"{folds}, numbered 0 to {folds - 1}; change them, or add --set folds=N"
        )


def _find_shared(index: ImageIndex, groups: Sequence[str]) -> list[str]:
    """Return the classes whose images are in several groups."""
    pairs = set(zip(index.labels.tolist(), groups, strict=True))
    counts = np.bincount([label for label, _ in pairs], minlength=len(index.class_names))
    return [index.class_names[label] for label in np.flatnonzero(counts > 1)]
