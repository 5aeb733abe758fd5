"""The watchdog lets slow work continue, and ends a process that hangs."""

import subprocess
import sys
import time

import pytest

from wpm.cluster.watchdog import Watchdog


def test_limit_is_a_multiple_of_the_longest_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("wpm.cluster.watchdog.time.monotonic", lambda: now)
    watchdog = Watchdog(first_s=3600, floor_s=300, multiple=20)
    assert watchdog.limit_s == 3600
    with watchdog.watch():
        now += 2
    assert watchdog.limit_s == 300, "the floor"
    with watchdog.watch():
        now += 50
    assert watchdog.limit_s == 1000
    with watchdog.watch():
        now += 1
    assert watchdog.limit_s == 1000, "the longest counts"


def run(code: str) -> tuple[subprocess.CompletedProcess[str], float]:
    start = time.monotonic()
    answer = subprocess.run(
        [sys.executable, "-c", f"from wpm.cluster.watchdog import Watchdog\nimport time\n{code}"],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return answer, time.monotonic() - start


def test_step_that_hangs_ends_its_process_and_shows_where() -> None:
    code = (
        "def stuck():\n    time.sleep(50)\n"
        "with Watchdog(first_s=0.3).watch():\n    stuck()\nprint('never')\n"
    )
    answer, seconds = run(code)
    assert answer.returncode == 1
    assert "in stuck" in answer.stderr
    assert "never" not in answer.stdout
    assert seconds < 40


def test_step_that_ends_in_time_is_not_touched_even_if_it_fails() -> None:
    code = (
        "dog = Watchdog(first_s=0.5, floor_s=0.5)\n"
        "try:\n    with dog.watch():\n        raise OSError\nexcept OSError:\n    pass\n"
        "time.sleep(1)\nprint('alive')\n"
    )
    answer, _ = run(code)
    assert (answer.returncode, answer.stdout) == (0, "alive\n")
