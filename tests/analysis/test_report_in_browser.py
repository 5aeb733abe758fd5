"""The report in a real browser: figures are drawn, tables sort, nothing is wider than a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from analysis.report import main
from tests.support.browser import DESKTOP, PHONE, complaints_of, open_browser, set_width
from tests.support.report_records import write_report_records

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("browser")
    write_report_records(root)
    where = ["--run-root", str(root / "runs"), "--embeddings", str(root / "embeddings")]
    assert main([*where, "--out", str(root / "report.html")]) == 0
    return root / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


def open_page(browser: Any, page: Path, width: int) -> None:
    set_width(browser, width)
    browser.get(page.as_uri())


def scroll_through(browser: Any) -> None:
    """Bring every figure into view, as a reader does, and wait until it is drawn."""
    browser.execute_async_script(
        """
        const done = arguments[arguments.length - 1];
        document.querySelectorAll("details").forEach((d) => (d.open = true));
        const figures = [...document.querySelectorAll("figure.plot")];
        const step = () => {
          const waiting = figures.find((f) => !f.querySelector("svg.main-svg"));
          if (!waiting) return done();
          waiting.scrollIntoView();
          setTimeout(step, 50);
        };
        step();
        """
    )


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_every_plot_is_drawn_and_the_console_is_silent(
    browser: Any, page: Path, width: int
) -> None:
    open_page(browser, page, width)
    scroll_through(browser)
    figures = browser.execute_script("return document.querySelectorAll('figure.plot').length")
    drawn = browser.execute_script(
        """return [...document.querySelectorAll('figure.plot .canvas')].filter((canvas) =>
             canvas.querySelectorAll('svg.main-svg .mlayer path').length
           ).length"""
    )
    assert figures > 20
    assert drawn == figures
    assert browser.execute_script("return document.querySelectorAll('canvas').length") == 0
    assert complaints_of(browser) == []


def test_nothing_is_wider_than_a_phone(browser: Any, page: Path) -> None:
    open_page(browser, page, PHONE)
    scroll_through(browser)
    sizes = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert sizes == [PHONE] * 3
    wide = browser.execute_script(
        f"""return [...document.querySelectorAll('svg.main-svg')].filter(
              (svg) => svg.getBoundingClientRect().right > {PHONE}).length"""
    )
    assert wide == 0


def column(browser: Any, table: int, position: int) -> list[str]:
    cells: list[str] = browser.execute_script(
        """const rows = document.querySelectorAll('table')[arguments[0]].tBodies[0].rows;
           return [...rows].map((row) => row.cells[arguments[1]].textContent.trim())""",
        table,
        position,
    )
    return cells


def test_tables_sort_by_their_headings(browser: Any, page: Path) -> None:
    open_page(browser, page, DESKTOP)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    headings: list[list[str]] = browser.execute_script(
        """return [...document.querySelectorAll('table')].map((table) =>
             [...table.tHead.rows[0].cells].map((cell) => cell.textContent.trim()))"""
    )
    trials = next(i for i, names in enumerate(headings) if names[:2] == ["rank", "trial"])
    score = headings[trials].index("MAP@R %")
    cells = browser.find_elements("css selector", "table")[trials].find_elements(
        "css selector", "th"
    )
    buttons = [cell.find_element("css selector", "button") for cell in cells]
    number, words = (headings[trials].index(name) for name in ("trial", "state"))
    for direction, clicks in (("ascending", 1), ("descending", 2)):
        buttons[number].click()
        assert "-" in column(browser, trials, score)[1:-1]  # the failed trial, between others
        for _ in range(clicks):
            buttons[score].click()
        assert cells[score].get_attribute("aria-sort") == direction
        found = column(browser, trials, score)
        numbers = [float(cell) for cell in found if cell != "-"]
        assert numbers == sorted(numbers, reverse=direction == "descending")
        assert found[len(numbers) :] == ["-"]  # last both times
    buttons[words].click()
    assert column(browser, trials, words) == sorted(column(browser, trials, words))


def test_text_in_plots_can_be_selected(browser: Any, page: Path) -> None:
    open_page(browser, page, DESKTOP)
    scroll_through(browser)
    selected = browser.execute_script(
        """const canvas = document.querySelector('details.study figure.plot .canvas');
           getSelection().selectAllChildren(canvas); return getSelection().toString();"""
    )
    assert "trials started" in selected
    assert "best so far" in selected


def test_link_opens_its_study(browser: Any, page: Path) -> None:
    open_page(browser, page, DESKTOP)
    browser.find_element("id", "close-all").click()
    assert browser.execute_script("return document.querySelector('details.study').open") is False
    browser.find_element("css selector", "nav span a").click()
    is_open = "return document.querySelector('details.study').open"
    for _ in range(100):
        if browser.execute_script(is_open):
            return
    raise AssertionError("the study stays closed")


def test_printing_draws_what_nobody_scrolled_to(browser: Any, page: Path) -> None:
    open_page(browser, page, DESKTOP)
    settings = {"paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": True}
    browser.execute_cdp_cmd("Page.printToPDF", settings)
    missing = browser.execute_script(
        """return [...document.querySelectorAll('figure.plot')].filter(
             (f) => f.offsetParent && !f.querySelector('svg.main-svg')).length"""
    )
    assert missing == 0
