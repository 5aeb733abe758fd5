"""Figures of the progress of a search."""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any

from analysis.report_page.theme import (
    BLACK,
    BLUE,
    EDGE_LINE,
    MAP_AT_R,
    ORANGE,
    PUBLISHED_LINE,
    STATE_STYLES,
    Figure,
    axis,
    beside,
    describe_origins,
    percent,
    plain,
    shorten,
    translucent,
    vertical,
)
from analysis.studies.comparison import Comparison
from analysis.studies.histories import Search, TrialHistory
from wpm.protocols import NO_STOPPING, rung_steps
from wpm.records import TrialState

_HOVER = "trial %{customdata}%{text}<br>%{y:.2f} %<extra></extra>"


def best_so_far(search: Search, published: Sequence[float] | None) -> Figure:
    """Return the score of every trial, the best so far, and the best so far as published."""
    data: list[dict[str, Any]] = []
    for state, look in STATE_STYLES.items():
        trials = [t for t in search.in_state(state) if t.outcome.score is not None]
        if trials:
            data.append(
                {
                    "type": "scatter", "mode": "markers", "name": state.for_people,
                    "x": [t.outcome.number + 1 for t in trials],
                    "y": [percent(t.outcome.score) for t in trials],
                    "customdata": [t.outcome.number for t in trials],
                    "text": describe_origins([t.outcome.origin for t in trials]),
                    "marker": {"color": look.colour, "symbol": look.symbol, "size": 8},
                    "hovertemplate": _HOVER,
                }
            )  # fmt: skip
    complete = search.in_state(TrialState.COMPLETE)
    if complete:
        best = list(accumulate((t.outcome.score or 0.0 for t in complete), max))
        last = max(t.outcome.number for t in search.trials)
        data.append(
            _line("best so far", [*(t.outcome.number + 1 for t in complete), last + 1],
                  [*best, best[-1]], color=BLACK, width=2)
        )  # fmt: skip
    if published is not None:
        line = _line("published search", range(1, len(published) + 1), published)
        data.append({**line, "line": {**line["line"], **PUBLISHED_LINE}})
    caption = _describe_best_so_far(search, has_published=published is not None)
    layout = {"xaxis": axis("trials started", rangemode="tozero"), "yaxis": axis(MAP_AT_R)}
    return Figure("Best so far", caption, data, layout)


def _describe_best_so_far(search: Search, *, has_published: bool) -> str:
    sentences = [
        "Points: the best validation MAP@R of every trial, mean over the folds; line: the best "
        "complete trial so far."
    ]
    if known := sum(bool(trial.outcome.origin) for trial in search.trials):
        sentences.append(f"Known before and tried first: {known}; the labels say where from.")
    if search.in_state(TrialState.PRUNED):
        has_fewer = "epochs or folds" if _first_folds(search) else "epochs"
        sentences.append(f"Stopped trials had fewer {has_fewer}.")
    if search.in_state(TrialState.DIVERGED):
        sentences.append("Diverged trials score 0.")
    if failed := len(search.in_state(TrialState.FAILED)):
        sentences.append(f"{failed} failed trials have no score.")
    if has_published:
        sentences.append("Long dashes: the best so far of the published search of this row.")
    else:
        sentences.append("No search of this row was published on this data set and protocol.")
    return " ".join(sentences)


