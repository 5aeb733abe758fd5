"""Choose the studies that a command's flags select, and read them."""

import argparse
import sys
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from wpm.errors import UserError
from wpm.records import StudyPlace, find_studies, read_study
from wpm.rows import Row

_T = TypeVar("_T")

_MOST_NAMED = 6  # studies listed in a message


def find_selected(args: argparse.Namespace) -> tuple[list[StudyPlace], list[str]]:
    """Return the studies that the flags select, sorted, and a line for each name without a study.

    Raises:
        UserError: there are none; the message says what to run.
    """
    places: set[StudyPlace] = set()
    missing = []
    root: Path = args.run_root
    for names in product(args.dataset or [None], args.protocol or [None], args.row or [None]):
        dataset, protocol, row = (name if name is not None else "any" for name in names)
        StudyPlace(root, dataset, protocol, Row.parse(row))  # checks the names
        found = find_studies(root, *names)
        places.update(found)
        if not found:
            name = "/".join(name or "*" for name in names)
            missing.append(f"no study {name} under {root}")
    if not places:
        raise UserError(_describe_absence(args))
    in_order = sorted(places, key=lambda place: (place.dataset, place.protocol, str(place.row)))
    return in_order, missing


def select_studies(args: argparse.Namespace) -> list[StudyPlace]:
    """Return the studies that the flags select, sorted; names without a study go to stderr.

    Raises:
        UserError: there are none; the message says what to run.
    """
    places, missing = find_selected(args)
    report_problems(missing)
    return places


def _describe_absence(args: argparse.Namespace) -> str:
    """Say that there are no such studies, which there are, and what makes them."""
    selection = {"--dataset": args.dataset, "--protocol": args.protocol, "--rows": args.row}
    wanted = [f"{flag} {' '.join(names)}" for flag, names in selection.items() if names]
    there = [place.name for place in find_studies(args.run_root)]
    named = ", ".join(there[:_MOST_NAMED]) + (", ..." if len(there) > _MOST_NAMED else "")
    command = ["python launch.py"]
    # One data set and protocol a launch, any number of rows.
    command += [f"{flag} {names[0]}" for flag, names in list(selection.items())[:2] if names]
    command += [f"--rows {' '.join(args.row)}"] if args.row else []
    command += [f"--run-root {args.run_root}"] if args.run_root != Path("runs") else []
    return (
        f"no studies{' of ' if wanted else ''}{' '.join(wanted)} under {args.run_root}"
        f"{f' (there are: {named})' if there else ''}; run a search first: {' '.join(command)}"
    )


def read_studies(
    places: Sequence[StudyPlace], read: Callable[[StudyPlace], tuple[_T, list[str]]]
) -> list[_T]:
    """Read studies one by one; what is damaged is named on stderr and left out.

    Args:
        places: at least one study.
        read: returns what it read, and a line for each damaged record beside it.

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
            # A folder without permission, a study.json that is whole and lacks something.
            report_problems([f"{place.folder}: left out ({type(error).__name__}: {error})"])
            continue
        report_problems(problems)
        contents.append(content)
    if not contents:
        raise UserError(f"none of the {len(places)} selected studies can be read, see above")
    return contents


def require_study(place: StudyPlace) -> dict[str, Any]:
    """Return study.json of a study that was found by it.

    Raises:
        UserError: it is damaged, of another record format, or was removed meanwhile.
    """
    study = read_study(place)
    if study is None:
        raise UserError(f"{place.folder / 'study.json'}: was removed")
    return study


def report_problems(problems: Sequence[str]) -> None:
    """Name damaged or missing records on stderr."""
    for problem in problems:
        print(f"note: {problem}", file=sys.stderr)
