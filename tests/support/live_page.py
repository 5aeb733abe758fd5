"""Studies that a launch seems to work on, and a server of the page, for its tests."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path

from tests.support.searches import write_searched
from wpm.files import hold_lock
from wpm.live_page.app import build_app
from wpm.live_page.reports import ReportMaker
from wpm.live_page.server import make_server, open_port
from wpm.live_page.watcher import Watcher
from wpm.records import StudyPlace, TrainingFolder, read_study, write_study

HOST = "127.0.0.1"
ROOT = Path(__file__).resolve().parents[2]


def set_budget(place: StudyPlace, trials: int) -> None:
    """Give a study another number of trials."""
    study = read_study(place)
    assert study is not None
    study.pop("format")
    write_study(place, {**study, "trials": trials})


def write_unfinished(root: Path, row: str = "contrastive", budget: int = 10) -> StudyPlace:
    """Write a study of which six trials have ended, one of them failed and one was stopped."""
    place = write_searched(
        root, row, 6, lambda p: 0.3 + 0.1 * p["margin"], stopped=[2], failed={4: "it failed"}
    )
    set_budget(place, budget)
    return place


@contextmanager
def launch_on(place: StudyPlace, begun_at: float) -> Iterator[None]:
    """Hold the lock of a study, as a launch does that began at this time."""
    with hold_lock(place.lock, wait_s=0, what="the study"):
        os.utime(place.lock, (begun_at, begun_at))
        yield


def end_trial_at(place: StudyPlace, number: int, ended: str) -> None:
    """Change when a trial ended."""
    folder = TrainingFolder(place.trial_folder(number))
    result = folder.read_result()
    assert result is not None
    folder.write_result(type(result)(**{**vars(result), "ended": ended}))


class PageServer:
    """A running server of the page; `port` is where."""

    def __init__(self, watcher: Watcher, port: int) -> None:
        self.watcher, self.port = watcher, port

    def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[HTTPResponse, str]:
        """Return the answer to a request, whose path is sent as it is, and the answer's text."""
        connection = HTTPConnection(HOST, self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        sent = {"host": f"{HOST}:{self.port}", **headers}
        for name, value in sent.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer, text


@contextmanager
def page_server(
    watcher: Watcher, folder: Path, command: tuple[str, ...] = ("false",)
) -> Iterator[PageServer]:
    """Serve the page from a thread of this process.

    Args:
        watcher: call its `start` or `refresh`; it is stopped with the server.
        folder: for reports.
        command: makes a report, in the folder of the repository; the file to write is added to it.
    """
    maker = ReportMaker(lambda place, path: [*command, str(path)], folder, ROOT)
    server = make_server(build_app(watcher, maker))
    with open_port(0) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield PageServer(watcher, listener.getsockname()[1])
        finally:
            watcher.stop()
            server.should_exit = True
            thread.join(30)
