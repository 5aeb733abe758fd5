"""The page in a real browser: it follows the records by itself, on a desktop and on a phone."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.synthetic_records import write_studies
from tests.support.browser import DESKTOP, PHONE, complaints_of, open_browser, set_width
from tests.support.live_page import PageServer, launch_on, page_server, set_budget
from tests.support.report_records import EVIL
from tests.support.searches import draw_parameters, write_course, write_searched
from wpm.live_page.watcher import Watcher
from wpm.records import StudyPlace

pytestmark = pytest.mark.slow

PARAMETERS = draw_parameters(1)[0]
INTERVAL_S = 0.1


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with open_browser() as driver:
        yield driver


@pytest.fixture
def place(tmp_path: Path) -> StudyPlace:
    """A study at work, with a failure whose reason is HTML, beside one of the longest name."""
    place = write_searched(tmp_path / "runs", "triplet", 8, stopped=[1, 2], failed={3: EVIL})
    write_course(place, 8, PARAMETERS, 0.4, None, epochs=4)
    set_budget(place, 20)
    write_searched(tmp_path / "runs", "multi_similarity_miner+wpm", 4)
    return place


@pytest.fixture
def server(place: StudyPlace, tmp_path: Path) -> Iterator[PageServer]:
    watcher = Watcher(place.run_root, INTERVAL_S)
    with (
        launch_on(place, time.time() - 600),
        page_server(watcher, tmp_path) as running,
    ):
        watcher.start()
        yield running


def open_page(browser: Any, server: PageServer, width: int) -> None:
    set_width(browser, width)
    browser.get("about:blank")  # the page of the test before asks its server in vain
    complaints_of(browser)
    browser.get(f"http://127.0.0.1:{server.port}/")
    wait_for(lambda: "running" in text_of(browser, "#headline"))


def text_of(browser: Any, selector: str) -> str:
    text: str = browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])].map((e) => e.innerText).join('\\n')",
        selector,
    )
    return text


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)


@pytest.mark.parametrize("width", [DESKTOP, PHONE])
def test_first_lines_say_whether_it_goes_well_and_what_is_best(
    browser: Any, server: PageServer, width: int
) -> None:
    open_page(browser, server, width)
    assert text_of(browser, "#headline") == "1 of 2 studies running, 1 training at work"
    assert "omniglot/small/triplet: 1 trial failed" in text_of(browser, "#concerns")
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#groups tbody tr')].map((row) => row.innerText)"
    )
    assert len(rows) == 2
    top = browser.execute_script("return document.getElementById('best').offsetTop")
    assert top < 400, "without scrolling, on a phone too"
    assert complaints_of(browser) == []


def test_page_follows_the_records_by_itself(
    browser: Any, server: PageServer, place: StudyPlace
) -> None:
    open_page(browser, server, DESKTOP)
    assert "epoch 4 of at most 20" in text_of(browser, ".trainings")
    browser.execute_script("window.isSame = true")
    write_course(place, 8, PARAMETERS, 0.4, None, epochs=5)
    wait_for(lambda: "epoch 5 of at most 20" in text_of(browser, ".trainings"))
    write_course(place, 8, PARAMETERS, 0.987, epochs=6)
    wait_for(lambda: text_of(browser, "#groups tr.first td.score") == "98.70")
    wait_for(lambda: text_of(browser, "#studies .trainings") == "")
    write_searched(place.run_root, "margin", 3)
    wait_for(lambda: "margin" in text_of(browser, "#groups td.row"))
    assert browser.execute_script("return window.isSame"), "it was not loaded again"
    assert complaints_of(browser) == []


def test_curves_and_course_are_drawn(browser: Any, server: PageServer) -> None:
    open_page(browser, server, DESKTOP)
    drawn = browser.execute_script(
        """const study = document.getElementById("omniglot/small/triplet");
           const count = (selector) => study.querySelectorAll(selector).length;
           const curve = study.querySelector("figure .curve").points.length;
           return [count(".columns svg circle.c"), count(".columns svg path.s"),
                   count(".columns svg path.f"), count(".columns svg polyline.best"), curve];"""
    )
    assert drawn == [5, 2, 1, 1, 4]


def test_text_of_records_is_no_html(browser: Any, server: PageServer) -> None:
    open_page(browser, server, DESKTOP)
    assert EVIL in text_of(browser, ".failure")
    assert browser.execute_script("return document.querySelectorAll('.failure script').length") == 0


def test_nothing_is_wider_than_a_phone(browser: Any, server: PageServer) -> None:
    open_page(browser, server, PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach((d) => (d.open = true))")
    wait_for(lambda: browser.execute_script("return document.querySelectorAll('svg').length") > 2)
    sizes = browser.execute_script(
        "return [document.documentElement.scrollWidth, document.body.scrollWidth, innerWidth]"
    )
    assert sizes == [PHONE] * 3
    assert browser.execute_script(
        """return [...document.querySelectorAll("body *")].filter((element) =>
             element.getBoundingClientRect().right > innerWidth + 1).map((e) => e.outerHTML)"""
    ) == []  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readers_setting_decides_between_light_and_dark(
    browser: Any, server: PageServer, scheme: str
) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    open_page(browser, server, DESKTOP)
    red = "return Number(getComputedStyle(document.body)[arguments[0]].match(/\\d+/)[0])"
    paper, ink = (browser.execute_script(red, name) for name in ("backgroundColor", "color"))
    assert (paper > 200 > 100 > ink) if scheme == "light" else (ink > 200 > 100 > paper)


def test_server_that_ends_is_named_and_the_page_stays(
    browser: Any, place: StudyPlace, tmp_path: Path
) -> None:
    watcher = Watcher(place.run_root, INTERVAL_S)
    with launch_on(place, time.time()), page_server(watcher, tmp_path) as running:
        watcher.start()
        open_page(browser, running, DESKTOP)
    wait_for(lambda: "no answer from launch.py --serve" in text_of(browser, "#age"))
    assert "1 of 2 studies running" in text_of(browser, "#headline")


def test_page_needs_no_more_memory_after_hundreds_of_updates(
    browser: Any, server: PageServer, place: StudyPlace
) -> None:
    open_page(browser, server, DESKTOP)

    def update(epochs: int) -> None:
        write_course(place, 8, PARAMETERS, 0.4, None, epochs=epochs)
        wait_for(lambda: f"epoch {epochs} of at most 20" in text_of(browser, ".trainings"))

    def measure() -> tuple[int, float]:
        for _ in range(3):
            browser.execute_cdp_cmd("HeapProfiler.collectGarbage", {})
        nodes: int = browser.execute_cdp_cmd("Memory.getDOMCounters", {})["nodes"]
        used: float = browser.execute_cdp_cmd("Runtime.getHeapUsage", {})["usedSize"]
        return nodes, used / 2**20

    for epochs in range(1, 21):
        update(epochs)
    before = measure()
    for number in range(200):
        update(19 + number % 2)
    after = measure()
    assert after[0] < before[0] * 1.2
    assert after[1] < before[1] + 0.5, "MiB"


def test_full_report_draws_its_figures_under_the_servers_policy(
    browser: Any, place: StudyPlace, tmp_path: Path
) -> None:
    command = (sys.executable, "-m", "analysis.report", "--run-root", str(place.run_root), "--out")
    watcher = Watcher(place.run_root)
    watcher.refresh()
    set_width(browser, DESKTOP)
    with page_server(watcher, tmp_path, command) as running:
        browser.get("about:blank")
        complaints_of(browser)
        browser.get(f"http://127.0.0.1:{running.port}/report")
        figures = "return document.querySelectorAll('figure.plot svg.main-svg').length"
        wait_for(lambda: browser.execute_script(figures) > 0)
        assert complaints_of(browser) == []


def test_ten_thousand_trials_are_shown(browser: Any, tmp_path: Path) -> None:
    write_studies(tmp_path / "runs", studies=100, trials=100)
    watcher = Watcher(tmp_path / "runs")
    watcher.refresh()
    with page_server(watcher, tmp_path) as running:
        for width in (DESKTOP, PHONE):
            set_width(browser, width)
            start = time.monotonic()
            browser.get(f"http://127.0.0.1:{running.port}/")
            wait_for(lambda: text_of(browser, "#groups").count("100/100") == 100)
            print(f"{width} px: shown after {time.monotonic() - start:.2f} s")
            assert browser.execute_script("return document.body.scrollWidth <= innerWidth")
