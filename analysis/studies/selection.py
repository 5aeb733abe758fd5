"""Find the studies that the flags of a command select, and read them."""

import argparse
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from wpm.cli.entry import complain
from wpm.errors import UserError
from wpm.formatting import name_first
from wpm.records import StudyPlace, find_studies, read_study

_T = TypeVar("_T")

_MOST_NAMED = 6  # a message lists at most this many studies


def find_selected(args: argparse.Namespace) -> tuple[list[StudyPlace], list[str]]:
    """Return the studies that the flags select, sorted, and one line for each name without a study.

    Raises:
        UserError: there is no such study; the message says what to run.
    """
    places: set[StudyPlace] = set()
    missing = []
    root: Path = args.run_root
    names = product(args.dataset or [None], args.protocol or [None], args.row or [None])
    for (dataset, protocol, row), search in product(names, args.search or [None]):
        _check_names(root, dataset, protocol, row)
        found = find_studies(root, dataset, protocol, row, search)
        places.update(found)
        if not found:
            name = "/".join(name or "*" for name in (dataset, protocol, row))
            which = "" if search is None else f", search {search},"
            missing.append(f"no study {name}{which} under {root}")
    if not places:
        raise UserError(_describe_absence(args))
    return sorted(places, key=lambda place: place.order), missing


def _check_names(root: Path, *names: str | None) -> None:
    """Refuse names that no study can have, and the name of a search where a row is asked for."""
    dataset, protocol, row = ("any" if name is None else name for name in names)
    place = StudyPlace.from_label(root, dataset, protocol, row)
    if place.search > 1:
        raise UserError(
            f"--row {row} names a search; give --row {place.row} --search {place.search}"
        )


def select_studies(args: argparse.Namespace) -> list[StudyPlace]:
    """Return the studies that the flags select, sorted; report names without a study on stderr.

    Raises:
        UserError: there is no such study; the message says what to run.
    """
    places, missing = find_selected(args)
    report_problems(missing)
    return places


def _describe_absence(args: argparse.Namespace) -> str:
    """Say that there are no such studies, which studies there are, and how to make them."""
    selection = {"--dataset": args.dataset, "--protocol": args.protocol, "--rows": args.row}
    asked = [f"{flag} {' '.join(names)}" for flag, names in selection.items() if names]
    asked += [f"--search {' '.join(map(str, args.search))}"] if args.search else []
    there = [place.name for place in find_studies(args.run_root)]
    named = name_first(there, _MOST_NAMED)
    command = ["python launch.py"]
    # A launch takes one data set and one protocol, but any number of rows.
    command += [f"{flag} {names[0]}" for flag, names in list(selection.items())[:2] if names]
    command += [f"--rows {' '.join(args.row)}"] if args.row else []
    command += [f"--searches {max(args.search)}"] if args.search else []
    command += [f"--run-root {args.run_root}"] if args.run_root != Path("runs") else []
    return (
        f"no studies{' of ' if asked else ''}{' '.join(asked)} under {args.run_root}"
        f"{f' (there are: {named})' if there else ''}; run a search first: {' '.join(command)}"
    )


def read_studies(
    places: Sequence[StudyPlace], read: Callable[[StudyPlace], tuple[_T, list[str]]]
) -> list[_T]:
    """Read studies one by one; leave out those that are damaged, and name them on stderr.

    Args:
        places: at least one study.
        read: returns the content of a study, and one line for each damaged record.

    Raises:
        UserError: none of the studies can be read.
    """
    contents = []
    for place in places:
        try:
            content, problems = read(place)
        except UserError as error:
            report_problems([str(error)])
            continue
        except (OSError, KeyError, TypeError) as error:
            # For example a folder without permission, or a study.json that lacks a value.
            report_problems([f"{place.folder}: left out ({type(error).__name__}: {error})"])
            continue
        report_problems(problems)
        contents.append(content)
    if not contents:
        raise UserError(f"none of the {len(places)} selected studies can be read, see above")
    return contents


def require_study(place: StudyPlace) -> dict[str, Any]:
    """Return study.json of a study that `find_studies` has found.

    Raises:
        UserError: the file is damaged, has another record format, or was removed since.
    """
    study = read_study(place)
    if study is None:
        raise UserError(f"{place.folder / 'study.json'}: the file was removed")
    return study


def report_problems(problems: Sequence[str]) -> None:
    """Print a line on stderr for each damaged or missing record."""
    for problem in problems:
        complain(f"note: {problem}")
