"""Stage `sum`: GPU-hours of the published table, from the figures of the stages before."""

import json

from benchmarks.gpu.batches import CACHED, DECODED
from benchmarks.gpu.figures import Stage, find_value
from benchmarks.gpu.graphs import MINED_GRAPH, PLAIN_GRAPH
from benchmarks.gpu.steps import FAST, LOW_MEMORY, PLAIN, PUBLISHED_MINED, PUBLISHED_PLAIN
from benchmarks.gpu.trials import EPOCHS
from benchmarks.table_cost import STOPPING, Procedure

_TRIALS = "plain trials, {}, {} at once"


def run(stage: Stage) -> None:
    """Add up what was measured; say what is missing."""
    for precision in ("float32", "tf32", "bf16"):
        what = f"the complete table, {EPOCHS} epochs a trial"
        with stage.attempt(what, precision=precision):
            add_up(stage, what, precision)


def add_up(stage: Stage, what: str, precision: str) -> None:
    """Record device-hours as published, always in float32, and ours in one precision.

    Ours count eager steps; what a graph makes of a step is recorded beside.
    """
    try:
        published = Procedure(
            _require(stage, "images", DECODED),
            _require(stage, "step", PUBLISHED_PLAIN, "float32"),
            _require(stage, "step", PUBLISHED_MINED, "float32"),
        )
        ours = Procedure(
            _require(stage, "images", CACHED),
            _require(stage, "step", PLAIN, precision),
            min(_require(stage, "step", way, precision) for way in (FAST, LOW_MEMORY)),
            together=_best_together(stage),
            stopping=float(json.loads(STOPPING.read_text(encoding="utf-8"))["factor"]),
        )
    except LookupError as error:
        stage.skip(what, str(error), precision=precision)
        return
    protocol = stage.protocol()
    hours = [sum(way.hours(protocol, EPOCHS).values()) for way in (published, ours)]
    if precision == "float32":
        stage.record(f"{what}, as published", hours[0], "device-hours", precision=precision)
    stage.record(f"{what}, ours", hours[1], "device-hours", precision=precision)
    stage.record(f"{what}, times cheaper", hours[0] / hours[1], "x", precision=precision)
    for graph, eager in ((PLAIN_GRAPH, PLAIN), (MINED_GRAPH, FAST)):
        captured = find_value(stage.out, "graphs", graph, "s", precision)
        if captured is not None:
            faster = _require(stage, "step", eager, precision) / captured
            stage.record(f"{graph}, of {eager}", faster, "x as fast", precision=precision)


def _require(stage: Stage, source: str, what: str, precision: str = "") -> float:
    value = find_value(stage.out, source, what, "s", precision)
    if value is None:
        raise LookupError(f"not measured: {what}")
    return value


def _best_together(stage: Stage) -> float:
    """Return by how much more trials end where the best number of processes shares the device."""
    names = [_TRIALS.format(stage.trunk, count) for count in (1, 2, 4, 8)]
    rates = [find_value(stage.out, "folds", name, "trials an hour", "float32") for name in names]
    if rates[0] is None:
        raise LookupError(f"not measured: {names[0]}")
    return max(rate for rate in rates if rate is not None) / rates[0]
