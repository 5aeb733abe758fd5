"""Where the records of a study lie in the run folder, and their format.

    runs/<dataset>/<protocol>/<row>/
        study.json               what was searched: space, protocol, data, budget, provenance
        study.journal            Optuna's storage: the search's only memory
        study.lock               held by the one launch that runs the study
        trials/0007/trial.json   one configuration, written before it starts
                    reports.json history so far, and which checkpoint belongs to it
                    checkpoint-12.pt
                    result.json  how it ended
                    train.log, events.out.tfevents.*  for people: never read back
        finals/<configuration>/  one of the best configurations, trained again
            final.json           which trial it came from
            seed-1000/fold-0/    the same files as of a trial, and model-fold-0.safetensors
            seed-1000/result.json test scores
        test_access.jsonl        a line for every time that test images were opened
    runs/<dataset>/<protocol>/<row>.search-2/
        ...                      the same of the second search of the row, and so on

docs/records.md describes every file.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from wpm import __version__
from wpm.errors import FormatError, UserError
from wpm.files import NAME_PATTERN
from wpm.rows import Row

FORMAT = 1  # raise when a reader of the old layout would misread the new
# The first search has the row's own name, as all had before a row could have several.
_FURTHER_SEARCH = re.compile(r"(?P<row>.+)\.search-(?P<search>[2-9]|[1-9][0-9]+)")


def label_search(row: str, search: int) -> str:
    """Name a search of a row, as its folder is named."""
    return row if search == 1 else f"{row}.search-{search}"


@dataclass(frozen=True)
class StudyPlace:
    """Where the records of a study are.

    Attributes:
        search: which of the independent searches of the row the study is, from 1.
    """

    run_root: Path
    dataset: str
    protocol: str
    row: Row
    search: int = 1

    def __post_init__(self) -> None:
        if self.search < 1:
            raise UserError(f"search {self.search} of row {self.row}: searches are counted from 1")
        for part in (self.dataset, self.protocol, str(self.row)):
            if not NAME_PATTERN.fullmatch(part):
                raise UserError(
                    f"{part!r} cannot name a folder under {self.run_root}: "
                    "letters, digits and '_.+-' only"
                )

    @classmethod
    def from_label(cls, run_root: Path, dataset: str, protocol: str, label: str) -> Self:
        """Return the place of a study by the name of its folder; the inverse of `label`.

        Raises:
            UserError: it is not the name of a row or of a further search of one.
        """
        match = _FURTHER_SEARCH.fullmatch(label)
        row, search = (label, 1) if match is None else (match["row"], int(match["search"]))
        return cls(run_root, dataset, protocol, Row.parse(row), search)

    @property
    def label(self) -> str:
        """The row, and which search it is unless it is the first: `contrastive.search-2`."""
        return label_search(str(self.row), self.search)

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.run_root / self.dataset / self.protocol / self.label

    @property
    def name(self) -> str:
        """Name in messages and in Optuna's storage."""
        return f"{self.dataset}/{self.protocol}/{self.label}"

    @property
    def order(self) -> tuple[str, str, str, int]:
        """A sort key: by data set, protocol and row, then the searches of a row by number."""
        return self.dataset, self.protocol, str(self.row), self.search

    @property
    def journal(self) -> Path:
        """Optuna's storage."""
        return self.folder / "study.journal"

    @property
    def lock(self) -> Path:
        """Lock of the launch that runs the study."""
        return self.folder / "study.lock"

    def trial_folder(self, number: int) -> Path:
        """Folder of a trial."""
        return self.folder / "trials" / f"{number:04d}"


def check_format(content: Mapping[str, Any], path: Path) -> None:
    """Refuse records of another layout.

    Raises:
        FormatError: names the version that wrote them.
    """
    if content.get("format") != FORMAT:
        writer = content.get("wpm") or content.get("provenance", {}).get("wpm", "another version")
        raise FormatError(
            f"{path}: written by wpm {writer} in record format {content.get('format')}, this is "
            f"wpm {__version__} with format {FORMAT}; use that version, or another --run-root"
        )


@contextmanager
def refuse_unexpected(path: Path) -> Iterator[None]:
    """Name the file whose content cannot be read: it is intact, but a key or value is not known.

    Raises:
        FormatError: names the file and what is missing.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(
            f"{path}: its content is not as expected ({type(error).__name__}: {error}); read it "
            "with the version that wrote it"
        ) from error


def configuration_key(parameters: Mapping[str, float]) -> str:
    """Name a configuration by its values."""
    body = json.dumps(dict(parameters), sort_keys=True)
    return hashlib.sha256(body.encode()).hexdigest()[:12]


def sorted_folders(parent: Path) -> list[Path]:
    """Return the folders in a folder, by name; none where it does not exist."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if path.is_dir())
