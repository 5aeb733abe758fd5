"""A real browser without a window, for the tests of pages; they are skipped where there is none."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
PHONE, DESKTOP = 375, 1280
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
SERIOUS = ("SEVERE", "WARNING")


@contextmanager
def open_browser() -> Iterator[Any]:
    """Start Chromium; yield its selenium driver."""
    if CHROMIUM is None or DRIVER is None:
        pytest.skip("no chromium with chromedriver on this machine: the page cannot be opened")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.chrome.service.Service(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_script_timeout(120)
    try:
        yield driver
    finally:
        driver.quit()


def set_width(browser: Any, width: int) -> None:
    """Give the page the width of a screen, in CSS pixels; a narrow one is a phone's."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def complaints_of(browser: Any) -> list[str]:
    """Return the warnings and errors on the browser's console since the last call."""
    return [line["message"] for line in browser.get_log("browser") if line["level"] in SERIOUS]
