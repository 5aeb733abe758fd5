"""Choose the pairs of rows that are compared."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from analysis.studies.row_searches import RowSearches
from wpm.errors import UserError
from wpm.miners import MINERS
from wpm.records import StudyPlace
from wpm.rows import Row

_Pair = tuple[RowSearches, RowSearches]


def choose_pairs(rows: Sequence[RowSearches], names: Sequence[str]) -> list[_Pair]:
    """Return the pairs of rows that two names select, one for each data set and protocol.

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
    pairs = [
        (a, b) for a in firsts for b in seconds if a.place.folder.parent == b.place.folder.parent
    ]
    if not pairs and len(firsts) == len(seconds) == 1:  # one data set under two protocols
        pairs = [(firsts[0], seconds[0])]
    pairs = [(a, b) for a, b in pairs if a is not b and a.place.dataset == b.place.dataset]
    if not pairs:
        raise UserError(
            f"{names[0]} and {names[1]} are not two rows of one data set and protocol: "
            "scores on different test images do not compare"
        )
    return pairs


def _matches(place: StudyPlace, name: str) -> bool:
    *where, row = name.split("/")
    parts = {0: [], 1: [place.dataset], 2: [place.dataset, place.protocol]}
    return row == str(place.row) and parts.get(len(where)) == where


def choose_twins(rows: Sequence[RowSearches]) -> list[_Pair]:
    """Return every plain row with each of its twins, the rows with the same loss and a miner.

    Raises:
        UserError: there is no such pair.
    """
    mined: dict[tuple[Path, Row], list[RowSearches]] = defaultdict(list)
    for row in rows:
        if row.place.row.twin is not None:
            mined[row.place.folder.parent, row.place.row.twin].append(row)
    twins = [
        (row, other) for row in rows for other in mined[row.place.folder.parent, row.place.row]
    ]
    if not twins:
        selected = ", ".join(row.place.name for row in rows)
        miners = " or ".join(f"+{name}" for name in MINERS)
        raise UserError(f"no row has its {miners} twin among the selected studies ({selected})")
    return twins
