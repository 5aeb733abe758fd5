"""How the figures look: readable in black and white, and by the colour-blind.

Every difference that a colour shows, a symbol, a dash or a pattern shows as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Any

from wpm.records import TrialState

# Okabe and Ito's palette, which stays apart under all common colour vision deficiencies.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#1a1a1a", "#8a8a8a"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down",
           "pentagon", "hourglass", "bowtie")  # fmt: skip
# Lightness falls evenly, and black labels can be read on all of it.
COLOUR_SCALE = ((0.0, "#ffffff"), (1.0, "#4292c6"))
BEST = {"symbol": "star", "size": 14, "color": BLACK, "line": {"color": "white", "width": 1}}
MAP_AT_R = "validation MAP@R, %"
EDGE_LINE = {"color": GREY, "width": 1, "dash": "dot"}
PUBLISHED_LINE = {"color": GREEN, "width": 2, "dash": "longdash"}


@dataclass(frozen=True)
class StateStyle:
    """How the trials in a state are drawn."""

    colour: str
    symbol: str
    dash: str
    pattern: str


STATE_STYLES: Mapping[TrialState, StateStyle] = {
    TrialState.COMPLETE: StateStyle(BLUE, "circle", "solid", ""),
    TrialState.PRUNED: StateStyle(VERMILION, "diamond-open", "dash", "/"),
    TrialState.RUNNING: StateStyle(PURPLE, "triangle-up-open", "dashdot", "."),
    TrialState.FAILED: StateStyle(BLACK, "x", "dot", "x"),
}


@dataclass(frozen=True)
class Figure:
    """A plot for plotly.js.

    Attributes:
        title: one line, above it.
        caption: what is seen, for those who look and those who have it read out.
        data: traces.
        layout: axes and more; what all figures share is in templates/page.js.
        height: pixels.
    """

    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 380


def plain(text: object) -> str:
    """Return text that plotly shows as it is: it reads a little HTML in every label."""
    return escape(str(text), quote=False)


def percent(fraction: float | None) -> float | None:
    """Return percent with as many digits as a plot can show."""
    return None if fraction is None else round(100 * fraction, 3)


def shorten(value: float) -> float:
    """Return a value with as many digits as a plot can show."""
    return float(f"{value:.5g}")


def marker_of(position: int, **more: Any) -> dict[str, Any]:
    """Return a marker for the n-th of many things: colour and symbol differ together."""
    colour, symbol = COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)]
    return {"color": colour, "symbol": symbol, **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": plain(title)}, **more}


def vertical(x: float, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line from bottom to top at a place of the x axis."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def beside(x: float, text: str, *, top: bool) -> dict[str, Any]:
    """Return a label to the right of a line at a place of the x axis; on a log axis its log."""
    return {
        "x": x, "y": 1 if top else 0, "yref": "paper", "yanchor": "top" if top else "bottom",
        "xanchor": "left", "text": plain(text), "showarrow": False, "font": {"size": 11},
        "bgcolor": "rgba(255,255,255,0.7)", "borderpad": 1,
    }  # fmt: skip