def expected_best(comparison: Comparison) -> Figure | None:
    """Return the best to expect from some trials of two searches, with its interval.

    Where rows have several searches, dotted lines continue it: what as many trials as all searches
    have together would find, in random order.
    """
    data: list[dict[str, Any]] = []
    looks = ((BLUE, "solid"), (ORANGE, "dash"))
    for row, curve, (colour, dash) in zip(comparison.rows, comparison.curves, looks, strict=True):
        if not curve.counts:
            continue
        name = plain(row.name)
        counts = [*curve.counts]
        band = {"mode": "lines", "line": {"width": 0}, "hoverinfo": "skip", "legendgroup": name}
        data += [
            _expectation(f"{name}, low", counts, curve.low, **band, showlegend=False),
            _expectation(f"{name}, 95% interval", counts, curve.high, **band, fill="tonexty",
                         fillcolor=translucent(colour)),
            _expectation(name, counts, curve.expected, mode="lines+markers", legendgroup=name,
                         line={"color": colour, "dash": dash, "width": 2},
                         marker={"color": colour, "size": 5},
                         hovertemplate="%{x} trials<br>%{y:.2f} %"),
        ]  # fmt: skip
        pooled = row.pooled_curve
        if pooled is not None:
            more = [i for i, count in enumerate(pooled.counts) if count >= counts[-1]]
            data.append(
                _expectation(f"{name}, all searches as one", [pooled.counts[i] for i in more],
                             [pooled.expected[i] for i in more], mode="lines", legendgroup=name,
                             line={"color": colour, "dash": "dot", "width": 2},
                             hovertemplate="%{x} trials<br>%{y:.2f} %")
            )  # fmt: skip
    if not data:
        return None
    layout = {"xaxis": axis("trials", rangemode="tozero"), "yaxis": axis(f"expected {MAP_AT_R}")}
    return Figure(comparison.name, _describe_expected(comparison), data, layout)


def _expectation(
    name: str, counts: Sequence[int], fractions: Sequence[float], **style: Any
) -> dict[str, Any]:
    values = [percent(value) for value in fractions]
    return {"type": "scatter", "name": name, "x": [*counts], "y": values, **style}


def _describe_expected(comparison: Comparison) -> str:
    searches = len(comparison.first.searches)
    caption = "The best validation MAP@R to expect from so many trials in random order. Bands: "
    if searches == 1:
        return f"{caption}95% intervals over the trials of one search; another is not in them."
    return (
        f"{caption}95% intervals over {searches} searches (Student t). Dotted: what all of their "
        "trials as one search would find."
    )


def progress_by_hours(comparison: Comparison) -> Figure | None:
    """Return the best so far of two searches, against the device-hours spent."""
    data: list[dict[str, Any]] = []
    for row, curve, colour, dash in zip(
        (comparison.first, comparison.second), comparison.curves, (BLUE, ORANGE), ("solid", "dash"),
        strict=True,
    ):  # fmt: skip
        found = [(h, b) for h, b in zip(curve.hours, curve.best, strict=True) if b]
        if found:
            hours, best = zip(*found, strict=True)
            line = _line(
                plain(row.name), [shorten(h) for h in hours], best, color=colour, dash=dash
            )
            data.append({**line, "hovertemplate": "%{x} device-hours<br>%{y:.2f} %"})
    if not data:
        return None
    layout = {"xaxis": axis("device-hours", rangemode="tozero"), "yaxis": axis(MAP_AT_R)}
    caption = (
        "Best validation MAP@R of a complete trial so far, against the device-hours of all trials "
        "until then, including failed and stopped ones."
    )
    if len(comparison.first.searches) > 1:
        caption += f" Both are means over {len(comparison.first.searches)} searches."
    return Figure(comparison.name, caption, data, layout, height=320)


def _line(
    name: str, x: Sequence[float], fractions: Sequence[float], **style: Any
) -> dict[str, Any]:
    """Return a line of steps, in percent."""
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": list(x),
        "y": [percent(value) for value in fractions], "line": {"shape": "hv", **style},
        "hovertemplate": "%{x} trials<br>%{y:.2f} %",
    }  # fmt: skip


def learning_curves(search: Search) -> Figure | None:
    """Return the best validation MAP@R so far against the epoch, by outcome, with the rungs.

    Where some folds train first, it is against the step, which counts the epochs of the others on.
    """
    data = []
    best, first = search.best, _first_folds(search)
    counted = "step" if first else "epoch"
    for state, look in STATE_STYLES.items():
        trials = [t for t in search.in_state(state) if t.curve and t is not best]
        if trials:
            style = {"color": look.colour, "width": 1.2, "dash": look.dash}
            data.append(_curves(state.for_people, trials, style, counted))
    if best and best.curve:
        style = {"color": BLACK, "width": 3}
        data.append(_curves(f"best: trial {best.outcome.number}", [best], style, counted))
    if not data:
        return None
    rungs = _rungs(search)
    protocol = search.identity["protocol"]
    x_axis = f"step (epochs of {first} of {protocol['folds']} folds, then of the others)"
    layout = {
        "xaxis": axis(x_axis if first else counted, rangemode="tozero"),
        "yaxis": axis("best so far, validation MAP@R, %"),
        "shapes": [vertical(epoch, EDGE_LINE) for epoch in rungs],
        "annotations": [beside(epoch, f"rung {epoch}", top=False) for epoch in rungs],
    }
    caption = "Each line is a trial: the mean over folds of their best validation MAP@R so far."
    if rungs:
        caption += f" Dotted: {counted}s at which successive halving compares trials."
    if first:
        caption += (
            f" After step {protocol['max_epochs']} the other folds train, so a mean may jump there."
        )
    return Figure("Learning curves", caption, data, layout, height=420)


