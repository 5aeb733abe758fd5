"""The options of one launch: what the flags say, typed and frozen."""

import argparse
from dataclasses import dataclass, fields
from pathlib import Path

from wpm.cli.arguments import AUTO, DEFAULT_ROWS
from wpm.errors import UserError
from wpm.protocol_fields import Value
from wpm.protocol_files import default_protocol, find_protocol
from wpm.protocols import Protocol
from wpm.rows import TABLE_ROWS

IMAGE_FOLDER = "folder"  # the data set of images that the user brings


@dataclass(frozen=True)
class LaunchOptions:
    """Every flag of launch.py under its own name; `None` where it was not given.

    `wpm.cli.arguments` describes the flags. Folders are as the user gave them, and may be relative.
    """

    # what to do
    best_only: bool
    doctor: bool
    check_pipeline: bool
    status: bool
    serve: int | None
    watch: float | None
    dry_run: bool
    notify: str | None
    debug: bool
    # which studies
    dataset: str
    data_root: Path | None
    classes_by: str | None
    split: str | None
    same_classes: bool
    fetch: bool
    skip_unreadable: bool
    rows: tuple[str, ...] | None
    protocol: str | None
    settings: tuple[tuple[str, Value], ...]
    trunk: str | None
    precision: str | None
    search_spaces: Path
    weights: str | None
    seed: int
    # search and final runs
    trials: int | None
    searches: int
    runs: int | None
    top: int
    stopping: str | None
    sampler: str | None
    trial_seeds: str
    warm_start: str
    published: bool
    allow_unfinished: bool
    # limits
    max_hours: float | None
    max_hours_per_study: float | None
    max_gpu_hours: float | None
    max_gpu_hours_per_study: float | None
    max_disk: float | None
    # where
    run_root: Path
    work_root: Path
    address: str
    cpus_per_trial: float
    gpus_per_trial: float | str | None

    @classmethod
    def from_arguments(cls, args: argparse.Namespace) -> "LaunchOptions":
        """Take over what the parser of `wpm.cli.arguments` returned."""
        values = {field.name: getattr(args, field.name) for field in fields(cls)}
        rows = None if args.rows is None else tuple(args.rows)
        return cls(**{**values, "rows": rows, "settings": tuple(args.settings)})

    @property
    def row_names(self) -> tuple[str, ...]:
        """The rows as the user wrote them, or the default rows."""
        return self.rows or DEFAULT_ROWS

    @property
    def table_rows(self) -> tuple[str, ...]:
        """The rows with `all` replaced by the rows of the published table, each row once."""
        names = (
            name for given in self.row_names for name in (TABLE_ROWS if given == "all" else [given])
        )
        return tuple(dict.fromkeys(names))

    @property
    def only_fetches(self) -> bool:
        """Whether the launch ends after images and weights are downloaded."""
        return self.fetch and self.rows is None and not self.best_only and not self.check_pipeline

    @property
    def measures_gpus(self) -> bool:
        """Whether a training step is measured to find how many GPUs a trial needs."""
        return self.gpus_per_trial == AUTO

    @property
    def gpus(self) -> float | None:
        """GPUs per trial as the user gave them; None to measure or to use the default."""
        return None if isinstance(self.gpus_per_trial, str) else self.gpus_per_trial

    @property
    def protocols_folder(self) -> Path:
        """Where names of protocols are looked up before the folder that ships."""
        return self.search_spaces / "protocols"

    @property
    def named_protocol(self) -> str | None:
        """The protocol that the user or the data set names; None where the images decide."""
        if self.protocol is None and self.dataset == IMAGE_FOLDER:
            return None
        return self.protocol or default_protocol(self.dataset)

    def protocol_changes(self) -> dict[str, Value]:
        """Return the values that the flags change in the protocol.

        Raises:
            UserError: a field is changed twice.
        """
        flags = (("trunk", self.trunk), ("precision", self.precision))
        given = [(field, value) for field, value in flags if value is not None]
        changes: dict[str, Value] = {}
        for field, value in [*given, *self.settings]:
            if field in changes:
                raise UserError(
                    f"{field} is set twice, to {changes[field]} and to {value}; leave one out"
                )
            changes[field] = value
        return changes

    def find_folds(self, name: str) -> int:
        """Return the folds of a protocol, of which nothing else needs to fit the flags yet."""
        folds = self.protocol_changes().get("folds")
        if isinstance(folds, int):
            return folds
        return find_protocol(name, self.dataset, folder=self.protocols_folder).folds

    def find_protocol(self, name: str) -> Protocol:
        """Return a protocol with the changes that the flags ask for.

        Raises:
            UserError: there is no such protocol, or it or a change breaks a rule.
        """
        return find_protocol(
            name, self.dataset, changes=self.protocol_changes(), folder=self.protocols_folder
        )
