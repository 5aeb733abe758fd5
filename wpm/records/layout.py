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

docs/records.md describes every file.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wpm import __version__
from wpm.errors import FormatError, UserError
from wpm.files import NAME_PATTERN
from wpm.rows import Row

FORMAT = 1  # raise when a reader of the old layout would misread the new


@dataclass(frozen=True)
class StudyPlace:
    """Where the records of a study are."""

    run_root: Path
    dataset: str
    protocol: str
    row: Row

    def __post_init__(self) -> None:
        for part in (self.dataset, self.protocol, str(self.row)):
            if not NAME_PATTERN.fullmatch(part):
                raise UserError(
                    f"{part!r} cannot name a folder under {self.run_root}: "
                    "letters, digits and '_.+-' only"
                )

    @property
    def folder(self) -> Path:
        """The study's folder."""
        return self.run_root / self.dataset / self.protocol / str(self.row)

    @property
    def name(self) -> str:
        """Name in messages and in Optuna's storage."""
        return f"{self.dataset}/{self.protocol}/{self.row}"

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
