"""Find what a study does otherwise than the published procedure, from its records alone."""

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from analysis.studies.published import PROTOCOL
from analysis.studies.row_record import RowRecord
from wpm.procedure import PROCEDURE
from wpm.protocol_files import find_protocol, read_protocol
from wpm.protocols import NO_STOPPING
from wpm.rows import TABLE_ROWS, Row

MLRC = "MLRC"
SOURCES = {
    "mlrc.toml": "search_spaces/protocols/mlrc.toml, the published protocol as it is written here",
    MLRC: "Musgrave, Belongie, Lim: A Metric Learning Reality Check, ECCV 2020, and its code",
    "protocol.md": "docs/protocol.md, which says what the number of a procedure means",
    "search_ranges.csv": "analysis/published/search_ranges.csv, the ranges of MLRC's searches",
}

_NOT_SEARCHED = "not searched"
_PUBLISHED = Path(__file__).parents[1] / "published"
# Defaults of a protocol that a study replaces by what it does, and records elsewhere.
_DEFAULTS_ONLY = ("name", "trials", "runs", "stopping")
_HALVING = ("grace_epochs", "reduction_factor")
_OF_VIEWS = ("trunk_passes", "embedding_masks")
# All that the row without training depends on.
_UNTRAINED = ("trunk", "embedding_dim", "resize", "crop", "folds", "precision")
# Fields whose own name does not say enough; the others are read with spaces for underscores.
_NAMES = {
    "resize": "shorter side of images, px",
    "crop": "side of crops, px",
    "crop_scale": "share of the area that a random crop covers",
    "crop_ratio": "width / height of a random crop",
    "flip": "probability of a horizontal flip",
    "embedding_dim": "dimensions of an embedding",
    "loss_weight_decay": "weight decay of a loss's own parameters",
    "iterations_per_epoch": "steps in an epoch",
    "validation_interval": "epochs between validations",
    "patience": "patience in epochs",
    "max_epochs": "epochs at most",
    "folds": "folds of cross-validation",
    "first_folds": "folds of a trial that train before the others",
    "trunk_passes": "trunk passes T of a view",
    "embedding_masks": "embedding masks K of a pass",
}
# Parts of a study's identity, by their key: name for people, and the published value.
_IDENTITY = {
    "sampler": ("search by", "gp", "Gaussian process (Ax)"),
    "trial_seeds": ("training seeds of trials", "new", "new for each trial"),
}


@dataclass(frozen=True)
class Deviation:
    """One thing that is not as published.

    Attributes:
        what: for people.
        here: what the study's records say.
        published: what was published.
        source: a key of `SOURCES`.
    """

    what: str
    here: str
    published: str
    source: str


def find_deviations(row: RowRecord) -> list[Deviation]:
    """Return everything that the records of a study show to be otherwise than published."""
    return [
        *_compare_data(row),
        *_compare_protocol(row),
        *_compare_identity(row),
        *_compare_ranges(row),
        *_compare_budgets(row),
    ]


def _compare_data(row: RowRecord) -> Iterator[Deviation]:
    place = row.place
    published = list(read_protocol(PROTOCOL)[-1].datasets)
    if place.dataset not in published:
        yield Deviation("data set", place.dataset, ", ".join(published), MLRC)
    plain = Row(place.row.loss)
    if str(plain) not in TABLE_ROWS:
        yield Deviation("row", str(place.row), "no such row", MLRC)
    if row.left_out:
        yield Deviation("images to train on", f"without {row.left_out}", "all", MLRC)
    if row.finals and row.finals.left_out:
        yield Deviation("test images", f"without {row.finals.left_out}", "all", MLRC)
    if not place.row.is_trained:
        yield Deviation(
            "reduction of features", "PCA of the trainval features",
            "standardised, PCA of the test features", MLRC,
        )  # fmt: skip


def _compare_protocol(row: RowRecord) -> Iterator[Deviation]:
    """Compare every recorded field with the published protocol, so that new fields are covered."""
    published = json.loads(json.dumps(asdict(find_protocol(PROTOCOL, row.place.dataset))))
    ignored = {*_DEFAULTS_ONLY, *_HALVING, *(() if row.place.row.miner else _OF_VIEWS)}
    for field, value in row.identity.get("protocol", {}).items():
        concerns = row.place.row.is_trained or field in _UNTRAINED
        if concerns and field not in ignored and value != published.get(field):
            yield Deviation(
                name_field(field), _write(value), _write(published.get(field)), "mlrc.toml"
            )


