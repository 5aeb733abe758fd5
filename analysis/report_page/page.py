"""Lay out the page: one HTML file that contains its sections, its data and plotly.js."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from analysis.report_page import overview
from analysis.report_page.overview import StudyFacts, TableSection, collect_facts
from analysis.report_page.study_section import read_section
from analysis.report_page.theme import Figure
from analysis.studies.row_results import read_row
from wpm import __version__
from wpm.errors import UserError
from wpm.records import StudyPlace

if TYPE_CHECKING:
    import jinja2
    from markupsafe import Markup

_TEMPLATES = Path(__file__).parent / "templates"
_MOST_OPEN = 8  # with more studies than this, their sections start closed

_T = TypeVar("_T")


@dataclass
class Collected:
    """What has been read of the studies so far.

    Attributes:
        facts: what the overview shows of each readable study.
        sections: the HTML of each readable study.
        problems: one line for each damaged or missing record.
    """

    facts: list[StudyFacts] = field(default_factory=list)
    sections: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def build_page(
    places: Sequence[StudyPlace], embeddings: Path, missing: Sequence[str], selection: str
) -> tuple[str, list[str]]:
    """Lay out the report.

    Studies are read one after the other, and only what the page shows of each stays in memory.

    Args:
        places: at least one study.
        embeddings: folder that `analysis.embed` wrote; it need not exist.
        missing: one line for each name that was asked for and has no study.
        selection: the command that writes this page, for its head.

    Returns:
        The page, and one line for each damaged or missing record.

    Raises:
        UserError: none of the studies can be read.
    """
    collected = Collected(problems=list(missing))
    for place in places:
        try:
            _add_study(collected, place, embeddings, is_open=len(places) <= _MOST_OPEN)
        except UserError as error:
            collected.problems.append(str(error))
    if not collected.facts:
        lines = "; ".join(collected.problems[:3])
        raise UserError(f"none of the {len(places)} selected studies can be read: {lines}")
    return _lay_out_page(collected, selection), collected.problems


def _add_study(collected: Collected, place: StudyPlace, embeddings: Path, *, is_open: bool) -> None:
    row, problems = read_row(place)
    section, more_problems = read_section(place, embeddings)
    collected.facts.append(collect_facts(row, section))
    collected.sections.append(render("study.html", section=section, is_open=is_open))
    collected.problems += dict.fromkeys([*problems, *more_problems])


def _lay_out_page(collected: Collected, selection: str) -> str:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    facts, rows = collected.facts, [fact.row for fact in collected.facts]
    parts: list[TableSection] = []
    for make in (overview.results, overview.validity):
        parts += _attempt(partial(make, rows), collected.problems)
    comparisons = _attempt(partial(overview.compare_twins, rows), collected.problems)
    parts += _attempt(partial(overview.progress, comparisons), collected.problems)
    return render(
        "page.html",
        title=_title(rows[0].place, len(rows)),
        selection=selection,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        version=__version__,
        problems=collected.problems,
        run=overview.describe_run(facts),
        headline=overview.headline(comparisons),
        parts=parts,
        searches=overview.lay_out_searches(facts),
        contents=overview.group_by_set(facts),
        sections=[Markup(section) for section in collected.sections],
        style=read_style(),
        script=Markup((_TEMPLATES / "page.js").read_text(encoding="utf-8")),
        plotly=Markup(get_plotlyjs()),
    )


def _attempt(make: Callable[[], list[_T]], problems: list[str]) -> list[_T]:
    """Make parts of the overview; leave them out, with a line, if the records do not allow them."""
    try:
        return make()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(
            "a part of the overview is left out: the records are not as expected "
            f"({type(error).__name__}: {error})"
        )
        return []


def _title(place: StudyPlace, count: int) -> str:
    return place.name if count == 1 else f"{count} studies"


def read_style() -> "Markup":
    """Return the style sheet of all pages."""
    from markupsafe import Markup

    return Markup((_TEMPLATES / "style.css").read_text(encoding="utf-8"))


def render(template: str, **content: Any) -> str:
    """Fill a template; values are escaped unless they are `Markup`."""
    return _environment().get_template(template).render(content)


@cache
def _environment() -> "jinja2.Environment":
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,  # names and reasons come from records, and may contain HTML
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["figure_json"] = lambda figure: Markup(figure_json(figure))
    return environment


def figure_json(figure: Figure) -> str:
    """Return what page.js draws, as JSON that is safe inside a script element."""
    layout = {**figure.layout, "height": figure.height}
    text = json.dumps(
        {"data": figure.data, "layout": layout}, separators=(",", ":"), allow_nan=False
    )
    return text.replace("<", "\\u003c")
