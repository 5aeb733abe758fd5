"""The look of the figures. Colour-blind people can read them, also in black and white.

Every difference in colour is also a difference in symbol, dash or pattern.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

from wpm.records import TrialState

# Okabe and Ito's palette: its colours differ under all common colour vision deficiencies.
BLUE, ORANGE, GREEN, VERMILION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, BLACK, GREY = "#56B4E9", "#CC79A7", "#1a1a1a", "#8a8a8a"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star", "cross", "triangle-down",
           "pentagon", "hourglass", "bowtie")  # fmt: skip
# The lightness falls evenly, and black labels are readable on all colours.
COLOUR_SCALE = ((0.0, "#ffffff"), (1.0, "#4292c6"))
BEST = {"symbol": "star", "size": 14, "color": BLACK, "line": {"color": "white", "width": 1}}
MAP_AT_R = "validation MAP@R, %"
EDGE_LINE = {"color": GREY, "width": 1, "dash": "dot"}
PUBLISHED_LINE = {"color": GREEN, "width": 2, "dash": "longdash"}


@dataclass(frozen=True)
class StateStyle:
    """How trials in one state are drawn."""

    colour: str
    symbol: str
    dash: str
    pattern: str


STATE_STYLES: Mapping[TrialState, StateStyle] = {
    TrialState.COMPLETE: StateStyle(BLUE, "circle", "solid", ""),
    TrialState.PRUNED: StateStyle(VERMILION, "diamond-open", "dash", "/"),
    TrialState.DIVERGED: StateStyle(ORANGE, "cross", "longdashdot", "+"),
    TrialState.RUNNING: StateStyle(PURPLE, "triangle-up-open", "dashdot", "."),
    TrialState.WAITING: StateStyle(GREEN, "square-open", "longdash", "-"),
    TrialState.FAILED: StateStyle(BLACK, "x", "dot", "x"),
}


@dataclass(frozen=True)
class Figure:
    """A plot for plotly.js.

    Attributes:
        title: one line above the plot.
        caption: what the plot shows; screen readers read it too.
        data: the traces.
        layout: axes and more; what all figures share is in templates/page.js.
        height: height in pixels.
    """

    title: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any] = field(default_factory=dict)
    height: int = 380


def plain(text: object) -> str:
    """Escape a text, because plotly interprets some HTML in every label."""
    return escape(str(text), quote=False)


def describe_origins(origins: Sequence[str]) -> list[str]:
    """Return what labels of trials say about where their configurations were known from."""
    return [f" ({plain(origin)})" if origin else "" for origin in origins]


def translucent(colour: str) -> str:
    """Return a colour of the palette for an area behind lines."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def percent(fraction: float | None) -> float | None:
    """Convert a fraction to percent, with the digits that a plot can show."""
    return None if fraction is None else round(100 * fraction, 3)


def shorten(value: float) -> float:
    """Round a value to the digits that a plot can show."""
    return float(f"{value:.5g}")


def marker_of(position: int, **more: Any) -> dict[str, Any]:
    """Return the n-th marker; the next one differs in both colour and symbol."""
    colour, symbol = COLOURS[position % len(COLOURS)], SYMBOLS[position % len(SYMBOLS)]
    return {"color": colour, "symbol": symbol, **more}


def axis(title: str, **more: Any) -> dict[str, Any]:
    """Return an axis with a title."""
    return {"title": {"text": plain(title)}, **more}


def vertical(x: float, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return a vertical line at a position of the x axis."""
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": line}


def beside(x: float, text: str, *, top: bool) -> dict[str, Any]:
    """Return a label to the right of a position of the x axis; on a log axis `x` is the log."""
    return {
        "x": x, "y": 1 if top else 0, "yref": "paper", "yanchor": "top" if top else "bottom",
        "xanchor": "left", "text": plain(text), "showarrow": False, "font": {"size": 11},
        "bgcolor": "rgba(255,255,255,0.7)", "borderpad": 1,
    }  # fmt: skip
