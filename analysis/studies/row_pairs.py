"""Choose the pairs of rows that are compared."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from analysis.studies.row_results import RowRecord
from analysis.studies.selection import report_problems
from wpm.errors import UserError
from wpm.miners import MINERS
from wpm.records import StudyPlace
from wpm.rows import Row

_Pair = tuple[RowRecord, RowRecord]


def choose_pairs(rows: Sequence[RowRecord], names: Sequence[str]) -> list[_Pair]:
    """Return the pairs of rows that two names select, one for each data set and protocol.

    Rows that were searched several times are paired by the number of the search.

    Args:
        rows: rows to choose from.
        names: two names of the form ROW, DATASET/ROW or DATASET/PROTOCOL/ROW.

    Raises:
        UserError: a name selects no row, or no data set has both rows.
    """
    firsts, seconds = ([row for row in rows if _matches(row.place, name)] for name in names)
    for name, found in zip(names, (firsts, seconds), strict=True):
        if not found:
            selected = ", ".join(row.place.name for row in rows)
            raise UserError(f"no row {name} among the selected studies (there are: {selected})")
    both = [(a, b) for a in firsts for b in seconds if a.place.search == b.place.search]
    pairs = [(a, b) for a, b in both if a.place.folder.parent == b.place.folder.parent]
    if not pairs and _are_of_one_set(firsts) and _are_of_one_set(seconds):
        pairs = both  # one data set under two protocols
    pairs = [(a, b) for a, b in pairs if a.place != b.place and a.place.dataset == b.place.dataset]
    if not pairs:
        raise UserError(
            f"{names[0]} and {names[1]} are not two rows of one data set and protocol: "
            "scores on different test images do not compare"
        )
    _name_unpaired(rows, pairs)
    return pairs


def _are_of_one_set(rows: Sequence[RowRecord]) -> bool:
    """Whether rows have one data set and one protocol."""
    return len({row.place.folder.parent for row in rows}) == 1


def _name_unpaired(rows: Sequence[RowRecord], pairs: Sequence[_Pair]) -> None:
    """Name the searches of compared rows that are left out: the other row has none of the number.

    Both searches of a pair have the same seeds, so that only such searches can be paired.
    """
    paired = {row.place for pair in pairs for row in pair}
    compared = {(place.folder.parent, place.row) for place in paired}
    report_problems(
        [
            f"{row.place.name} is left out: the row to compare it with has no search "
            f"{row.place.search} (launch.py --searches {row.place.search} adds it)"
            for row in rows
            if row.place not in paired and (row.place.folder.parent, row.place.row) in compared
        ]
    )


def _matches(place: StudyPlace, name: str) -> bool:
    *where, row = name.split("/")
    parts = {0: [], 1: [place.dataset], 2: [place.dataset, place.protocol]}
    return row == str(place.row) and parts.get(len(where)) == where


def choose_twins(rows: Sequence[RowRecord]) -> list[_Pair]:
    """Return every plain row with each of its twins, the rows with the same loss and a miner.

    Rows that were searched several times are paired by the number of the search.

    Raises:
        UserError: there is no such pair.
    """
    mined: dict[tuple[Path, Row, int], list[RowRecord]] = defaultdict(list)
    for row in rows:
        place = row.place
        if place.row.twin is not None:
            mined[place.folder.parent, place.row.twin, place.search].append(row)
    twins = [
        (row, other)
        for row in rows
        for other in mined[row.place.folder.parent, row.place.row, row.place.search]
    ]
    if not twins:
        selected = ", ".join(row.place.name for row in rows)
        miners = " or ".join(f"+{name}" for name in MINERS)
        raise UserError(f"no row has its {miners} twin among the selected studies ({selected})")
    _name_unpaired(rows, twins)
    return twins