def name_field(field: str) -> str:
    """Return a protocol field's name for people."""
    return _NAMES.get(field, field.replace("_", " "))


def _compare_identity(row: RowRecord) -> Iterator[Deviation]:
    identity, protocol = row.identity, row.identity.get("protocol", {})
    if identity.get("weights") == "random":
        yield Deviation("weights of the trunk", "random", "ImageNet", MLRC)
    if identity.get("split"):
        yield Deviation("split of classes", "the user's own", "halves of the classes", MLRC)
    if row.place.row.is_trained and row.procedure != PROCEDURE:
        yield Deviation("training procedure", str(row.procedure), str(PROCEDURE), "protocol.md")
    if not _is_searched(row):
        return
    if row.stopping != NO_STOPPING:
        rungs = [str(protocol.get(field, "?")) for field in _HALVING]
        here = f"{row.stopping} from epoch {rungs[0]}, factor {rungs[1]}"
        yield Deviation("stopping across trials", here, "none", MLRC)
    if row.known:
        yield Deviation("tried first", f"{row.known} known configurations", "nothing", MLRC)
    for key, (what, same, published) in _IDENTITY.items():
        if identity.get(key, same) != same:
            yield Deviation(what, str(identity[key]), published, MLRC)


def _is_searched(row: RowRecord) -> bool:
    """Whether the row's configuration comes from the search of this study."""
    return row.place.row.is_trained and (row.finals is None or isinstance(row.finals.trial, int))


def _compare_ranges(row: RowRecord) -> Iterator[Deviation]:
    """Compare the loss's ranges; the miner's were not published."""
    if not _is_searched(row):
        return
    searched: Mapping[str, Any] = row.identity.get("searched", {})
    published = _read_ranges(row.place.dataset).get(row.place.row.loss, {})
    for name, theirs in published.items():
        ours = _describe_range(searched[name]) if name in searched else _NOT_SEARCHED
        if searched and ours != theirs:
            yield Deviation(f"range of {name}", ours, theirs, "search_ranges.csv")


@cache
def _read_ranges(dataset: str) -> Mapping[str, Mapping[str, str]]:
    """Return the published ranges of a data set in words, by row and parameter."""
    ranges: dict[str, dict[str, str]] = {}
    general = {(line["row"], line["parameter"]): line for line in _read_lines("search_ranges.csv")}
    own = [line for line in _read_lines("dataset_ranges.csv") if line["dataset"] == dataset]
    lines = general | {
        (line["row"], line["parameter"]): {**general[line["row"], line["parameter"]], **line}
        for line in own
    }
    for (row, parameter), line in lines.items():
        ranges.setdefault(row, {})[parameter] = (
            _describe_range(line) if line["low"] else _NOT_SEARCHED
        )
    return ranges


def _read_lines(name: str) -> list[dict[str, str]]:
    with (_PUBLISHED / name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _describe_range(bounds: Mapping[str, Any]) -> str:
    text = f"{float(bounds['low']):g} to {float(bounds['high']):g}, {bounds['scale']}"
    return f"{text}, whole" if bounds["type"] == "int" else text


def _compare_budgets(row: RowRecord) -> Iterator[Deviation]:
    if not row.place.row.is_trained:
        return
    published = find_protocol(PROTOCOL, row.place.dataset)
    if not _is_searched(row):
        yield Deviation(
            "search", "none: a published configuration", f"{published.trials} trials", MLRC
        )
    elif len(row.ended) != published.trials:
        yield Deviation("trials", str(len(row.ended)), str(published.trials), MLRC)
    if row.finals and len(row.finals.tested) != published.runs:
        yield Deviation("final runs", str(len(row.finals.tested)), str(published.runs), MLRC)


def _write(value: Any) -> str:
    if value is None:
        return "no such value"
    if isinstance(value, list):
        return " to ".join(map(_write, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
