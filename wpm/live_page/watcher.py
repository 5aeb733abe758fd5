"""Look at the run folder every few seconds while somebody has the page open."""

import json
import logging
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

from wpm.live_page.page_data import describe_overall, describe_study
from wpm.live_page.study import StudyReader
from wpm.live_page.study_view import StudyView
from wpm.records import StudyPlace, find_studies, is_running

INTERVAL_S = 2.0
_SHARE = 0.1  # looking takes at most this share of the time
_IDLE_S = 60.0  # without a page that asks for this long, nobody looks


class Watcher:
    """Keeps the state of all studies, and knows what a page has not seen yet."""

    def __init__(
        self, run_root: Path, interval_s: float = INTERVAL_S, clock: Callable[[], float] = time.time
    ) -> None:
        """Know nothing yet; `refresh` looks once, `start` looks again and again.

        Args:
            run_root: folder of the records.
            interval_s: seconds from one look to the next.
            clock: returns the seconds since 1970.
        """
        self._run_root, self._interval_s, self._clock = run_root, interval_s, clock
        self._lock = threading.Lock()  # of everything that a page is given
        # A page may still hold a version of an earlier server: this says whose version it is.
        self._server = f"{time.time_ns():x}"
        self._numbers = count(1)
        self._readers: dict[StudyPlace, StudyReader] = {}
        self._studies: dict[str, tuple[int, str]] = {}  # version and JSON by name
        self._overall = "{}"
        self._version = 0
        self._progress: tuple[int, int] | None = (0, 0)
        self._fault = ""
        self._looked_at = 0.0
        self._asked, self._stopped = threading.Event(), threading.Event()
        self._asked_at = time.monotonic()

    def start(self) -> None:
        """Begin to look, in a thread that ends with `stop`, or with the process."""
        threading.Thread(target=self._look_on, name="watcher", daemon=True).start()

    def stop(self) -> None:
        """Look no more."""
        self._stopped.set()
        self._asked.set()

    def _look_on(self) -> None:
        while not self._stopped.is_set():
            start = time.monotonic()
            self.refresh()
            took = time.monotonic() - start
            self._stopped.wait(max(self._interval_s, took / _SHARE))
            self._asked.clear()
            if time.monotonic() - self._asked_at > _IDLE_S and not self._stopped.is_set():
                self._asked.wait()

    def refresh(self) -> None:
        """Look at all studies once; what is wrong with the folder is shown on the page."""
        try:
            self._refresh()
            fault = ""
        except OSError as error:
            fault = f"{self._run_root}: cannot be read ({error})"
        except Exception as error:
            # The page must not stand still and look as if nothing were new.
            logging.getLogger(__name__).exception("cannot read the records")
            fault = f"a fault of this program, see its terminal ({type(error).__name__}: {error})"
        with self._lock:
            self._fault = fault

    def _refresh(self) -> None:
        if not self._run_root.is_dir():
            raise FileNotFoundError("there is no such folder now")
        places = find_studies(self._run_root)
        self._forget_others(places)
        is_first = self._progress is not None
        if is_first:  # show first what runs, the rest may take seconds
            places.sort(key=lambda place: not is_running(place))
        views: list[StudyView] = []
        for done, place in enumerate(places):
            if is_first:
                self._progress = (done, len(places))
            reader = self._readers.setdefault(place, StudyReader(place))
            views.append(reader.read())
            self._publish(place.name, _write(describe_study(views[-1], self._clock())))
        now = self._clock()
        views.sort(key=lambda view: view.place.name)
        overall = _write(describe_overall(views, now))
        with self._lock:
            self._progress, self._overall, self._looked_at = None, overall, now

    def _forget_others(self, places: list[StudyPlace]) -> None:
        for place in self._readers.keys() - set(places):
            del self._readers[place]
            with self._lock:
                del self._studies[place.name]

    def _publish(self, name: str, text: str) -> None:
        with self._lock:
            if name not in self._studies or self._studies[name][1] != text:
                self._version = next(self._numbers)
                self._studies[name] = self._version, text

    def find_place(self, name: str) -> StudyPlace | None:
        """Return the study of a name, None where there is none."""
        return next((place for place in list(self._readers) if place.name == name), None)

    def version_of(self, name: str | None) -> int:
        """Return a number that changes with what is shown of a study, or of any."""
        with self._lock:
            return self._version if name is None else self._studies.get(name, (0, ""))[0]

    def changes_since(self, token: str) -> str:
        """Return as JSON what a page needs to show the state of now.

        Args:
            token: "token" of the last answer that the page got; "" for a new page, which gets all.
        """
        self._asked_at = time.monotonic()
        self._asked.set()
        server, _, number = token.partition(".")
        is_ours = server == self._server and number.isdecimal() and len(number) < 20
        seen = int(number) if is_ours else 0
        with self._lock:
            changed = [text for version, text in self._studies.values() if version > seen]
            head = {
                "token": f"{self._server}.{self._version}",
                "run_root": str(self._run_root),
                "now": self._clock(),
                "looked_at": self._looked_at,
                "interval_s": self._interval_s,
                "progress": self._progress,
                "fault": self._fault,
                "names": sorted(self._studies),
            }
            return (
                f'{_write(head)[:-1]},"overall":{self._overall},"changed":[{",".join(changed)}]}}'
            )


def _write(content: Any) -> str:
    return json.dumps(content, separators=(",", ":"), allow_nan=False)