def _curves(
    name: str, trials: Sequence[TrialHistory], line: dict[str, Any], counted: str
) -> dict[str, Any]:
    """Return the curves of several trials as one trace, with gaps between them.

    Args:
        counted: what their x counts, "epoch" or "step".
    """
    x: list[int | None] = []
    y: list[float | None] = []
    numbers: list[int | None] = []
    for trial in trials:
        for epoch, score in _corners(trial.curve):
            x.append(epoch)
            y.append(percent(score))
            numbers.append(trial.outcome.number)
        x.append(None)
        y.append(None)
        numbers.append(None)
    return {
        "type": "scatter", "mode": "lines", "name": name, "x": x, "y": y, "customdata": numbers,
        "line": line, "hovertemplate": f"trial %{{customdata}}, {counted} %{{x}}<br>%{{y:.2f}} %",
    }  # fmt: skip


def _corners(curve: Sequence[tuple[int, float]]) -> Iterator[tuple[int, float]]:
    """Leave out points within a level stretch: the line stays the same, the page gets smaller."""
    for i, (epoch, score) in enumerate(curve):
        inner = 0 < i < len(curve) - 1
        if not (inner and curve[i - 1][1] == score == curve[i + 1][1]):
            yield epoch, score


def _first_folds(search: Search) -> int:
    """Return how many folds of a trial train first, 0 where all train in lockstep."""
    return int(search.identity["protocol"]["first_folds"])


def _rungs(search: Search) -> list[int]:
    """Return the steps at which the search compares trials."""
    protocol = search.identity["protocol"]
    names = {"grace_epochs", "reduction_factor", "max_epochs"}
    stopping = search.identity.get("stopping", NO_STOPPING)
    if stopping == NO_STOPPING or not names <= protocol.keys():
        return []
    return list(rung_steps(protocol))


def timeline(search: Search) -> Figure | None:
    """Return when every trial ran, by outcome.

    Optuna's own timeline would show the UTC times of the records as local times.
    """
    starts = [t.started for t in search.trials if t.started]
    if not starts:
        return None
    latest = max([t.ended for t in search.trials if t.ended] or starts)
    data = []
    for state, look in STATE_STYLES.items():
        spans = [
            (t.outcome.number, t.started, (t.ended or latest) - t.started)
            for t in search.in_state(state)
            if t.started
        ]
        if spans:
            data.append(
                {
                    "type": "bar", "orientation": "h", "name": state.for_people,
                    "base": [start.strftime("%Y-%m-%d %H:%M:%S") for _, start, _ in spans],
                    "x": [max(1000, int(1000 * span.total_seconds())) for _, _, span in spans],
                    "y": [number for number, _, _ in spans], "width": 0.8,
                    "marker": {
                        "color": look.colour, "line": {"width": 0.5, "color": "white"},
                        "pattern": {"shape": look.pattern, "fillmode": "overlay", "size": 5,
                                    "fgcolor": "white"},
                    },
                    "hovertemplate": "trial %{y}, from %{base} UTC",
                }
            )  # fmt: skip
    layout = {
        "xaxis": axis("time, UTC", type="date"),
        "yaxis": axis("trial", autorange="reversed"),
        "barmode": "overlay",
    }
    caption = (
        "When every trial ran, from its start to its end. A trial that an interrupted launch "
        "suspended resumes in the next launch; its bar covers the pause."
    )
    height = min(700, max(260, 140 + 7 * len(search.trials)))
    return Figure("Timeline", caption, data, layout, height=height)
