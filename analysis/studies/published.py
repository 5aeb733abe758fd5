"""Read the published numbers in `published/`, to compare ours with them."""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import cache
from pathlib import Path

from wpm.miners import WITHIN_PAIR
from wpm.rows import Row

PUBLISHED = "published"
PROTOCOL = "mlrc"  # the protocol of the published numbers
DIMENSIONS = {"concatenated": 512, "separated": 128}  # dimensions of the published embeddings

Scores = Mapping[tuple[str, str], float]  # fractions, by view and metric

_FOLDER = Path(__file__).parents[1] / "published"
_PREFIXES = {"cub200": "cub", "cars196": "cars"}
_VIEWS = {"concatenated": "concat", "separated": "sep"}
_METRICS = {"precision_at_1": "p1", "r_precision": "rp", "map_at_r": "mapr"}


def add_against(parser: argparse.ArgumentParser, what: str) -> None:
    """Add the flag that compares with published numbers."""
    parser.add_argument("--against", choices=[PUBLISHED], help=what)


@cache
def read_scores(dataset: str, protocol: str) -> Mapping[str, Scores]:
    """Return the published test scores by row, in the published order; empty if there are none."""
    prefix = _PREFIXES.get(dataset)
    if prefix is None or protocol != PROTOCOL:
        return {}
    with (_FOLDER / "results.csv").open(newline="", encoding="utf-8") as file:
        return {
            _row_of(line): {
                (view, metric): _fraction(line[f"{prefix}_{short_view}_{short_metric}"])
                for view, short_view in _VIEWS.items()
                for metric, short_metric in _METRICS.items()
            }
            for line in csv.DictReader(file)
        }


def _row_of(line: Mapping[str, str]) -> str:
    mined = line["within_pair_mining"] == "yes"
    return str(Row(line["row"], WITHIN_PAIR if mined else None))


def read_trace(dataset: str, protocol: str, row: str) -> Sequence[float] | None:
    """Return the best validation MAP@R after each trial of the published search.

    Returns:
        Fractions, one for each number of trials from 1; None if no such search was published.
    """
    if protocol != PROTOCOL:
        return None
    return _read_traces().get(dataset, {}).get(row)


@cache
def _read_traces() -> Mapping[str, Mapping[str, Sequence[float]]]:
    traces: dict[str, dict[str, list[float]]] = json.loads(
        (_FOLDER / "search_traces.json").read_text(encoding="utf-8")
    )
    return traces


def _fraction(percent: str) -> float:
    return float(Decimal(percent) / 100)  # exact division, so that the value is rounded only once
